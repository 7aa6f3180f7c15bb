"""Daemons of several hosts on one store admit exactly what one would, whatever happens to them meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from support.commands import call
from support.daemon import Daemon, configuration, write_configuration
from support.faketime import Clock
from support.load import Address, Background, Tally, admit_until_refused, ask_all, left_for_all
from support.stores_for_daemons import STORES, SharedStore
from support.tcp_proxy import TcpProxy
from support.wait import wait_until

DAEMONS = 4
CONNECTIONS = 16 * DAEMONS
MINUTES, HOUR, DAY = 600, 3600, 86400  # windows that no test outlasts
PATIENT = {"db_timeout": 20}  # a busy machine is no outage, in which nobody shares a limit
OUTAGE = "limits go on from memory"

# Where two daemons differ in what they see of one store, that must be a server.
SERVERS = pytest.mark.parametrize("store", ["postgresql", "mariadb", "redis", "redis-cluster"], indirect=True)
SINGLE_SERVERS = pytest.mark.parametrize("store", ["postgresql", "mariadb", "redis"], indirect=True)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[SharedStore]:
    """An empty store; without a choice by the test every one of the table."""
    with STORES[request.param](tmp_path) as empty:
        yield empty


@contextlib.contextmanager
def hosts(directory: pathlib.Path, stores: Sequence[Mapping[str, Any]], **settings: Any) -> Iterator[list[Daemon]]:
    """A running daemon with a directory of its own for each of ``stores``."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Daemon(directory / f"host{number}", **{**settings, **own}))
            for number, own in enumerate(stores)
        ]


def addresses(running: Sequence[Daemon]) -> list[Address]:
    """Where they listen."""
    return [daemon.address for daemon in running]


@pytest.mark.long(8)
def test_each_id_gets_exactly_its_limit_over_four_hosts(tmp_path: pathlib.Path, store: SharedStore) -> None:
    """10,000 mails of 8 hot ids and 1,000 cold ones in random order, each asking for more than its limit: it gets that.

    For one half of them the shorter window is the strict one, for the other half the longer one.
    """
    hot = {f"hot{number}": [[200, MINUTES], [300, HOUR], [900, DAY]] for number in range(0, 8, 2)}
    hot |= {f"hot{number}": [[900, MINUTES], [300, HOUR], [200, DAY]] for number in range(1, 8, 2)}
    short = {f"cold{number}": [[3, MINUTES], [4, DAY]] for number in range(0, 1000, 2)}
    cold = [*short, *(f"cold{number}" for number in range(1, 1000, 2))]
    order = [*hot] * 625 + cold * 5
    seed = random.randrange(1 << 32)
    random.Random(seed).shuffle(order)
    limits = {"limits": [[4, MINUTES], [3, DAY]], "limits_by_id": hot | short}
    with hosts(tmp_path, [store.settings] * DAEMONS, **PATIENT, **limits) as running:
        tally = ask_all(addresses(running), order, connections=CONNECTIONS)
        assert not any(OUTAGE in daemon.log_text() for daemon in running)
    assert not tally.others
    assert tally.admitted == dict.fromkeys(hot, 200) | dict.fromkeys(cold, 3), f"seed {seed}"


@pytest.mark.long(8)
def test_never_over_the_limit_while_daemons_are_killed(tmp_path: pathlib.Path, store: SharedStore) -> None:
    """Four daemons, one after the other killed and started again under load.

    A mail whose answer was cut off may be counted or not; all others are accounted for exactly.
    """
    hot, cold = ["hot0", "hot1"], [f"cold{number}" for number in range(200)]
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    endless = iter(lambda: chance.choice(hot if chance.random() < 0.5 else cold), "")
    maximum = dict.fromkeys(hot, 1500) | dict.fromkeys(cold, 10)
    by_id = {user: [[1500, HOUR], [2000, DAY]] for user in hot}
    limits = {"limits": [[20, MINUTES], [10, HOUR]], "limits_by_id": by_id}
    with hosts(tmp_path, [store.settings] * DAEMONS, **PATIENT, **limits) as running:
        with Background(addresses(running), endless, connections=CONNECTIONS) as load:
            for victim in running:
                load.wait_for_answers(400)
                victim.kill()
                load.wait_for_answers(50)
                victim.start()
            load.wait_for_answers(400)
        left = left_for_all(running[0].address, maximum, max(maximum.values()))
    assert not load.tally.others
    for user, most in maximum.items():
        total = load.tally.admitted[user] + left[user]
        assert total <= most, f"{user}: {total} admitted, limit {most}, seed {seed}"
        assert total + load.tally.unanswered[user] >= most, f"{user}: {most - total} lost, seed {seed}"


@pytest.mark.long(8)
@SINGLE_SERVERS
def test_what_one_host_admits_while_cut_off_is_counted_in_the_end(tmp_path: pathlib.Path, store: SharedStore) -> None:
    """The connection of one of two daemons is reset, and refused for a while, again and again under load.

    Ids that were used up stay used up where the store is within reach; ids of which each daemon admits some meanwhile
    have in the end been charged for all of it, as a new daemon sees: once, and none left out.
    """
    assert store.server is not None
    limit, users, fresh = 100, [f"user{number}" for number in range(40)], [f"fresh{number}" for number in range(20)]
    limits = {"limits": [[1_000_000, HOUR]], "limits_by_id": {user: [[limit, DAY]] for user in (*users[::2], *fresh)}}
    chance = random.Random(7)
    with TcpProxy(store.server.address) as proxy:
        own = [store.server.settings_at("127.0.0.1", proxy.port), store.settings]
        with hosts(tmp_path, own, **limits) as (cut_off, other):
            both = [cut_off.address, other.address]
            before = ask_all(both, fresh[:10] * (2 * limit), connections=32)
            assert before.admitted == dict.fromkeys(fresh[:10], limit)

            with (
                Background([cut_off.address], _endless(chance, users), connections=16) as there,
                Background([other.address], _endless(chance, users), connections=16) as here,
            ):
                for _ in range(2):
                    _both(there, here, 200)
                    proxy.cut()
                    _both(there, here, 200)
                    wait_until(lambda: not _away(cut_off), "the database is back after a reset")
                    proxy.refuse()
                    wait_until(lambda: _away(cut_off), "the outage is noticed")
                    _both(there, here, 300)
                    proxy.admit()
                    wait_until(lambda: not _away(cut_off), "the database is back")
                _both(there, here, 200)
            assert left_for_all(other.address, fresh[:10], limit) == dict.fromkeys(fresh[:10], 0)
            after = ask_all(both, fresh[10:] * (2 * limit), connections=32)
            assert after.admitted == dict.fromkeys(fresh[10:], limit)
            assert OUTAGE not in other.log_text()
            assert cut_off.stop() == 0

        admitted: Counter[str] = there.tally.admitted + here.tally.admitted
        for tally in (there.tally, here.tally):
            _assert_each_answered(tally)
            assert all(tally.admitted[user] <= limit for user in users[::2])
        one_more = {user: [[admitted[user] + 1, HOUR]] for user in users}
        with Daemon(tmp_path / "new", **{**store.settings, "limits_by_id": one_more}) as new:
            assert left_for_all(new.address, users, 5) == dict.fromkeys(users, 1)


def _endless(chance: random.Random, users: Sequence[str]) -> Iterator[str]:
    return iter(lambda: chance.choice(users), "")


def _both(there: Background, here: Background, answers: int) -> None:
    there.wait_for_answers(answers)
    here.wait_for_answers(answers)


def _away(daemon: Daemon) -> bool:
    log = daemon.log_text()
    return log.count(OUTAGE) > log.count("the database is back")


def _assert_each_answered(tally: Tally) -> None:
    assert not tally.others
    assert not +tally.unanswered


@SERVERS
def test_hosts_whose_clocks_differ_share_one_exact_limit(tmp_path: pathlib.Path, store: SharedStore) -> None:
    """Clocks 90 s apart, more than the window: what one host admitted lies in the others' window, in any order."""
    limit = 20
    skews = {"behind": -90, "true": 0, "ahead": 90}
    with contextlib.ExitStack() as stack:
        running: dict[str, Daemon] = {}
        for name, skew in skews.items():
            directory = tmp_path / name
            directory.mkdir()
            clock = Clock(directory)
            clock.forward(skew)
            settings = {**PATIENT, **store.settings, "limits": [[limit, 60]]}
            running[name] = stack.enter_context(Daemon(directory, environment=clock.environment, **settings))

        for first, second in itertools.permutations(skews, 2):
            user = f"{first} and {second}"
            half = ask_all([running[first].address], [user] * (limit // 2), connections=1)
            assert half.admitted[user] == limit // 2
            assert admit_until_refused(running[second].address, user, limit) == limit // 2, user
            assert admit_until_refused(running[first].address, user, limit) == 0, user

        tally = ask_all(addresses([*running.values()]), ["all"] * (5 * limit), connections=48)
        assert tally.admitted["all"] == limit
        assert tally.refused["all"] == 4 * limit
        assert not any(OUTAGE in daemon.log_text() for daemon in running.values())


# Python imports this module when it starts.
WITHOUT = """\
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
"""


@pytest.mark.parametrize(
    ("backend", "module", "extra"),
    [("mysql", "pymysql", "mysql"), ("postgresql", "psycopg", "postgresql"), ("redis", "redis", "redis")],
)
@pytest.mark.parametrize("arguments", [(), ("--clean",)], ids=["daemon", "clean"])
def test_a_missing_driver_is_one_line_that_says_how_to_install_it(
    tmp_path: pathlib.Path, backend: str, module: str, extra: str, arguments: Sequence[str]
) -> None:
    """The driver of ``backend`` cannot be imported: exit 5, and nothing was started."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(module=module))
    path = write_configuration(tmp_path, configuration(tmp_path, backend=backend))
    environment = {"PYTHONPATH": str(tmp_path), "PATH": str(pathlib.Path(sys.executable).parent)}
    done = call(path, *arguments, env=environment)
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"pip install 'policyd-rate-limit[{extra}]'" in line
    assert not done.stdout
    assert not (tmp_path / "policyd.pid").exists()
