"""Reloading the configuration while the daemon serves: SIGHUP.

A reload is a transaction. Whatever may fail is done before anything is changed: a file with a mistake in it changes
nothing, and neither does one that cannot be read, or a driver that is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from policyd_rate_limit import config
from policyd_rate_limit.config.changes import Changes, changes
from policyd_rate_limit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.system.service_manager import Supervision

_logger = logging.getLogger(__name__)


class Reconfigured(Protocol):
    """A part of the daemon to which new settings are no more than values."""

    def reconfigure(self, settings: Settings) -> None:
        """Go on with ``settings``, from the next request on. Does not fail."""


class Prepared(Protocol):
    """A part of the daemon that needs something before it can go on with new settings."""

    def prepare(self, change: Changes, undo: contextlib.ExitStack) -> Callable[[], None]:
        """Make what is needed, and change nothing of what is in force; in a thread, where it may block.

        ``undo`` lets go of it, should another part fail to prepare. What is returned puts it into force: in the event
        loop, between two requests, and it does not fail.

        :raises Exception: the configuration is to stay as it is.
        """


def all_or_none(
    prepared: Iterable[Prepared], reconfigured: Iterable[Reconfigured], change: Changes
) -> Callable[[], None]:
    """Prepare what has to be prepared for ``change``; what is returned puts it into force, in the order of the parts.

    :raises Exception: one of them cannot, and nothing is left of what the others have made.
    """
    with contextlib.ExitStack() as undo:
        steps = [part.prepare(change, undo) for part in prepared]
        undo.pop_all()
    steps += (partial(part.reconfigure, change.settings) for part in reconfigured)

    def put_into_force() -> None:
        for step in steps:
            step()

    return put_into_force


class Reloader:
    """Brings what the file says into force, one reload at a time.

    ``prepare`` makes what is needed for settings that are in the file, in a thread of its own, where it may block; what
    it returns puts them into force, between two requests. It raises ConfigError, or whatever else, to have all stay as
    it is.
    """

    def __init__(
        self,
        settings: Settings,
        prepare: Callable[[Changes], Callable[[], None]],
        supervision: Supervision,
    ) -> None:
        self.settings = settings
        self._prepare = prepare
        self._supervision = supervision
        self._wanted = False
        self._serving = False
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Reload the configuration; once more, when that is in progress already: the file may have changed since."""
        self._wanted = True
        if self._serving and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def start(self) -> None:
        """The daemon serves: do what has been requested meanwhile, and whatever is requested from now on."""
        self._serving = True
        if self._wanted:
            self.request()

    def stop(self) -> None:
        """Change nothing any more."""
        self._serving = False
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._wanted:
            self._wanted = False
            self._supervision.reloading()
            self._supervision.ready(await self._reload())
        self._task = None

    async def _reload(self) -> str:
        """Read and put into force; what is to be noted in the status, if anything."""
        try:
            change, warnings, put_into_force = await asyncio.to_thread(self._read)
            put_into_force()
        except ConfigError as error:
            self._refuse(error)
        except Exception:
            _logger.exception("reload failed: the configuration stays as it was")
        else:
            self.settings = change.settings
            for warning in (*warnings, *change.warnings):
                _logger.warning("%s", warning)
            names = ", ".join(sorted(change.changed)) or "nothing"
            _logger.info("configuration reloaded; changed: %s", names)
            return ""
        return time.strftime("reload failed at %Y-%m-%d %H:%M:%S")

    def _read(self) -> tuple[Changes, tuple[str, ...], Callable[[], None]]:
        file = self.settings.config_file
        configuration = config.load_apart(Path(file) if file else None)
        change = changes(self.settings, configuration.settings)
        return change, configuration.warnings, self._prepare(change)

    def _refuse(self, error: ConfigError) -> None:
        for problem in error.problems:
            _logger.error("%s", problem)
        _logger.error("reload failed: the configuration stays as it was")
        file = self.settings.config_file
        if file and _is_forbidden(file):
            _logger.error(
                "%s is read with the rights of uid %d, gid %d by now: give it to this group, with mode 0640",
                file,
                os.geteuid(),
                os.getegid(),
            )


def _is_forbidden(file: str) -> bool:
    try:
        Path(file).stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(file, os.R_OK)
