"""What a reload changes of the parts of the daemon: all, once all are ready, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import Changes
from policyd_rate_limit.daemon.reloading import all_or_none


class Part:
    """Needs something for new settings; ``error``: it is not to be had."""

    def __init__(self, done: list[str], name: str, error: Exception | None = None) -> None:
        self.done = done
        self.name = name
        self.error = error

    def prepare(self, change: Changes, undo: ExitStack) -> Callable[[], None]:
        if self.error is not None:
            raise self.error
        self.done.append(f"prepare {self.name}")
        undo.callback(self.done.append, f"undo {self.name}")
        return lambda: self.done.append(f"use {self.name} with {change.settings.ipv6_prefix}")

    def reconfigure(self, settings: Settings) -> None:
        self.done.append(f"{self.name} goes on with {settings.ipv6_prefix}")


CHANGE = Changes(Settings(ipv6_prefix=128), frozenset({"ipv6_prefix"}), ())


def test_nothing_is_changed_before_all_is_prepared() -> None:
    done: list[str] = []
    put_into_force = all_or_none([Part(done, "a"), Part(done, "b")], [Part(done, "c")], CHANGE)
    assert done == ["prepare a", "prepare b"]
    put_into_force()
    assert done[2:] == ["use a with 128", "use b with 128", "c goes on with 128"]


def test_one_part_that_cannot_leaves_nothing_of_the_others() -> None:
    done: list[str] = []
    with pytest.raises(OSError, match="no thread"):
        all_or_none([Part(done, "a"), Part(done, "b", OSError("no thread"))], [Part(done, "c")], CHANGE)
    assert done == ["prepare a", "undo a"]
