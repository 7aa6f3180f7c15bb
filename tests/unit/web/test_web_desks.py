"""Threads that ask the store: bounded, with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.web.desks import DESK_SECONDS, Busy, Desks


class Opened:
    """Counts desks that are opened and closed; the first ``failing`` cannot be opened."""

    def __init__(self, failing: int = 0) -> None:
        self.opened = self.closed = 0
        self.failing = failing

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Desk]:
        if self.failing:
            self.failing -= 1
            raise StoreUnavailable("away")
        self.opened += 1
        try:
            yield cast("Desk", self)
        finally:
            self.closed += 1


async def test_what_is_asked_is_returned_or_raised() -> None:
    opened = Opened()
    desks = Desks(opened, threads=2)
    try:
        assert await asyncio.gather(*(desks.ask(lambda _, number: number * 2, number) for number in range(20))) == [
            number * 2 for number in range(20)
        ]

        def fail(_: Desk) -> None:
            raise StoreUnavailable("away")

        with pytest.raises(StoreUnavailable):
            await desks.ask(fail)
    finally:
        desks.close()
    assert 1 <= opened.opened == opened.closed <= 2


async def test_what_cannot_be_opened_is_opened_again() -> None:
    desks = Desks(Opened(failing=1), threads=1)
    try:
        with pytest.raises(StoreUnavailable):
            await desks.ask(lambda _: 1)
        assert await desks.ask(lambda _: 1) == 1
    finally:
        desks.close()


async def test_a_desk_is_made_anew_after_a_while() -> None:
    now = [0.0]
    opened = Opened()
    desks = Desks(opened, threads=1, clock=lambda: now[0])
    try:
        for _ in range(3):
            await desks.ask(lambda _: 1)
            now[0] += DESK_SECONDS
    finally:
        desks.close()
    assert opened.opened == opened.closed == 3


async def test_a_store_that_hangs_holds_up_nobody_for_long() -> None:
    release = threading.Event()
    desks = Desks(Opened(), threads=1, most_waiting=2, deadline=0.2)
    done: list[int] = []

    def hang(_: Desk) -> None:
        release.wait(30)

    try:
        results: list[Any] = await asyncio.gather(
            desks.ask(hang),
            desks.ask(lambda _: done.append(1)),
            *(desks.ask(lambda _: done.append(2)) for _ in range(9)),
            return_exceptions=True,
        )
        assert all(isinstance(one, Busy) for one in results)
        release.set()
        assert await desks.ask(lambda _: 3) == 3
        assert done == [], "what nobody waits for any more is not done"
    finally:
        release.set()
        desks.close()
