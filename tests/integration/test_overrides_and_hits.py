"""An administrator beside real daemons, several of them on one store: overrides, resets, hits."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from functools import partial

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Administration, Override
from policyd_rate_limit.subjects import make_subjects
from support.actors import TESTER
from support.commands import call
from support.daemon import Client, Daemon, mail, running
from support.faketime import Clock
from support.stores_for_daemons import STORES
from support.tcp_proxy import TcpProxy
from support.wait import wait_until

HOUR, DAY = 3600, 86_400
BLOCK = (Limit(0, 1),)
LIMIT = 5
SETTINGS = {
    "limits": [[LIMIT, HOUR]],
    "limits_by_id": {"bob": []},  # so that nothing refuses bob but an override
    "report": True,
    "report_from": "policyd@example.org",
    "report_to": "postmaster@example.org",
    "report_limits": [HOUR],
}


@contextlib.contextmanager
def administering(daemon: Daemon) -> Iterator[Administration]:
    settings = config.load(daemon.path).settings
    administration = backend_of(settings).open_administration(make_subjects(settings))
    try:
        yield administration
    finally:
        administration.close()


def faked(directory: pathlib.Path, clock: Clock) -> contextlib.AbstractContextManager[Daemon]:
    return running(directory, environment=clock.environment, **SETTINGS)


def passes(daemon: Daemon, user: str = "alice") -> bool:
    with Client(daemon.address) as client:
        return client.ask(**mail(user)) == "dunno"


def refuses(daemon: Daemon, user: str = "alice") -> bool:
    return not passes(daemon, user)


def is_blocked(daemon: Daemon, user: str = "bob") -> bool:
    with Client(daemon.address) as client:
        return client.ask(**mail(user)) == "reject 5.7.1 Sending mail is blocked for this account"


def admitted(daemon: Daemon, mails: int, user: str = "alice") -> int:
    with Client(daemon.address) as client:
        return sum(client.ask(**mail(user)) == "dunno" for _ in range(mails))


def clean(daemon: Daemon) -> str:
    done = call(daemon.path, "--clean", env=daemon.environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.depends_on_machine(
    reason="a machine that is busy for long lets a second pass between two seconds of a daemon"
)
@pytest.mark.parametrize("kind", STORES)
def test_whom_a_rule_blocks_all_daemons_refuse(tmp_path: pathlib.Path, kind: str) -> None:
    """The one that has found it at once, the others within two seconds; an administrator sees why, and frees them."""
    rules = {
        "person": {"key": "sasl_username", "limits": f"{LIMIT}/1h", "block": "1h", "warn": 80},
        "volume": {"key": "sasl_username", "count": "bytes", "limits": "1M/1d"},
    }
    with STORES[kind](tmp_path) as store, contextlib.ExitStack() as stack:
        settings = {**store.settings, "rules": rules}
        one, two = (stack.enter_context(running(tmp_path / name, **settings)) for name in ("one", "two"))
        assert admitted(one, 2) + admitted(two, 3) == LIMIT
        assert refuses(one)
        began = time.monotonic()
        assert is_blocked(one, "alice")
        wait_until(partial(is_blocked, two, "alice"), "the other daemon refuses as well", 10)
        assert time.monotonic() - began < 2
        assert passes(two, "bob")
        logs = [daemon.log_text() for daemon in (one, two)]
        assert sum(log.count("verdict=warned rule=person kind=user id=alice") for log in logs) == 1
        assert any("usage=4/5/1h" in log for log in logs)
        assert "verdict=blocked rule=person kind=user id=alice" in logs[0]
        shown = call(one.path, "status", "alice").stdout
        assert f"rule person: {LIMIT}/1h exceeded" in shown
        for command in ("revoke", "reset"):
            assert call(two.path, command, "alice").returncode == 0
        for daemon in (one, two):
            wait_until(partial(passes, daemon, "alice"), "alice is free", 10)


@pytest.mark.parametrize("kind", STORES)
def test_two_daemons_heed_an_administrator(tmp_path: pathlib.Path, kind: str) -> None:
    with STORES[kind](tmp_path) as store, contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(running(tmp_path / name, **SETTINGS, **store.settings)) for name in ("one", "two")
        )
        with administering(one) as administration:
            assert admitted(one, 3) + admitted(two, 3) == LIMIT
            for entries in (administration.entries(None, 0), administration.entries(["user:alice"], 0)):
                assert sum(entry.amount for entry in entries if entry.counter == "user:alice") == LIMIT
            assert administration.reset("user:alice", TESTER) == LIMIT
            assert admitted(two, 3) + admitted(one, 3) == LIMIT  # at once, in both

            until = administration.now() + HOUR
            administration.set_override(Override("user:alice", (Limit(LIMIT + 2, HOUR), Limit(99, DAY)), until), TESTER)
            administration.set_override(Override("user:bob", BLOCK, until), TESTER)
            for daemon in (one, two):
                wait_until(partial(is_blocked, daemon), "bob is blocked", 10)
            assert passes(one)
            assert passes(two)
            with Client(one.address) as client:  # beyond a limit that was raised: as beyond any other
                assert client.ask(**mail("alice")) == "defer_if_permit Rate limit reach, retry later"

            assert administration.remove_override("user:alice", TESTER)
            assert administration.remove_override("user:bob", TESTER)
            for daemon in (one, two):
                wait_until(partial(passes, daemon, "bob"), "bob is free", 10)
            assert refuses(one)
        for daemon in (one, two):
            daemon.stop()  # which writes the last hits
        with administering(one) as administration:
            hits = administration.hits()
            (of_alice,) = [hit for hit in hits if hit.key == "user:alice"]
            assert of_alice[:3] == ("user:alice", HOUR, 4)
            assert abs(of_alice.last - time.time()) < 60
            assert all(hit.seconds == HOUR for hit in hits)
            administration.forget_hits(hits)
            assert administration.hits() == []


def test_a_block_ends_by_itself_and_what_was_counted_still_counts(tmp_path: pathlib.Path) -> None:
    clock = Clock(tmp_path)
    with faked(tmp_path, clock) as daemon, administering(daemon) as administration:
        assert admitted(daemon, LIMIT - 1) == LIMIT - 1
        for user in ("alice", "bob"):
            administration.set_override(Override(f"user:{user}", BLOCK, administration.now() + HOUR // 2), TESTER)
        wait_until(partial(is_blocked, daemon), "bob is blocked", 10)
        clock.forward(HOUR // 2 - 60)
        assert refuses(daemon)
        clock.forward(61)
        assert passes(daemon, "bob")
        assert admitted(daemon, 3) == 1


@pytest.mark.parametrize("others", [HOUR, 30 * DAY])
def test_a_longer_window_of_an_override_knows_what_was_before(tmp_path: pathlib.Path, others: int) -> None:
    """Whatever windows ``others`` have."""
    clock = Clock(tmp_path)
    settings = {**SETTINGS, "limits_by_id": {"bob": [], "carol": [[9, others]]}}
    with (
        running(tmp_path, environment=clock.environment, **settings) as daemon,
        administering(daemon) as administration,
    ):
        for _ in range(3):
            assert admitted(daemon, LIMIT) == LIMIT
            clock.forward(2 * HOUR)
        assert admitted(daemon, 1) == 1  # what has expired may be forgotten now
        until = administration.now() + 2 * DAY
        administration.set_override(Override("user:alice", (Limit(3 * LIMIT + 2, DAY),), until), TESTER)
        administration.set_override(Override("user:bob", BLOCK, until), TESTER)
        wait_until(partial(is_blocked, daemon), "overrides are heeded", 10)
        assert admitted(daemon, 3) == 1
        daemon.kill()
        daemon.start()
        assert is_blocked(daemon)  # from the first request on
        clock.forward(HOUR)
        assert refuses(daemon)


def test_overrides_and_hits_outlive_an_absence_of_the_database(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "db.sqlite3"
    with running(tmp_path, db_timeout=0.2, **SETTINGS) as daemon, administering(daemon) as administration:
        administration.set_override(Override("user:bob", BLOCK, administration.now() + HOUR), TESTER)
        wait_until(partial(is_blocked, daemon), "bob is blocked", 10)
        administration.close()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert admitted(daemon, LIMIT + 3) == LIMIT
            assert is_blocked(daemon)
            wait_until(lambda: "limits go on from memory" in daemon.log_text(), "the database is away", 10)
            assert is_blocked(daemon)
            other.execute("ROLLBACK")
        wait_until(administration.hits, "the hits are there")
        assert [hit[:3] for hit in administration.hits()] == [("user:alice", HOUR, 3)]
        assert daemon.log_text().count("cannot be exchanged") == 0


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "redis"])
def test_whom_a_block_is_for_stays_blocked_while_the_database_is_away(tmp_path: pathlib.Path, kind: str) -> None:
    """Even where whoever else asks then is let pass."""
    with STORES[kind](tmp_path) as store:
        assert store.server is not None
        with TcpProxy(store.server.address) as proxy:
            settings = {**SETTINGS, "db_error_action": "dunno", "db_timeout": 0.5, "block_action": "521 5.7.1 begone"}
            reached = store.server.settings_at("127.0.0.1", proxy.port)
            with running(tmp_path / "host", **settings, **reached) as daemon, Client(daemon.address) as client:
                with administering(daemon) as administration:
                    administration.set_override(Override("user:bob", BLOCK, administration.now() + HOUR), TESTER)
                wait_until(lambda: client.ask(**mail("bob")) == "521 5.7.1 begone", "bob is blocked", 10)
                proxy.refuse()
                wait_until(lambda: admitted(daemon, LIMIT + 1) == LIMIT + 1, "the database is away", 20)
                assert client.ask(**mail("bob")) == "521 5.7.1 begone"
                assert " limit=blocked free_in=3" in daemon.logged("id=bob", "refused")


def test_a_daemon_that_is_killed_while_it_writes_hits_loses_the_last_ones_only(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, **SETTINGS) as daemon, administering(daemon) as administration:
        assert admitted(daemon, LIMIT + 2) == LIMIT
        wait_until(lambda: administration.hits(), "hits are written", 10)
        refused = 2 + 200 - admitted(daemon, 200)
        daemon.kill()
        (hit,) = administration.hits()
        assert 2 <= hit.hits <= refused
        daemon.start()
        assert refuses(daemon)
        daemon.stop()
        assert administration.hits()[0].hits == hit.hits + 1


def test_without_a_report_no_hits_are_kept(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, **{**SETTINGS, "report": False}) as daemon:
        assert admitted(daemon, LIMIT + 1) == LIMIT
        daemon.stop()
        with administering(daemon) as administration:
            assert administration.hits() == []


def test_clean_keeps_what_an_override_needs_and_drops_overrides_that_have_ended(tmp_path: pathlib.Path) -> None:
    clock = Clock(tmp_path)
    with faked(tmp_path, clock) as daemon, administering(daemon) as administration:
        assert admitted(daemon, LIMIT) == LIMIT
        now = administration.now()
        administration.set_override(Override("user:alice", (Limit(LIMIT, 30 * DAY),), now + 20 * DAY), TESTER)
        administration.set_override(Override("user:bob", BLOCK, now + 60), TESTER)
        clock.forward(10 * DAY)
    for days, left, entries in ((0, 1, LIMIT), (15, 0, 0)):
        clock.forward(days * DAY)
        assert clean(daemon) == f"{0 if entries else LIMIT} records deleted\n"
        with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
            assert database.execute("SELECT count(*) FROM policyd_override").fetchone() == (left,)
            assert database.execute("SELECT count(*) FROM policyd_entry").fetchone() == (entries,)
