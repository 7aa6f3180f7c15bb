"""Parameters of the API: each says in JSON Schema what it may be, and reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from policyd_rate_limit.domain.limits import LARGEST, MOST_LIMITS, Limits, LimitsError, parse_limits

Schema = dict[str, Any]


class WrongValue(ValueError):
    """A value is not what is expected; the message says what is."""


class Contradiction(WrongValue):
    """A value is as its schema says, and makes no sense all the same."""


class Field(NamedTuple):
    """A parameter. ``read`` makes of a JSON value what it stands for, and raises WrongValue.

    Without it the value is ``default``, unless it is ``required``.
    """

    name: str
    prose: str
    schema: Schema
    read: Callable[[object], object]
    required: bool = False
    default: object = None

    @property
    def described(self) -> Schema:
        """Its schema, with its default."""
        return self.schema if self.required or self.default is None else {**self.schema, "default": self.default}

    def read_text(self, text: str) -> object:
        """What ``text`` stands for, as a query or a path has it."""
        if self.schema["type"] != "integer":
            return self.read(text)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
            raise WrongValue("expected a whole number")
        return self.read(int(text))


def text(name: str, prose: str, *, longest: int, least: int = 0, required: bool = False) -> Field:
    """Text of ``least`` to ``longest`` characters."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not least <= len(value) <= longest:
            raise WrongValue(f"expected text of {least} to {longest} characters")
        if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
            raise WrongValue("expected text, found half of a character (a lone surrogate)")
        return value

    schema = {"type": "string", "maxLength": longest, **({"minLength": least} if least else {})}
    return Field(name, prose, schema, read, required, None if required or least else "")


def whole(name: str, prose: str, low: int, high: int, *, default: int | None = None, required: bool = False) -> Field:
    """A whole number from ``low`` to ``high``."""

    def read(value: object) -> int:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise WrongValue(f"expected a whole number from {low} to {high}")
        return number

    return Field(name, prose, {"type": "integer", "minimum": low, "maximum": high}, read, required, default)


def choice(name: str, prose: str, values: tuple[str, ...], default: str) -> Field:
    """One of ``values``."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in values:
            raise WrongValue(f"expected one of {', '.join(values)}")
        return value

    return Field(name, prose, {"type": "string", "enum": list(values)}, read, False, default)


LIMITS_SCHEMA: Schema = {
    "type": "array",
    "maxItems": MOST_LIMITS,
    "items": {
        "type": "array",
        "prefixItems": [
            {"type": "integer", "minimum": 0, "maximum": LARGEST},
            {"type": "integer", "minimum": 1, "maximum": LARGEST},
        ],
        "items": {"type": "integer"},
        "minItems": 2,
        "maxItems": 2,
    },
    "examples": [[[100, 3600], [5000, 86400]]],
}


def limits(name: str, prose: str) -> Field:
    """Pairs of a maximum and seconds; none is no limit."""

    def read(value: object) -> Limits:
        pairs = isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(_is_whole(number) for number in pair) for pair in value
        )
        if not pairs:
            raise WrongValue("expected a list of [maximum, seconds], such as [[100, 3600]]; [] is no limit")
        assert isinstance(value, list)  # noqa: S101 - that was looked at
        try:
            return parse_limits([[int(number) for number in pair] for pair in value])
        except LimitsError as error:
            raise (Contradiction if _are_in_range(value) else WrongValue)(str(error)) from error

    return Field(name, prose, LIMITS_SCHEMA, read, required=True)


def _are_in_range(pairs: list[list[float]]) -> bool:
    """Whether ``pairs`` of whole numbers are as :data:`LIMITS_SCHEMA` has them."""
    return len(pairs) <= MOST_LIMITS and all(
        0 <= maximum <= LARGEST and 1 <= seconds <= LARGEST for maximum, seconds in pairs
    )


def _is_whole(number: object) -> bool:
    if isinstance(number, float):
        return number.is_integer()
    return isinstance(number, int) and not isinstance(number, bool)
