"""A kind of values that a setting may have: what it expects, and how it reads what a file holds.

A kind stands in the declaration of a setting: ``setting(whole(1, 128), 64, ...)``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Place = tuple[object, ...]
"""Where a value stands inside a setting: keys of mappings and indices of lists."""


class Fault(NamedTuple):
    """``value``, at ``place`` in a setting, is not what was ``expected``: None for what the kind expects."""

    value: object
    expected: str | None = None
    place: Place = ()


class Wrong(ValueError):
    """A value is not what its setting expects, in one or several places. It never leaves this room."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("; ".join(f"expected {fault.expected or 'another value'}" for fault in faults))

    def inside(self, key: object) -> Wrong:
        """The same, of a value that is the item ``key`` of another."""
        return Wrong(*(fault._replace(place=(key, *fault.place)) for fault in self.faults))


@dataclass(frozen=True)
class Kind:
    """What a setting expects, and how it is read from what a file holds.

    ``read`` raises :class:`Wrong`.
    """

    expected: str
    read: Callable[[Any], Any]


def unset_or(kind: Kind) -> Kind:
    """The same kind, or nothing at all."""

    def read(value: object) -> object:
        return None if value is None else kind.read(value)

    return Kind(kind.expected, read)


def whole(low: int, high: int) -> Kind:
    """A whole number from ``low`` to ``high``."""

    def read(value: object) -> int:
        number = as_whole(value)
        if not low <= number <= high:
            raise Wrong(Fault(value))
        return number

    return Kind(f"a whole number from {low} to {high}", read)


def seconds(above: int, high: int) -> Kind:
    """A time of more than ``above`` and at most ``high`` seconds."""

    def read(value: object) -> int | float:
        number = value if isinstance(value, float) else as_whole(value)
        if not (math.isfinite(number) and above < number <= high):
            raise Wrong(Fault(value))
        return number

    return Kind(f"a number of seconds above {above} and up to {high}", read)


def choice(expected: str, names: dict[str, int | str]) -> Kind:
    """One of several values, by value or by name, in upper or lower case."""

    def read(value: object) -> int | str:
        if isinstance(value, int | str) and not isinstance(value, bool):
            for name, meant in names.items():
                if str(value).lower() in (name, str(meant)):
                    return meant
        raise Wrong(Fault(value))

    return Kind(expected, read)


def options(expected: str, **checks: Callable[[object], bool]) -> Kind:
    """Keyword arguments of a database driver, passed on as they are but for those in ``checks``."""

    def read(value: object) -> dict[str, object]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Wrong(Fault(value))
        for key, check in checks.items():
            if not check(value.get(key)):
                raise Wrong(Fault(value.get(key), expected, (key,)))
        return value

    return Kind(expected, read)


def is_text(value: object) -> bool:
    """Whether ``value`` is text that says something."""
    return isinstance(value, str) and bool(value.strip())


def as_whole(value: object) -> int:
    """A whole number, or the digits of one; True and False are none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    raise Wrong(Fault(value))
