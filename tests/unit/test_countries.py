"""Countries while the daemon runs: a newer file is read, and whatever else becomes of it changes nothing."""

from __future__ import annotations

import logging
import os
import pathlib
import re
from collections.abc import Iterator

import pytest

from policyd_rate_limit.tables.countries import Countries
from policyd_rate_limit.tables.country_file import read_countries
from support.mmdb import BUILT, mmdb, write_mmdb
from support.programs import require_root
from support.wait import wait_until

DAY = 86_400


class Watched:
    """A file, and who looks after it at the times that a test says."""

    def __init__(self, path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
        self.path = path
        self.now = BUILT + 5.0 * DAY
        write_mmdb(path, {"192.0.2.0/24": "DE"})
        self.countries = Countries(read_countries(str(path)), lambda: self.now)
        self._caplog = caplog
        caplog.set_level(logging.INFO)

    def look(self, times: int = 1) -> list[str]:
        """Look; what was logged, and at which level."""
        self._caplog.clear()
        for _ in range(times):
            self.countries.look()
        return [f"{one.levelname} {one.getMessage().replace(str(self.path), 'FILE')}" for one in self._caplog.records]

    @property
    def country(self) -> str:
        return self.countries.country_of("192.0.2.1")


@pytest.fixture
def watched(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> Watched:
    return Watched(tmp_path / "countries.mmdb", caplog)


def test_a_newer_file_is_read_once_it_is_whole(watched: Watched) -> None:
    assert watched.look(3) == []
    write_mmdb(watched.path, {"192.0.2.0/24": "FR"}, built=BUILT + DAY)
    assert (watched.look(), watched.country) == ([], "DE")
    assert watched.look() == ["INFO geoip: FILE read, DBIP-Country-Lite (compat=Country) of 2026-09-22"]
    assert watched.country == "FR"
    assert watched.look(3) == []


def test_a_file_is_not_read_while_somebody_writes_to_it(watched: Watched) -> None:
    whole = mmdb({"192.0.2.0/24": "FR"})
    for end in (0, 10, 500, len(whole) - 1, len(whole)):
        watched.path.write_bytes(whole[:end])
        assert (watched.look(), watched.country) == ([], "DE")
    watched.look()
    assert watched.country == "FR"


def test_half_a_file_changes_nothing_and_is_told_once(watched: Watched) -> None:
    whole = mmdb({"192.0.2.0/24": "FR"})
    watched.path.write_bytes(whole[:500])
    told = "WARNING geoip: FILE: the new file is another file, or a part of one; countries stay those of 2026-09-21"
    assert watched.look(5) == [told]
    assert watched.country == "DE"
    watched.path.write_bytes(whole[:600])
    assert watched.look(5) == []  # the same is wrong with it
    watched.path.write_bytes(whole)
    assert len(watched.look(5)) == 1
    assert watched.country == "FR"
    watched.path.write_bytes(whole[:500])
    assert watched.look(5) == [told]


def test_a_file_that_is_gone_changes_nothing_and_is_told_once(watched: Watched) -> None:
    kept = watched.path.read_bytes()
    watched.path.unlink()
    assert watched.look() == []  # another one may be on its way
    said = "WARNING geoip: FILE: it cannot be read (No such file or directory); countries stay those of 2026-09-21"
    assert watched.look(5) == [said]
    assert watched.country == "DE"
    watched.path.write_bytes(kept)
    assert len(watched.look(2)) == 1
    assert watched.look(5) == []


def test_the_same_file_that_comes_back_is_told(watched: Watched) -> None:
    away = watched.path.with_name("away")
    watched.path.rename(away)
    assert len(watched.look(3)) == 1
    os.link(away, watched.path)
    assert watched.look(2)[-1].startswith("INFO geoip: FILE read")


@pytest.fixture
def nobody() -> Iterator[int]:
    """Whoever runs a test is user 65534 in it."""
    require_root()
    before = os.getresuid()
    os.setresuid(65534, 65534, 0)
    try:
        yield 65534
    finally:
        os.setresuid(*before)


@pytest.mark.needs_root
def test_a_file_that_only_root_could_read_is_told_before_the_next_one_comes(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)
    watched = Watched(tmp_path / "countries.mmdb", caplog)
    watched.path.chmod(0o600)
    watched.look(2)
    request.getfixturevalue("nobody")
    assert re.fullmatch(r"WARNING geoip: FILE: uid 65534 may not read it, nor the next one; .*", watched.look(4)[0])
    os.setresuid(0, 0, 0)
    write_mmdb(watched.path, {"192.0.2.0/24": "FR"}).chmod(0o600)
    os.setresuid(65534, 65534, 0)
    assert "Permission denied" in watched.look(4)[0]
    os.setresuid(0, 0, 0)
    watched.path.chmod(0o644)  # which changes neither what is in it nor when it was written
    os.setresuid(65534, 65534, 0)
    assert watched.look(4)[-1].startswith("INFO geoip: FILE read")
    assert watched.country == "FR"


def test_an_old_file_is_told_once_a_day(watched: Watched) -> None:
    watched.now = BUILT + 90.5 * DAY
    assert watched.look(3) == []
    watched.now = BUILT + 91.5 * DAY
    said = "WARNING geoip: FILE was built on 2026-09-21, 91 days ago: addresses have moved since"
    assert watched.look(3) == [said]
    watched.now += DAY - 1
    assert watched.look(3) == []
    watched.now += 1
    assert watched.look(3) == [said.replace("91", "92")]
    watched.now = BUILT + 91.5 * DAY  # the clock is set back
    assert watched.look(3) == [said]
    write_mmdb(watched.path, {"192.0.2.0/24": "DE"}, built=BUILT + 60 * DAY)
    watched.now += 10 * DAY
    watched.look(2)
    assert watched.look(3) == []


def test_a_thread_looks_by_itself_until_it_is_stopped(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyd_rate_limit.tables.countries.LOOK_SECONDS", 0.01)
    watched.countries.start()
    write_mmdb(watched.path, {"192.0.2.0/24": "FR"})
    wait_until(lambda: watched.country == "FR", "the new file is in use", 10)
    watched.countries.stop()
    watched.countries.join(10)
    write_mmdb(watched.path, {"192.0.2.0/24": "AT"})
    assert watched.country == "FR"


def test_a_fault_of_ours_does_not_end_the_thread(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("policyd_rate_limit.tables.countries.read_countries", fails)
        write_mmdb(watched.path, {"192.0.2.0/24": "FR"})
        assert watched.look(4) == ["ERROR geoip: FILE cannot be read"]
    assert watched.country == "DE"
