"""Values of settings as text of JSON, and back with the same types: what comes from another process can run no code."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.config.rules import RuleSettings
from policyd_rate_limit.config.tables import TableSettings
from policyd_rate_limit.domain.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_DIGITS = 1 << 63  # of an integer in decimal digits; Python refuses some thousand of them


def to_text(value: object) -> str:
    """``value`` on one line of ASCII. Raises TypeError where it holds what no file of settings can."""
    return json.dumps(_tagged(value), separators=(",", ":"))


def from_text(text: str | bytes) -> Any:
    """What :func:`to_text` has written. Raises ValueError where it is something else."""
    return json.loads(text, object_pairs_hook=_untagged)


def _tagged(value: object) -> object:
    """``value`` in what JSON has; anything else is an object with one member, which names the type."""
    match value:
        case None | bool() | float():
            return value
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, which JSON might join with another
                return {"text": b64encode(value.encode("utf-8", "surrogatepass")).decode()}
            return value
        case int():
            return value if abs(value) < _MOST_DIGITS else {"integer": f"{value:x}"}
        case bytes():
            return {"bytes": b64encode(value).decode()}
        case list():
            return [_tagged(one) for one in value]
        case Limit():
            return {"limit": [value.maximum, value.seconds]}
        case TableSettings():
            return {"table": [_tagged(one) for one in value]}
        case RuleSettings():
            return {"rule": [_tagged(one) for one in value]}
        case tuple():
            return {"tuple": [_tagged(one) for one in value]}
        case set() | frozenset():
            return {type(value).__name__: [_tagged(one) for one in value]}
        case dict():
            return {"mapping": [[_tagged(key), _tagged(one)] for key, one in value.items()]}
        case datetime():
            return {"datetime": value.isoformat()}
        case date():
            return {"date": value.isoformat()}
    raise TypeError(f"no file of settings holds {type(value).__name__}")


_TYPES: dict[str, Callable[[Any], Any]] = {
    "text": lambda encoded: b64decode(encoded).decode("utf-8", "surrogatepass"),
    "integer": lambda digits: int(digits, 16),
    "bytes": b64decode,
    "limit": lambda pair: Limit(*pair),
    "rule": lambda values: RuleSettings(*values),
    "table": lambda values: TableSettings(*values),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "mapping": dict,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
}


def _untagged(members: list[tuple[str, Any]]) -> Any:
    try:
        [(name, content)] = members
        return _TYPES[name](content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a value of a setting: {error}") from error
