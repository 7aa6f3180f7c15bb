"""20,000 mails over four daemons and three rules: exactly what the limits allow, whatever is killed and cut meanwhile.

The person, the domain and the machine are charged for each mail. Whoever gets no answer asks again, about the same
mail and perhaps another daemon, as Postfix does. While its database is away a daemon admits nobody: what was admitted
is what the database has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import random
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pytest
import uvloop

from support.daemon import Daemon, encode, mail
from support.load import ANSWER_SECONDS, RECONNECT_SECONDS, SUCCESS
from support.stores_for_daemons import STORES, SharedStore
from support.tcp_proxy import TcpProxy
from support.wait import wait_until

DAEMONS: Final = 4
CONNECTIONS: Final = 64
PAUSE: Final = 0.04  # so that daemons are not busy with refusing, and most answers that get lost let a mail pass
MAILS: Final = 20_000
HOUR: Final = 3600  # a window that no test outlasts
AWAY: Final = "defer_if_permit the database is away"
PERSON, DOMAIN, MACHINE, RATE = 60, 400, 3_600, 400
KINDS: Final = 4  # of harm
MOST_SECONDS: Final = 60.0  # that anything may take where the machine is busy
RULES: Final = {
    "person": {"key": "sasl_username", "limits": [[PERSON, HOUR]]},
    "domain": {"key": "sasl_domain", "limits": [[DOMAIN, HOUR]], "action": "450 4.7.1 {rule} {key}"},
    "machine": {"key": "server", "limits": [[RATE, 1], [MACHINE, HOUR]], "action": "450 4.7.1 {rule} {limit}"},
}


def users(domains: Sequence[str], number: int) -> list[str]:
    """So many of each of ``domains``."""
    return [f"user{user}@{domain}" for domain in domains for user in range(number)]


SMALL: Final = [
    f"small{number}.example" for number in range(4)
]  # what their users may send is less than the domain may
LARGE: Final = [f"large{number}.example" for number in range(3)]  # it is more
OTHERS: Final = [
    f"other{number}.example" for number in range(10)
]  # and of all of these it is more than the machine may
FIRST: Final = users(SMALL, 5) + users(LARGE, 10)


class Sent(NamedTuple):
    """A mail that was admitted: when it was asked about for the first time, and when the answer came (seconds)."""

    user: str
    asked: float
    answered: float

    @property
    def domain(self) -> str:
        return self.user.partition("@")[2]


class Clients:
    """Many connections, as those of Postfix, over which mails are asked about until :meth:`stop` is called."""

    def __init__(self, addresses: Sequence[tuple[str, int]], chance: random.Random) -> None:
        self._addresses = addresses
        self._chance = chance
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clients")
        self._error: BaseException | None = None
        self.choice: Sequence[str] = FIRST  # who sends mails
        self.pause = PAUSE  # seconds of a client between two mails
        self.further = 0  # mails that go with each one, whose answers nobody misses where they are lost
        self.answers: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()  # what was answered to who had to ask again
        self.admitted: list[Sent] = []

    @property
    def mails(self) -> int:
        """How many have been admitted, or refused for good."""
        return self.answers.total() - self.answers[AWAY]

    def used(self) -> tuple[Counter[str], Counter[str], int]:
        """What has been admitted, by user, by domain, and in all."""
        sent = self.admitted[:]
        return Counter(one.user for one in sent), Counter(one.domain for one in sent), len(sent)

    def wait_for(self, what: Callable[[], object], said: str) -> None:
        """Wait until ``what``; what fails in a client ends it."""
        wait_until(lambda: self._error is not None or what(), said, MOST_SECONDS)
        if self._error is not None:
            raise self._error

    def wait_for_admitted(self, more: int, total: int) -> None:
        """Wait until so many ``more`` mails are admitted, or ``total`` in all."""
        wanted = min(total, len(self.admitted) + more)
        self.wait_for(lambda: len(self.admitted) >= wanted, f"{wanted} mails are admitted")

    def _run(self) -> None:
        try:
            uvloop.run(self._ask_all())
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            self._error = error

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send_mails())

    async def _send_mails(self) -> None:
        """One smtpd: a mail after the other; where the connection breaks it goes on with whichever daemon."""
        asking: dict[str, object] | None = None
        asked = 0.0
        while not self._stopping.is_set() or asking is not None:
            try:
                reader, writer = await asyncio.open_connection(*self._chance.choice(self._addresses))
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
                while not self._stopping.is_set() or asking is not None:
                    is_repeated = asking is not None
                    if asking is None:
                        asking, asked = mail(self._chance.choice(self.choice)), time.monotonic()
                    further = [mail(self._chance.choice(self.choice)) for _ in range(self.further)]
                    writer.write(b"".join(encode(**one) for one in (asking, *further)))
                    async with asyncio.timeout(ANSWER_SECONDS):
                        answer = await self._answer(reader)
                        for one in further:
                            if await self._answer(reader) == SUCCESS:
                                self.admitted.append(Sent(str(one["sasl_username"]), asked, time.monotonic()))
                    if answer == AWAY:
                        await asyncio.sleep(RECONNECT_SECONDS)
                        continue
                    if answer == SUCCESS:
                        self.admitted.append(Sent(str(asking["sasl_username"]), asked, time.monotonic()))
                    self.repeated[answer] += is_repeated
                    asking = None
                    await asyncio.sleep(self.pause)

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        answer = (await reader.readuntil(b"\n\n"))[len("action=") : -2].decode()
        self.answers[answer] += 1
        return answer

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(2 * ANSWER_SECONDS)
        assert not self._thread.is_alive(), "the clients do not end"


class Host(NamedTuple):
    """A daemon, and what is between it and Postfix, and between it and its database where that is a server."""

    daemon: Daemon
    postfix: TcpProxy
    database: TcpProxy | None


@contextlib.contextmanager
def hosts(directory: pathlib.Path, store: SharedStore) -> Iterator[list[Host]]:
    """Four, on one store."""
    with contextlib.ExitStack() as stack:
        found = []
        for number in range(DAEMONS):
            settings: Mapping[str, Any] = store.settings
            database = None
            if store.server is not None:
                database = stack.enter_context(TcpProxy(store.server.address))
                settings = store.server.settings_at("127.0.0.1", database.port)
            # A busy machine is no outage.
            own = {**settings, "rules": RULES, "db_timeout": 20, "db_error_action": AWAY}
            daemon = stack.enter_context(Daemon(directory / f"host{number}", **own))
            address = daemon.address
            assert not isinstance(address, str)
            found.append(Host(daemon, stack.enter_context(TcpProxy(address)), database))
        yield found


def do_harm(host: Host, number: int, clients: Clients, total: int) -> None:
    """One kind after the other; no more than ``total`` mails will be admitted."""
    kind = number % KINDS
    if kind == 0:
        host.daemon.kill()
        host.daemon.start()
    elif kind == 1:
        host.postfix.swallow()
        clients.wait_for_admitted(10, total)  # meanwhile the answers of this one get lost
        host.postfix.cut()
    elif kind == 2 and host.database is not None:
        host.database.swallow()
        time.sleep(0.2)  # the lock of the database may be held meanwhile, for which all hosts wait
        host.database.cut()
    else:
        for proxy in (host.postfix, host.database):
            if proxy is not None:
                proxy.cut()


def most_within(sent: Sequence[Sent], seconds: float) -> int:
    """The most that were asked about and answered within ``seconds``: so many were admitted in such a time at least."""
    in_order = sorted(sent, key=lambda one: one.asked)
    begins = [one.asked for one in in_order]
    most = 0
    for first, one in enumerate(in_order):
        end = one.asked + seconds
        most = max(most, sum(other.answered < end for other in in_order[first : bisect_left(begins, end)]))
    return most


@pytest.mark.long(40)
@pytest.mark.parametrize("store", ["sqlite", "postgresql", "mariadb", "redis"])
def test_exactly_what_three_rules_allow_while_daemons_die_and_connections_break(
    tmp_path: pathlib.Path, store: str
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    harm = itertools.count()
    with (
        STORES[store](tmp_path) as empty,
        hosts(tmp_path, empty) as four,
        Clients([("127.0.0.1", host.postfix.port) for host in four], random.Random(seed)) as clients,
    ):

        def go_on_until(total: int) -> None:
            """One harm after the other, until so many mails have been admitted."""
            while len(clients.admitted) < total:
                clients.wait_for_admitted(50, total)
                number = next(harm)
                do_harm(four[(number + number // KINDS) % DAEMONS], number, clients, total)

        of_first = len(SMALL) * 5 * PERSON + len(LARGE) * DOMAIN
        go_on_until(of_first)  # persons and domains have all that they may
        by_user, by_domain, total = clients.used()
        assert {user: by_user[user] for user in users(SMALL, 5)} == dict.fromkeys(users(SMALL, 5), PERSON)
        assert {domain: by_domain[domain] for domain in LARGE} == dict.fromkeys(LARGE, DOMAIN)
        assert total == of_first < MACHINE

        clients.choice = FIRST + users(OTHERS, 10)
        go_on_until(MACHINE)
        clients.pause, clients.further = 0.0, 9  # all of them are refused
        do_harm(four[0], 0, clients, MACHINE)
        clients.wait_for(lambda: clients.mails >= MAILS, "all mails are sent")
    by_user, by_domain, total = clients.used()
    assert total == MACHINE
    assert max(by_user.values()) == PERSON
    assert max(by_domain.values()) == DOMAIN
    assert most_within(clients.admitted, 1.0) <= RATE
    assert next(harm) >= 8
    assert clients.repeated[SUCCESS] > 0
    refusals = {answer for answer in clients.answers if answer not in (SUCCESS, AWAY)}
    assert {word for answer in refusals for word in ("person", "domain", "machine", "reach") if word in answer} == {
        "domain",
        "machine",
        "reach",
    }, refusals
