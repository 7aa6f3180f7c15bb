"""Several daemons on one SQLite file admit exactly what one would."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from support.daemon import Client, Daemon, mail
from support.load import Background, ask_all, left_for_all

DAEMONS = 4
CONNECTIONS = 64
LIMIT = 100


@contextlib.contextmanager
def daemons(directory: pathlib.Path, **settings: Any) -> Iterator[list[Daemon]]:
    """Four running daemons that share one database and nothing else.

    They wait for a disk that stalls: an outage, in which each of them decides by itself, is tested elsewhere.
    """
    database = {"database": str(directory / "shared.sqlite3")}
    settings = {"db_timeout": 30, **settings}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Daemon(directory / f"daemon{number}", sqlite_config=database, **settings))
            for number in range(DAEMONS)
        ]


def troubles(running: Sequence[Daemon]) -> str:
    """What they have logged of outages, as a reason why more was admitted: each has decided by itself then."""
    lines = [
        f"{daemon.directory.name}: {line}"
        for daemon in running
        for line in daemon.log_text().splitlines()
        if " ERROR " in line or " WARNING " in line
    ]
    return "\n".join(["the daemons have logged:", *lines] if lines else ["no daemon has logged any trouble"])


def addresses(running: Sequence[Daemon]) -> list[str | tuple[str, int]]:
    """Where they listen."""
    return [daemon.address for daemon in running]


def test_one_hot_id_over_four_daemons_gets_exactly_its_limit(tmp_path: pathlib.Path) -> None:
    """64 connections over 4 daemons fight for the same 100 mails, twenty times: 100 are admitted."""
    with daemons(tmp_path, limits=[[LIMIT, 3600]]) as four:
        for repetition in range(20):
            user = f"hot{repetition}"
            tally = ask_all(addresses(four), [user] * (3 * LIMIT), connections=CONNECTIONS)
            assert not tally.others
            assert tally.admitted[user] == LIMIT, f"repetition {repetition}; {troubles(four)}"
            assert tally.refused[user] == 2 * LIMIT


def test_many_ids_at_once_each_get_exactly_their_limit(tmp_path: pathlib.Path) -> None:
    """200 ids with a limit of 20, in shuffled order over 4 daemons: each gets 20, no other number."""
    users = [f"user{number}" for number in range(200)]
    seed = random.randrange(1 << 32)
    order = users * 30
    random.Random(seed).shuffle(order)
    with daemons(tmp_path, limits=[[20, 3600]]) as four:
        tally = ask_all(addresses(four), order, connections=CONNECTIONS)
    assert not tally.others
    assert tally.admitted == dict.fromkeys(users, 20), f"seed {seed}; {troubles(four)}"


def test_two_limits_at_once_are_both_exact(tmp_path: pathlib.Path) -> None:
    """The longer window holds back where the shorter one does not, and the other way round."""
    by_id = {"short": [[30, 600], [50, 3600]], "long": [[50, 600], [30, 3600]]}
    with daemons(tmp_path, limits=[[100, 600], [40, 3600]], limits_by_id=by_id) as four:
        tally = ask_all(addresses(four), ["short", "long", "other"] * 150, connections=CONNECTIONS)
    assert not tally.others
    assert tally.admitted == {"short": 30, "long": 30, "other": 40}, troubles(four)


def test_mails_to_many_recipients_never_exceed_the_limit_between_daemons(tmp_path: pathlib.Path) -> None:
    """Costs of 7 against a limit of 100, daemons in turn: 14 mails pass, then one that costs 2, then none."""
    attributes = {"protocol_state": "DATA"}
    with daemons(tmp_path, limits=[[LIMIT, 3600]], count_mode=1) as four, contextlib.ExitStack() as stack:
        clients = itertools.cycle([stack.enter_context(Client(daemon.address)) for daemon in four])
        answers = [next(clients).ask(**mail("bulk", recipient_count=7, **attributes)) for _ in range(16)]
        assert answers.count("dunno") == LIMIT // 7, troubles(four)
        assert next(clients).ask(**mail("bulk", recipient_count=3, **attributes)) != "dunno"
        assert next(clients).ask(**mail("bulk", recipient_count=2, **attributes)) == "dunno"
        assert next(clients).ask(**mail("bulk", recipient_count=1, **attributes)) != "dunno"


@pytest.mark.parametrize("hot", [True, False], ids=["one hot id", "many ids"])
def test_exact_while_daemons_are_killed_and_restarted(tmp_path: pathlib.Path, hot: bool) -> None:
    """Four daemons, one after the other killed and started again under load: never one mail too many.

    A mail whose answer was cut off may be counted or not; all others are accounted for exactly.
    """
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    users = ["hot"] if hot else [f"user{number}" for number in range(300)]
    limit = 5000 if hot else 60
    with daemons(tmp_path, limits=[[limit, 3600]]) as four:
        endless = iter(lambda: chance.choice(users), None)
        with Background(addresses(four), endless, connections=CONNECTIONS) as load:
            for number in range(8):
                load.wait_for_answers(200)
                victim = four[number % DAEMONS]
                victim.kill()
                victim.start()
        tally = load.tally
        left = left_for_all(four[0].address, users, limit)
    assert not tally.others
    for user in users:
        total = tally.admitted[user] + left[user]
        assert total <= limit, f"{user}: {total} admitted, limit {limit}, seed {seed}; {troubles(four)}"
        assert total + tally.unanswered[user] >= limit, f"{user}: {limit - total} lost, seed {seed}"
