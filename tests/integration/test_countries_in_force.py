"""Rules that look at countries in the daemon, while the file of them is replaced, broken and taken away."""

from __future__ import annotations

import pathlib
import shutil
import signal
import time
from typing import Any

import pytest

from support.commands import ask, call
from support.daemon import Client, Daemon, mail, running, write_configuration
from support.mmdb import mmdb, write_mmdb
from support.wait import wait_until

ABROAD = {"abroad": {"key": "sasl_username", "limits": "0/1h", "unless": {"country": ["DE", ""]}}}
BUILT = int(time.time()) - 86_400


def passes(client: Client, address: str = "192.0.2.1") -> bool:
    """Whether a mail from ``address`` is let pass."""
    return client.ask(**mail("alice", client_address=address)) == "dunno"


def test_a_file_that_is_replaced_while_the_daemon_runs(tmp_path: pathlib.Path) -> None:
    path = write_mmdb(tmp_path / "countries.mmdb", {"192.0.2.0/24": "DE", "198.51.100.0/24": "FR"}, built=BUILT)
    with (
        running(tmp_path / "host", limits=[], rules=ABROAD, geoip=str(path)) as daemon,
        Client(daemon.address) as client,
    ):
        assert [passes(client, one) for one in ("192.0.2.1", "198.51.100.1", "10.0.0.1", "")] == [
            True,
            False,
            True,
            True,
        ]

        newer = write_mmdb(tmp_path / "newer.mmdb", {"192.0.2.0/24": "FR", "198.51.100.0/24": "DE"}, built=BUILT)
        shutil.copyfile(newer, path)  # over the old one, in its place
        wait_until(lambda: not passes(client), "the new file is in use", 20)
        assert passes(client, "198.51.100.1")
        daemon.logged("countries.mmdb read, DBIP-Country-Lite")

        path.write_bytes(mmdb({"192.0.2.0/24": "DE"})[:400])
        daemon.logged("the new file is another file, or a part of one; countries stay those of")
        assert not passes(client)

        path.unlink()
        daemon.logged("it cannot be read (No such file or directory); countries stay those of")
        assert not passes(client)
        assert daemon.log_text().count("stay those of") == 2

        write_mmdb(path, {"192.0.2.0/24": "DE"}, built=BUILT - 100 * 86_400)
        wait_until(lambda: passes(client), "the file is back", 20)
        daemon.logged("101 days ago: addresses have moved since")


def test_a_reload_names_another_file_and_keeps_what_is_known_without_one(tmp_path: pathlib.Path) -> None:
    one = write_mmdb(tmp_path / "one.mmdb", {"192.0.2.0/24": "DE"}, built=BUILT)
    other = write_mmdb(tmp_path / "other.mmdb", {"192.0.2.0/24": "FR"}, built=BUILT)
    with running(tmp_path / "host", limits=[], geoip=str(one)) as daemon, Client(daemon.address) as client:
        assert passes(client)
        _reload(daemon, "reloaded; changed: geoip, rules", rules=ABROAD, geoip=str(other))
        assert not passes(client)
        _reload(daemon, "reloaded; changed: geoip", rules=ABROAD, geoip=str(one))
        assert passes(client)
        _reload(daemon, "reload failed", rules=ABROAD, geoip=str(tmp_path / "none.mmdb"))
        daemon.logged("geoip: expected a file of countries", "none.mmdb")
        assert passes(client)
        one.unlink()
        _reload(
            daemon, "reloaded; changed: fail_action, geoip", rules=ABROAD, geoip=str(other), fail_action="reject no"
        )
        other.unlink()
        _reload(daemon, "reloaded; changed: fail_action", rules=ABROAD, geoip=str(other), fail_action="reject not you")
        assert client.ask(**mail("alice", client_address="192.0.2.1")) == "reject not you"


def _reload(daemon: Daemon, said: str, **settings: Any) -> None:
    before = daemon.log_text().count(said)
    write_configuration(daemon.directory, {**daemon.settings, **settings})
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.log_text().count(said) > before, said, 20)


@pytest.mark.parametrize("broken", [True, False])
def test_without_a_file_no_daemon_starts_with_a_rule_that_asks(tmp_path: pathlib.Path, broken: bool) -> None:
    path = tmp_path / "countries.mmdb"
    if broken:
        path.write_bytes(b"half")
    daemon = Daemon(tmp_path / "host", limits=[], rules=ABROAD, geoip=str(path)).start(wait=False)
    assert daemon.process.wait(30) == 5
    assert "geoip: expected a file of countries" in daemon.log_text()


def test_what_commands_say_of_it(tmp_path: pathlib.Path) -> None:
    path = write_mmdb(tmp_path / "countries.mmdb", {"192.0.2.0/24": "DE"}, built=BUILT)
    rules = {"each": {"key": "country", "limits": "2/1h"}}
    with (
        running(tmp_path / "host", limits=[], rules=rules, geoip=str(path)) as daemon,
        Client(daemon.address) as client,
    ):
        assert [passes(client), passes(client), passes(client)] == [True, True, False]
        (status,) = ask(daemon.path, "status", "DE")["keys"]
        assert (status["rule"], status["key"]) == ("each", "each|country:de")
        assert ask(daemon.path, "explain", "client_address=192.0.2.7")["country"] == "DE"
        assert call(daemon.path, "reset", "country:de").returncode == 0
        wait_until(lambda: passes(client), "the reset is heeded", 20)


def test_who_comes_from_one_country_after_another_is_blocked(tmp_path: pathlib.Path) -> None:
    path = write_mmdb(tmp_path / "countries.mmdb", {"192.0.2.0/24": "DE", "198.51.100.0/24": "FR"}, built=BUILT)
    rules = {"countries": {"key": "sasl_username", "count": "distinct country", "limits": "1/1h", "block": "1h"}}
    with (
        running(tmp_path / "host", limits=[], rules=rules, geoip=str(path)) as daemon,
        Client(daemon.address) as client,
    ):
        assert [passes(client, one) for one in ("192.0.2.1", "192.0.2.2", "10.0.0.1", "198.51.100.1")] == [
            *(True, True, True, False)
        ]
        assert not passes(client)  # blocked, wherever the next mail comes from
        (status,) = ask(daemon.path, "status", "alice")["keys"]
        assert status["rule"] == "countries"
        assert status["override"]["limits"] == [[0, 1]]
