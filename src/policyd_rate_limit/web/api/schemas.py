"""What the API answers, in JSON Schema: the objects of :mod:`policyd_rate_limit.admin.facts`."""

from __future__ import annotations

from typing import Any

from policyd_rate_limit.admin.buckets import STEPS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
DATE: Schema = {"type": "integer", "description": "Unix second, by the clock of the database."}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


LIMITS = _list({"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2})
_OF_KEY = {
    "key": TEXT,
    "rule": TEXT,
    "shadow": FLAG,
    "limits": _named("Limits"),
    "source": TEXT,
    "override": _or_null(_named("Override")),
    "windows": _list(_named("Window")),
    "free_in": _or_null(COUNT),
}
_OF_STRANGER = {"on_record": FLAG, "nearest": _list(TEXT)}
_OF_STORE = _object(
    place=TEXT,
    reachable=FLAG,
    error=_or_null(TEXT),
    time=_or_null(DATE),
    seconds=_or_null(COUNT),
    entries=_or_null(COUNT),
    ids=_or_null(COUNT),
)

COMPONENTS: dict[str, Schema] = {
    "Problem": _object(type=TEXT, title=TEXT, status=WHOLE, detail=TEXT),
    "Limits": {**LIMITS, "description": "[maximum, seconds] each; none: no limit; [0, 1]: nothing passes."},
    "Override": _object(key=TEXT, limits=_named("Limits"), until=DATE, note=TEXT),
    "Window": _object(maximum=COUNT, seconds=COUNT, used=COUNT, free_in=_or_null(COUNT)),
    "Standing": _object(**_OF_KEY, hits=_list(_object(seconds=WHOLE, hits=COUNT, last=_or_null(DATE)))),
    "Sender": _object(**_OF_KEY, mails=COUNT, share={"type": "number", "minimum": 0}),
    "Standings": _object(id=TEXT, time=DATE, keys=_list(_named("Standing")), **_OF_STRANGER),
    "Daemon": _object(
        host=TEXT,
        socket=TEXT,
        process=COUNT,
        version=TEXT,
        state={"type": "string", "enum": ["working", "silent", "cut off"]},
        since=DATE,
        heard=DATE,
        waiting=COUNT,
    ),
    "Overview": _object(
        daemon=_object(running=FLAG, process=_or_null(COUNT)),
        daemons=_or_null(_list(_named("Daemon"))),
        store=_OF_STORE,
        journals=_list(_object(path=TEXT, batches=COUNT, mails=WHOLE, error=_or_null(TEXT))),
        overrides=_or_null(_list(_named("Override"))),
        heaviest=_or_null(_list(_named("Sender"))),
    ),
    "Top": _object(time=DATE, window=COUNT, senders=_list(_named("Sender"))),
    "History": _object(
        id=TEXT,
        by={"type": "string", "enum": list(STEPS)},
        keys=_list(TEXT),
        buckets=_list(_object(begin=DATE, mails=WHOLE)),
        last=_list(_object(date=DATE, key=TEXT, mails=WHOLE, instance=_or_null(TEXT))),
    ),
    "Overridden": _object(id=TEXT, time=DATE, overrides=_list(_named("Override")), **_OF_STRANGER),
    "Audit": _object(
        entries=_list(
            _object(
                number=COUNT,
                date=DATE,
                who=TEXT,
                from_where=TEXT,
                action=TEXT,
                subject=TEXT,
                detail=TEXT,
                note=TEXT,
            )
        )
    ),
    "Revoked": _object(id=TEXT, revoked=_list(TEXT)),
    "Reset": _object(id=TEXT, reset=_list(_object(key=TEXT, mails=COUNT))),
}
"""By name. Members may be added in later versions; none is renamed or removed."""
