"""What a reload changes, and what it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.config.kinds import PERMISSION
from policyd_rate_limit.config.schema import SETTINGS

if TYPE_CHECKING:
    from policyd_rate_limit.config.schema import Settings
    from policyd_rate_limit.config.setting import Setting

LONGEST_SHOWN = 200
"""The most characters of a value in a warning."""


class Changes(NamedTuple):
    """``settings`` to go on with; ``changed``: the names of those that are others now.

    ``warnings``: each setting that is another in the file, and cannot change while the daemon runs.
    """

    settings: Settings
    changed: frozenset[str]
    warnings: tuple[str, ...]


def changes(running: Settings, read: Settings) -> Changes:
    """What comes of ``running`` when the file says ``read``."""
    differing = [name for name in SETTINGS if _differ(getattr(running, name), getattr(read, name))]
    fixed = [name for name in differing if not SETTINGS[name].reload]
    return Changes(
        read.with_values(**{name: getattr(running, name) for name in fixed}),
        frozenset(differing) - set(fixed),
        tuple(_warning(SETTINGS[name], getattr(running, name), getattr(read, name)) for name in fixed),
    )


def _differ(old: object, new: object) -> bool:
    """Whether two values differ; entry by entry, since whoever compares mappings at once lets nobody else run."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        return len(old) != len(new) or any(_differ(one, other) for one, other in zip(old, new, strict=True))
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return old != new
    return len(old) != len(new) or any(key not in new or new[key] != value for key, value in old.items())


def _warning(setting: Setting, old: object, new: object) -> str:
    if setting.secret:
        return (
            f"{setting.name}{_differing(old, new)} cannot change while the daemon runs; restart it to have it changed"
        )
    stays, waits = _shown(setting, old), _shown(setting, new)
    return f"{setting.name} cannot change while the daemon runs: it stays {stays}; restart it to have {waits}"


def _differing(old: object, new: object) -> str:
    """Which options differ, without their values."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return ""
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return f" ({', '.join(keys)})"


def _shown(setting: Setting, value: object) -> str:
    if value is None:
        return "unset"
    text = f"0{value:o}" if setting.kind is PERMISSION else repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
