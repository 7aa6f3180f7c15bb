"""Directories that are missing, and those that are there."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system.accounts import Account
from policyd_rate_limit.system.directories import ensure_directory
from policyd_rate_limit.system.paths import directory
from support.programs import require_root

SOMEBODY = Account("somebody", 54321, 54322, (54322,))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_all_missing_levels_are_created_with_their_mode(tmp_path: Path) -> None:
    ensure_directory(tmp_path / "a" / "b" / "c", None)
    for level in ("a", "a/b", "a/b/c"):
        assert mode(tmp_path / level) == 0o755
        assert (tmp_path / level).stat().st_uid == os.geteuid()


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ensure_directory("a/b", None)
    ensure_directory("", None)
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.needs_root
def test_only_the_directory_itself_is_given_away(tmp_path: Path) -> None:
    require_root()
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    ensure_directory(there / "a" / "b", SOMEBODY)
    assert there.stat().st_uid == 0
    assert mode(there) == 0o700
    assert (there / "a").stat().st_uid == 0
    given = (there / "a" / "b").stat()
    assert (given.st_uid, given.st_gid) == (SOMEBODY.uid, SOMEBODY.gid)


@pytest.mark.needs_root
def test_what_exists_stays_as_it_is(tmp_path: Path) -> None:
    require_root()
    tmp_path.chmod(0o710)
    ensure_directory(tmp_path, SOMEBODY)
    assert (tmp_path.stat().st_uid, mode(tmp_path)) == (0, 0o710)


def test_a_link_to_a_directory_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    ensure_directory(tmp_path / "link" / "a", None)
    assert (tmp_path / "real" / "a").is_dir()


@pytest.mark.parametrize("path", ["file", "file/a", "dangling", "dangling/a"])
def test_what_is_in_the_way_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(SystemRefusal, match=f"^cannot create directory {tmp_path / path}: "):
        ensure_directory(tmp_path / path, None)
    assert not (tmp_path / "nowhere").exists()


def test_another_daemon_creates_the_same_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def beaten(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, 0o700, dir_fd=dir_fd)
        mkdir(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", beaten)
    ensure_directory(tmp_path / "a", SOMEBODY)
    assert mode(tmp_path / "a") == 0o700
    assert (tmp_path / "a").stat().st_uid == os.geteuid()


def test_links_that_go_round_have_an_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SystemRefusal, match="Too many levels of symbolic links"):
        ensure_directory(tmp_path / "a" / "x", None)


def test_links_up_and_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "up").symlink_to("../y/./..//y")
    (tmp_path / "y").mkdir()
    (tmp_path / "x" / "whole").symlink_to(tmp_path / "y")
    ensure_directory(tmp_path / "x" / "up" / "a" / ".." / "b", None)
    ensure_directory(tmp_path / "x" / "whole" / "c", None)
    assert sorted(one.name for one in (tmp_path / "y").iterdir()) == ["a", "b", "c"]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    before = open_files()
    for path in ("x", "x/y/z", "file/a", "link/a", "link/a/b", "file"):
        with contextlib.suppress(SystemRefusal):
            ensure_directory(tmp_path / path, None)
    assert open_files() == before


@pytest.mark.parametrize("mode_above", [0o755, 0o1777, 0o777])
@pytest.mark.parametrize("target", ["{}/real", "../real"], ids=["whole", "relative"])
def test_what_a_link_leads_to_is_as_safe_as_the_link(tmp_path: Path, target: str, mode_above: int) -> None:
    """Who may replace the link may lead it elsewhere, however safe the place is where it leads to now."""
    (tmp_path / "real" / "below").mkdir(parents=True)
    above = tmp_path / "above"
    above.mkdir()
    (above / "link").symlink_to(target.format(tmp_path))
    above.chmod(mode_above)
    with directory(above / "link" / "below") as found:
        assert found.is_safe == (mode_above != 0o777)
    with directory(tmp_path / "real" / "below") as found:
        assert found.is_safe
