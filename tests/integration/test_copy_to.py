"""Moving a running installation to another database, by the command, as docs/backup.md tells."""

from __future__ import annotations

import contextlib
import json
import pathlib
import pwd
from typing import Any

import pytest

from support.commands import ask, call
from support.daemon import Client, admitted, configuration, running, write_configuration
from support.outages import put_directory_in_place
from support.stores_for_daemons import STORES
from support.wait import wait_until

PATIENCE = 30.0
LIMITS: dict[str, Any] = {"limits": [[9, 3600]]}
PAIRS = (
    ("sqlite", "postgresql"),
    ("postgresql", "mariadb"),
    ("mariadb", "redis-cluster"),
    ("redis-cluster", "redis"),
    ("redis", "sqlite"),
)


def home(directory: pathlib.Path, name: str) -> pathlib.Path:
    made = directory / name
    made.mkdir()
    return made


@pytest.mark.long(4)
@pytest.mark.parametrize("pair", PAIRS, ids="-to-".join)
def test_an_installation_moves_without_a_pause(tmp_path: pathlib.Path, pair: tuple[str, str]) -> None:
    old, new = home(tmp_path, "old"), home(tmp_path, "new")
    with (
        STORES[pair[0]](old) as source,
        STORES[pair[1]](new) as target,
        running(old, **LIMITS, **source.settings) as before,
        Client(before.address) as client,
    ):
        assert admitted(client, "alice", 4) == 4
        ask(before.path, "block", "mallory", "--for", "1h", "--note", "é")
        to = str(write_configuration(new, configuration(new, **LIMITS, **target.settings)))
        copied = ask(before.path, "copy-to", to)
        assert (copied["overrides"], copied["hits"], copied["waiting_batches"]) == (1, 0, 0)
        assert copied["counts"] > 0
        assert admitted(client, "alice", 2) == 2  # and the old one goes on
        with running(new, **LIMITS, **target.settings) as after, Client(after.address) as other:
            assert (admitted(other, "alice", 1), admitted(other, "mallory", 1)) == (1, 0)
            assert ask(before.path, "copy-to", to)["counts"] > 0
            assert admitted(other, "alice", 9) == 2  # of 9, 4, 2 and 1 were admitted
            done = call(before.path, "copy-to", to)
            assert (done.returncode, done.stderr) == (0, "")
            assert "brought 0 counts, 0 overrides and 0 hits" in done.stdout
            assert ask(after.path, "status", "alice")["keys"][0]["windows"][0]["used"] == 9


def test_what_waits_in_a_spool_file_is_told(tmp_path: pathlib.Path) -> None:
    old, new = home(tmp_path, "old"), home(tmp_path, "new")
    to = str(write_configuration(new, configuration(new, **LIMITS)))
    with running(old, **LIMITS) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 1) == 1
        mend = put_directory_in_place(old / "db.sqlite3")
        assert admitted(client, "alice", 2) == 2
        assert call(daemon.path, "copy-to", to).returncode == 6
        spool_file = next(old.glob("*.journal"))
        kept = spool_file.read_bytes()
        mend()
        wait_until(lambda: ask(daemon.path, "status")["journals"] == [], "the replay", PATIENCE)
        assert ask(daemon.path, "copy-to", to)["waiting_batches"] == 0
    spool_file.write_bytes(kept)
    done = call(daemon.path, "copy-to", to)
    assert done.returncode == 1
    assert f"left out: 2 batches in {spool_file}" in done.stdout
    done = call(daemon.path, "copy-to", to, "--json")
    assert (done.returncode, json.loads(done.stdout)["waiting_batches"]) == (1, 2)


def test_a_configuration_that_is_wrong_or_the_same(tmp_path: pathlib.Path) -> None:
    path = write_configuration(tmp_path, configuration(tmp_path, **LIMITS))
    done = call(path, "copy-to", str(path))
    assert (done.returncode, done.stdout) == (6, "")
    assert "the same database" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert call(path, "copy-to", str(tmp_path / "missing.yaml")).returncode == 5


@pytest.mark.needs_root
def test_root_makes_a_database_that_is_the_daemons(owned_by_nobody: pathlib.Path) -> None:
    settings = {"user": "nobody", "group": "nogroup", **LIMITS}
    old = write_configuration(owned_by_nobody, configuration(owned_by_nobody, **settings))
    place = owned_by_nobody / "not" / "yet" / "db.sqlite3"
    to = owned_by_nobody / "new.yaml"
    to.write_text(json.dumps({**json.loads(json.dumps(settings)), "sqlite_config": {"database": str(place)}}))
    ask(old, "block", "mallory", "--for", "1h")
    assert ask(old, "copy-to", str(to))["overrides"] == 1
    assert {one.stat().st_uid for one in (place, place.parent)} == {pwd.getpwnam("nobody").pw_uid}
    other = json.loads(to.read_text())
    to.write_text(json.dumps({**other, "user": "root", "group": "root"}))
    done = call(old, "copy-to", str(to))
    assert done.returncode == 6
    assert "have to be the same in both" in done.stderr
    with contextlib.suppress(FileNotFoundError):
        assert place.stat().st_uid == pwd.getpwnam("nobody").pw_uid
