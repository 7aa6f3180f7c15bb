"""The daemons at work on one store, as far as they are known there by their heartbeats."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.storage.heartbeat import Heartbeat

SILENT_SECONDS: Final = 75
"""So long after its last heartbeat a daemon counts as silent: three more were due by then, and a busy disk may wait."""

State = Literal["working", "silent", "cut off"]


class Daemon(NamedTuple):
    """One of them, by its last ``heartbeat``.

    ``state``: "silent" if it has not been heard of for :data:`SILENT_SECONDS`: it does not run, or does not reach the
    database, and limits by its memory meanwhile. "cut off": so it is, as it is that of this host, and runs.
    """

    heartbeat: Heartbeat
    state: State

    @property
    def is_missed(self) -> bool:
        """Whether somebody should look after it."""
        return self.state != "working"


def judged(heartbeats: Iterable[Heartbeat], now: int, process: int | None) -> list[Daemon]:
    """How the daemons of ``heartbeats`` are ``now`` (Unix second, of the store); those first that are missed.

    ``process``: of the one that runs on this host; None: none does.
    """
    here = (os.uname().nodename, process)
    found = []
    for one in heartbeats:
        state: State = "working"
        if now - one.heard > SILENT_SECONDS:
            state = "cut off" if (one.host, one.process) == here else "silent"
        found.append(Daemon(one, state))
    return sorted(found, key=lambda one: (not one.is_missed, one.heartbeat.host, one.heartbeat.socket))
