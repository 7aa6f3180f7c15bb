"""What a shell offers while a command line is written: ids, settings, checks.

Nothing that goes wrong is told, nothing is made, and the shell does not wait for long.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import click

LONGEST_SECONDS = 1.0
"""What is not known by then is not offered."""

MOST_ENTRIES = 50_000
"""The most entries of the last hour that are read for ids."""

MOST_OFFERED = 200

HOUR = 3600


def ids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Those in limits_by_id, with an override, and of the last hour, that begin with ``incomplete``."""
    return _offered(_path(context), incomplete, only_overrides=False)


def overridden_ids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Likewise, those with an override."""
    return _offered(_path(context), incomplete, only_overrides=True)


def settings(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of settings."""
    from policyd_rate_limit.config.schema import SETTINGS

    return [name for name in SETTINGS if name.startswith(incomplete)]


def checks(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of what doctor looks at."""
    from policyd_rate_limit.doctor.finding import CHECKS

    return [name for name in CHECKS if name.startswith(incomplete)]


def _path(context: click.Context) -> Path | None:
    """What -f names."""
    path = context.find_root().params.get("path")
    return None if path is None else Path(path)


def _offered(path: Path | None, incomplete: str, *, only_overrides: bool) -> list[str]:
    logging.disable()  # whatever is wrong with the configuration is told by commands
    found: dict[str, None] = {}

    def gather() -> None:
        try:
            for key in _keys(path, only_overrides=only_overrides):
                name = key if incomplete.partition(":")[0] in ("user", "sender", "client") else key.partition(":")[2]
                if name.startswith(incomplete) and name.isprintable() and len(found) < MOST_OFFERED:
                    found[name] = None
        except Exception:  # noqa: BLE001, S110 - a shell that asks has no use for errors
            pass

    thread = threading.Thread(target=gather, daemon=True)
    thread.start()
    thread.join(LONGEST_SECONDS)
    offered = list(found)  # at once, since the thread may still be at it
    offered.sort()
    return offered


def _keys(path: Path | None, *, only_overrides: bool) -> Iterator[str]:
    from policyd_rate_limit import config
    from policyd_rate_limit.admin.opening import open_desk
    from policyd_rate_limit.backends import backend_of

    found = config.load(path).settings
    if not backend_of(found).is_made:
        return
    with open_desk(found) as desk:
        yield from desk.overrides()
        if not only_overrides:
            yield from desk.subjects.named_keys()
            entries = desk.store.entries(None, max(0, desk.store.now() - HOUR))
            for entry in itertools.islice(entries, MOST_ENTRIES):
                yield entry.counter
