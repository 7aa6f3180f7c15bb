"""The routes of the API, made of the table of operations; and what its errors are answered with."""

from __future__ import annotations

import json
import logging
from functools import cache, partial
from typing import TYPE_CHECKING

from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.routing import Route

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.admin.overrides import ChangedMeanwhile
from policyd_rate_limit.errors import StoreError, StoreFull
from policyd_rate_limit.web.api.openapi import PREFIX, document
from policyd_rate_limit.web.api.operations import OPERATIONS, Call
from policyd_rate_limit.web.api.problems import Problem, problem
from policyd_rate_limit.web.api.reading import read_body, read_path, read_query
from policyd_rate_limit.web.authority import Forbidden, Role
from policyd_rate_limit.web.desks import Busy
from policyd_rate_limit.web.site import site_of
from policyd_rate_limit.web.visitors import BadRequest, program_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from policyd_rate_limit.web.api.operations import Operation
    from policyd_rate_limit.web.visitors import Visitor

RETRY_SECONDS = 5


class _IdConvertor(Convertor[str]):
    """An id in a path, with whatever characters; Starlette's own ends at the end of a line."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _IdConvertor())

_logger = logging.getLogger(__name__)


async def _answer(operation: Operation, request: Request) -> Response:
    try:
        visitor = authenticated(request)
        _check_role(visitor, operation)
        given = {**read_path(request, operation.in_path), **read_query(request, operation.in_query)}
        if operation.in_body:
            given |= await read_body(request, operation.in_body)
        found = await operation.run(Call(site_of(request), visitor, given))
    except Problem as wrong:
        return wrong.response()
    except BadRequest as error:
        return problem(400, str(error))
    except NotAnId as error:
        return problem(404, str(error), "id")
    except Forbidden as error:
        return problem(403, str(error))
    except (StoreFull, ChangedMeanwhile) as error:
        return problem(409, str(error))
    except (Busy, StoreError) as error:
        return problem(503, str(error), headers={"retry-after": str(RETRY_SECONDS)})
    # In ASCII, since a name may hold what is no character.
    return Response(json.dumps(found), media_type="application/json")


def authenticated(request: Request) -> Visitor:
    """The program that sends ``request``. Raises Problem 401 (RFC 6750, section 3)."""
    visitor = program_of(request)
    if visitor is None:
        given = "authorization" in request.headers
        challenge = 'Bearer realm="policyd-rate-limit"' + (', error="invalid_token"' if given else "")
        raise Problem(401, "a token is needed that is valid", headers={"www-authenticate": challenge})
    return visitor


def _check_role(visitor: Visitor, operation: Operation) -> None:
    if visitor.authority.role is Role.DOVECOT or (operation.changes and not visitor.authority.may_change):
        raise Problem(403, "this token is of a role that may not do that")


@cache
def _written_document() -> str:
    return json.dumps(document(), indent=1)


async def _document(_: Request) -> Response:
    return Response(_written_document(), media_type="application/json")


def is_of_api(path: str) -> bool:
    """Whether ``path`` leads here, so that what is wrong is told to a program."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


ROUTES = [
    Route(f"{PREFIX}/openapi.json", _document, methods=["GET"]),
    *(
        Route(PREFIX + one.path.replace("{id}", "{id:id}"), partial(_answer, one), methods=[one.method])
        for one in OPERATIONS
    ),
]
