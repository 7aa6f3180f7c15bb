"""Hits that wait for the database, and overrides that come from there."""

from __future__ import annotations

import logging
import threading

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Hits, Override
from policyd_rate_limit.storage.engine import mailbox as mailbox_module
from policyd_rate_limit.storage.engine.mailbox import Mailbox

MINUTE, HOUR = Limit(10, 60), Limit(100, 3600)


def test_hits_add_up_by_key_and_window() -> None:
    now = 100.9
    mailbox = Mailbox(lambda: now)
    mailbox.hit("user:a", MINUTE)
    now = 107.0
    for limit in (MINUTE, MINUTE._replace(maximum=3), HOUR):
        mailbox.hit("user:a", limit)
    assert mailbox.take() == [Hits("user:a", 60, 3, 107), Hits("user:a", 3600, 1, 107)]
    assert mailbox.take() == []


def test_what_could_not_be_written_waits_with_what_came_meanwhile() -> None:
    mailbox = Mailbox(lambda: 100.0)
    mailbox.hit("user:a", MINUTE)
    taken = mailbox.take()
    mailbox.add([Hits("user:a", 60, 1, 90)])
    mailbox.add(taken)
    assert mailbox.take() == [Hits("user:a", 60, 2, 100)]


def test_beyond_the_bound_hits_are_dropped_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mailbox_module, "MOST_HITS", 3)
    mailbox = Mailbox(lambda: 100.0)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            for number in range(6):
                mailbox.hit(f"user:{number}", MINUTE)
                mailbox.hit("user:0", MINUTE)
        assert len(caplog.records) == 1
        caplog.clear()
        assert [hit[:3] for hit in mailbox.take()] == [("user:0", 60, 7), ("user:1", 60, 1), ("user:2", 60, 1)]


def test_no_hit_is_lost_between_two_threads() -> None:
    mailbox = Mailbox(lambda: 100.0)
    done = threading.Event()
    taken: list[Hits] = []

    def write() -> None:
        while not done.is_set():
            taken.extend(mailbox.take())

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(20_000):
        mailbox.hit(f"user:{number % 7}", MINUTE)
    done.set()
    writer.join()
    taken += mailbox.take()
    assert sum(hit.hits for hit in taken) == 20_000


def test_overrides_go_to_who_asked_for_them() -> None:
    mailbox = Mailbox(lambda: 100.0)
    override = Override("user:a", (), 200)
    mailbox.publish([override], 0)
    published: list[tuple[list[Override], int]] = []
    mailbox.subscribe(lambda *told: published.append(told))
    mailbox.publish([override], 7)
    assert published == [([override], 7)]


def test_blocks_wait_once_for_each_counter() -> None:
    mailbox = Mailbox(lambda: 100.0)
    first, later, other = (Override(key, (), until) for key, until in (("a", 200), ("a", 300), ("b", 150)))
    assert [mailbox.block([first]), mailbox.block([later, other])] == [1, 2]
    assert mailbox.take_blocks() == ([first, other], 2)
    assert mailbox.take_blocks() == ([], 2)
    assert mailbox.block([later]) == 3
    mailbox.block_later([first, other, Override("c", (), 100)])
    assert mailbox.take_blocks() == ([first, other], 3)


def test_beyond_the_bound_nobody_else_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_module, "MOST_BLOCKS", 3)
    mailbox = Mailbox(lambda: 100.0)
    blocks = [Override(f"user:{number}", (), 200) for number in range(4)]
    assert [mailbox.block(blocks[:2]), mailbox.block(blocks[2:]), mailbox.block(blocks[3:])] == [1, 0, 2]
    assert mailbox.take_blocks() == ([*blocks[:2], blocks[3]], 2)
    assert mailbox.block(blocks[:3]) == 3
