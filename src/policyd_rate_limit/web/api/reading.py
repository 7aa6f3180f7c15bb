"""What a request to the API says: its parameters, each as its field reads it, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

from policyd_rate_limit.web.api.fields import Contradiction, WrongValue
from policyd_rate_limit.web.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from policyd_rate_limit.web.api.fields import Field


def read_path(request: Request, fields: Sequence[Field]) -> dict[str, object]:
    """The parameters in the path. Raises Problem."""
    return {field.name: _read(field, request.path_params[field.name], is_text=True) for field in fields}


def read_query(request: Request, fields: Sequence[Field]) -> dict[str, object]:
    """Those in the query. Raises Problem."""
    given = request.query_params
    unknown = given.keys() - {field.name for field in fields}
    if unknown:
        raise Problem(422, "there is no such parameter", min(unknown))
    found: dict[str, object] = {}
    for field in fields:
        values = given.getlist(field.name)
        if len(values) > 1:
            raise Problem(422, "expected once", field.name)
        if not values and field.required:
            raise Problem(422, "expected, and is not there", field.name)
        found[field.name] = _read(field, values[0], is_text=True) if values else field.default
    return found


async def read_body(request: Request, fields: Sequence[Field]) -> dict[str, object]:
    """Those in the body, one JSON object. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "expected application/json")
    try:
        whole = json.loads(await request.body(), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"expected JSON (RFC 8259): {error}") from error
    if not isinstance(whole, dict):
        raise Problem(422, "expected one JSON object")
    unknown = whole.keys() - {field.name for field in fields}
    if unknown:
        raise Problem(422, "there is no such member", min(unknown)[:100])
    found: dict[str, object] = {}
    for field in fields:
        if field.name not in whole:
            if field.required:
                raise Problem(422, "expected, and is not there", field.name)
            found[field.name] = field.default
        else:
            found[field.name] = _read(field, whole[field.name], is_text=False)
    return found


def _read(field: Field, value: object, *, is_text: bool) -> object:
    try:
        return field.read_text(value) if is_text and isinstance(value, str) else field.read(value)
    except Contradiction as error:
        raise Problem(409, str(error), field.name) from error
    except WrongValue as error:
        raise Problem(422, str(error), field.name) from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("each member once")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
