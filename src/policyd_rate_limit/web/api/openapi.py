"""The description of the API: OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1, made of the table of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyd_rate_limit import __version__
from policyd_rate_limit.web.api.operations import OPERATIONS
from policyd_rate_limit.web.api.problems import MEDIA_TYPE
from policyd_rate_limit.web.api.schemas import COMPONENTS

if TYPE_CHECKING:
    from policyd_rate_limit.web.api.fields import Field
    from policyd_rate_limit.web.api.operations import Operation

PREFIX = "/api/v1"

_WRONG = {
    "400": "The request makes no sense, as it stands, or has a head that is too long.",
    "401": "There is no token, or none that is valid.",
    "403": "The token is of a role or of domains that may not do that.",
    "404": "No rule is keyed by such an id, or there is no such rule.",
    "409": "There are as many overrides as there may be, or two of the limits are of the same period; or others have "
    "changed what is set for this id at the same time.",
    "413": "The body is too long.",
    "415": "The body is no application/json.",
    "422": "A parameter is not what it should be; the member parameter names it.",
    "503": "The database is away, or is asked for too much at once.",
}


def document() -> dict[str, Any]:
    """The whole of it."""
    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "policyd-rate-limit",
            "version": __version__,
            "summary": "Who is limited, why, and what they sent; and other limits for a while.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": PREFIX}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by policyd-rate-limit web-token create.",
                }
            },
            "responses": {status: _problem(about) for status, about in _WRONG.items()},
        },
    }


def _operation(one: Operation) -> dict[str, Any]:
    wrong = {"400", "401", "403", "413", "422", "503"}
    if one.in_path or one.in_body:
        wrong.add("404")
    if one.in_body:
        wrong |= {"409", "415"}
    described: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": [
            *(_parameter(field, "path") for field in one.in_path),
            *(_parameter(field, "query") for field in one.in_query),
        ],
        "responses": {
            "200": {
                "description": "What was asked for.",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{one.answer}"}}},
            },
            **{status: {"$ref": f"#/components/responses/{status}"} for status in sorted(wrong)},
        },
    }
    if one.in_body:
        described["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": [field.name for field in one.in_body if field.required],
                        "properties": {
                            field.name: {**field.described, "description": field.prose} for field in one.in_body
                        },
                        "additionalProperties": False,
                    }
                }
            },
        }
    return described


def _parameter(field: Field, where: str) -> dict[str, Any]:
    return {
        "name": field.name,
        "in": where,
        "required": where == "path" or field.required,
        "description": field.prose,
        "schema": field.described,
    }


def _problem(about: str) -> dict[str, Any]:
    return {"description": about, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
