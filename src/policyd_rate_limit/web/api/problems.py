"""What programs are told when something is wrong: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A request that is answered with ``status``, and why: ``detail``. ``name``: of the parameter that is wrong."""

    def __init__(
        self, status: int, detail: str, name: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.detail = detail
        self.name = name
        self.headers = headers
        super().__init__(detail)

    def response(self) -> Response:
        """The answer."""
        return problem(self.status, self.detail, self.name, self.headers)


def problem(status: int, detail: str, name: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says so."""
    content: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if name is not None:
        content["parameter"] = name
    return Response(json.dumps(content), status, headers, MEDIA_TYPE)
