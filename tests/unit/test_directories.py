"""Directories that are missing, and those that are there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system.accounts import Account
from policyd_rate_limit.system.directories import ensure_directory
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
    mkdir = Path.mkdir

    def beaten(self: Path, mode: int) -> None:
        mkdir(self, 0o700)
        mkdir(self, mode)

    monkeypatch.setattr(Path, "mkdir", beaten)
    ensure_directory(tmp_path / "a", SOMEBODY)
    assert mode(tmp_path / "a") == 0o700
    assert (tmp_path / "a").stat().st_uid == os.geteuid()
