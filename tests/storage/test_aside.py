"""What the database refuses, and is kept beside: how much of it, and when it is written anew."""

from __future__ import annotations

import pathlib

import pytest

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.storage.contract import Refused
from policyd_rate_limit.storage.engine import aside as aside_module
from policyd_rate_limit.storage.engine.aside import LONGEST_NAME, Aside
from policyd_rate_limit.storage.engine.spool_file import SpoolFile
from policyd_rate_limit.storage.record import OVERHEAD, Record, pack
from storage.daemon import spool_files
from storage.stores import HOUR, START, Clock, SqliteDatabase, new_memory

REASONS = {"user:a": "a trigger"}


@pytest.fixture
def monotonic() -> Clock:
    """What says when it is offered again."""
    return Clock(0.0)


@pytest.fixture
def kept(tmp_path: pathlib.Path, clock: Clock, monotonic: Clock) -> Aside:
    """Nothing yet, with a disk that has room."""
    memory = new_memory(clock)
    memory.advance()
    return Aside(memory, lambda size: SpoolFile.create(tmp_path, "db", max(size, 1 << 16)), monotonic)


def record(number: int) -> Record:
    """One that the database refuses."""
    return pack(7, number, int(START), [Entry("user:a", 1, int(START), "", f"{number:08}")])


def test_what_is_kept_is_bounded_to_the_byte(kept: Aside, monkeypatch: pytest.MonkeyPatch) -> None:
    """More is not admitted; what was admitted long ago has to be kept all the same."""
    size = len(record(1).entries) + OVERHEAD
    monkeypatch.setattr(aside_module, "ASIDE_BYTES", 2 * size)
    assert kept.keep([record(1)], REASONS, required=False)
    assert not kept.keep([record(2), record(3)], REASONS, required=False)
    assert kept.keep([record(2)], REASONS, required=False)
    assert not kept.keep([record(3)], REASONS, required=False)
    assert kept.keep([record(3)], REASONS, required=True)
    kept.replace([record(3)], REASONS)
    assert kept.keep([record(4)], REASONS, required=False)
    assert not kept.keep([record(5)], REASONS, required=False)
    assert kept.records == [record(3), record(4)]
    kept.close()


def test_all_of_the_room_is_used(kept: Aside, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(record(1).entries) + OVERHEAD
    monkeypatch.setattr(aside_module, "ASIDE_BYTES", size - 1)
    assert not kept.keep([record(1)], REASONS, required=False)
    monkeypatch.setattr(aside_module, "ASIDE_BYTES", size)
    assert kept.keep([record(1)], REASONS, required=False)
    kept.close()


def test_what_was_refused_is_not_offered_again_at_once(kept: Aside, monotonic: Clock) -> None:
    """Somebody has to mend the database first."""
    kept.take(Refused([], [record(1)], REASONS), [])
    assert kept.records == [record(1)]
    is_due_at_once = kept.is_due
    monotonic.now += HOUR
    assert (is_due_at_once, kept.is_due) == (False, True)
    kept.close()


@pytest.mark.parametrize(("longer", "shown"), [(0, ""), (1, "...")])
def test_a_counter_is_named_as_far_as_a_line_of_the_log_goes(
    kept: Aside, caplog: pytest.LogCaptureFixture, longer: int, shown: str
) -> None:
    name = "user:" + "x" * (LONGEST_NAME - 5)
    assert kept.keep([], {name + "x" * longer: "a trigger"}, required=True)
    assert f" {name}{shown}: a trigger;" in caplog.text


def test_an_offer_that_is_refused_again_leaves_the_file(
    kept: Aside, sqlite: SqliteDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For months, maybe, each hour: only what changes is written anew."""
    store = sqlite.store(clock, longest=HOUR)
    still_refused = [record(1), record(2)]

    def offer(records: list[Record], _patience: float) -> None:
        assert records == kept.records
        if still_refused:
            raise Refused([], (), REASONS, waited=tuple(still_refused))

    monkeypatch.setattr(store, "offer", offer)
    assert kept.keep(list(still_refused), REASONS, required=True)

    def file() -> tuple[str, int]:
        (name,) = spool_files(sqlite.home)
        return name, (sqlite.home / name).stat().st_ino

    before = file()
    kept.offer(store, 1.0)
    assert file() == before
    del still_refused[0]
    kept.offer(store, 1.0)
    assert kept.records == [record(2)]
    assert file() != before
    still_refused.clear()
    kept.offer(store, 1.0)
    assert spool_files(sqlite.home) == []
    store.close()
