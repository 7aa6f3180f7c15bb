"""Shows a setting as ``--get-config`` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from policyd_rate_limit.config.rules import as_written
from policyd_rate_limit.config.schema import OLD_NAMES, SETTINGS
from policyd_rate_limit.config.tables import tables_as_written

if TYPE_CHECKING:
    from policyd_rate_limit.config.schema import Settings


def show(settings: Settings, name: str) -> str:
    """The value of a setting; dots reach into mappings, as in ``sqlite_config.database``.

    Raises KeyError when there is no such setting, or nothing of that name in it.
    """
    first, *rest = name.split(".")
    first = OLD_NAMES.get(first, first)
    if first not in SETTINGS:
        raise KeyError(name)
    value = getattr(settings, first)
    if first == "rules":
        value = as_written(settings.rules)
    if first == "tables":
        value = tables_as_written(settings.tables)
    if first != "SOCKET":  # which the old versions print as a tuple, and all the rest as lists
        value = _in_lists(value)
    while rest:
        # The longest key that fits: ids have dots.
        key = next((".".join(rest[:end]) for end in range(len(rest), 0, -1) if _has(value, rest[:end])), None)
        if key is None:
            raise KeyError(name)
        value = value[key]
        rest = rest[key.count(".") + 1 :]
    return str(value)


def _has(value: object, parts: list[str]) -> bool:
    return isinstance(value, Mapping) and ".".join(parts) in value


def _in_lists(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _in_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_lists(item) for item in value]
    return value
