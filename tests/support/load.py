"""Many policy connections at once, as a busy Postfix holds them, and a tally of what was answered to whom."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

import uvloop

from support.daemon import Client, Daemon, encode, mail
from support.wait import wait_until

Address = str | tuple[str, int]
SUCCESS = "dunno"
REFUSAL = "defer_if_permit "
ANSWER_SECONDS = 30.0
RECONNECT_SECONDS = 0.02
RATE = 1000.0  # requests in a second; as many as daemons take would keep the processors from what a test waits for
BUSY = 3  # times as long as another daemon may one take whose database is away, where both take long


class Tally:
    """What happened to the mails of each user.

    ``unanswered`` counts requests that may have left and that no answer came to: the daemon may have counted
    them or not. ``others`` counts the answers that are neither success nor refusal.
    """

    def __init__(self) -> None:
        self.admitted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.seconds: list[float] = []

    def note(self, user: str, action: str, seconds: float) -> None:
        """Book the answer ``action`` to a mail of ``user``, which took ``seconds``."""
        self.seconds.append(seconds)
        if action == SUCCESS:
            self.admitted[user] += 1
        elif action.startswith(REFUSAL):
            self.refused[user] += 1
        else:
            self.others[action] += 1


def answer_times(daemons: Sequence[Daemon], seconds: float) -> list[list[float]]:
    """What each of ``daemons`` takes to answer (seconds), sorted, while they are asked by turns for ``seconds``.

    A machine that is busy is so for all of them. Any answer but success is an AssertionError.
    """
    times: list[list[float]] = [[] for _ in daemons]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(daemon.address)) for daemon in daemons]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for client, its in zip(clients, times, strict=True):
                began = time.monotonic()
                assert client.ask(**mail("alice")) == SUCCESS
                its.append(time.monotonic() - began)
            time.sleep(0.01)
    return [sorted(its) for its in times]


async def _open(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


async def _converse(
    address: Address, users: Iterator[str], tally: Tally, stop: Callable[[], bool], *, insist: bool, pause: float
) -> None:
    """One connection: a mail of the next of ``users`` after the other, to their end or until ``stop``.

    With ``insist`` a refused or broken connection is opened again, as Postfix does; else it is an error. Between an
    answer and the next mail are ``pause`` seconds.
    """
    while not stop():
        try:
            reader, writer = await _open(address)
        except OSError:
            if not insist:
                raise
            await asyncio.sleep(RECONNECT_SECONDS)
            continue
        try:
            for user in users:
                began = time.perf_counter()
                tally.unanswered[user] += 1
                writer.write(encode(**mail(user)))
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await reader.readuntil(b"\n\n")
                tally.unanswered[user] -= 1
                assert answer.startswith(b"action="), answer
                tally.note(user, answer[7:-2].decode(), time.perf_counter() - began)
                if pause:
                    await asyncio.sleep(pause)
                if stop():
                    break
            else:
                break
        except (OSError, asyncio.IncompleteReadError) as error:
            if not insist or isinstance(error, TimeoutError):
                raise
        finally:
            writer.close()


async def _converse_all(
    addresses: Sequence[Address],
    connections: int,
    users: Iterator[str],
    tally: Tally,
    stop: Callable[[], bool],
    *,
    insist: bool,
    pause: float = 0.0,
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            address = addresses[number % len(addresses)]
            group.create_task(_converse(address, users, tally, stop, insist=insist, pause=pause))


def ask_all(
    addresses: Sequence[Address], users: Iterable[str], *, connections: int = 64, tally: Tally | None = None
) -> Tally:
    """A mail of each of ``users``, over ``connections`` in all, spread evenly over ``addresses``."""
    tally = tally or Tally()
    uvloop.run(_converse_all(addresses, connections, iter(users), tally, lambda: False, insist=False))
    return tally


class Background:
    """The same in a thread of its own while a ``with`` block runs; broken connections are opened again.

    ``users`` may be endless; the end of the block ends the load, after the answers that are on their way. Without
    ``insist`` a broken connection is an error. All connections together send at most ``rate`` requests in a second,
    many at a time.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        users: Iterator[str],
        *,
        connections: int = 64,
        tally: Tally | None = None,
        insist: bool = True,
        rate: float = RATE,
    ) -> None:
        self.tally = tally or Tally()
        self._arguments = (addresses, connections, users)
        self._insist = insist
        self._pause = connections / rate
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def _run(self) -> None:
        try:
            stop = self._stop.is_set
            uvloop.run(_converse_all(*self._arguments, self.tally, stop, insist=self._insist, pause=self._pause))
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread by __exit__
            self._error = error

    def wait_for_answers(self, number: int) -> None:
        """Wait until ``number`` more requests have been answered."""
        before = len(self.tally.seconds)
        wait_until(lambda: len(self.tally.seconds) >= before + number, f"{number} more answers")

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(2 * ANSWER_SECONDS)
        assert not self._thread.is_alive(), "the load does not end"
        if self._error is not None and error is None:
            raise self._error


def admit_until_refused(address: Address, user: str, most: int) -> int:
    """How many more mails of ``user`` are admitted, one after the other, until one is refused.

    Stops at ``most`` + 1, which no test allows.
    """
    with Client(address) as client:
        for admitted in range(most + 1):
            action = client.ask(**mail(user))
            if action != SUCCESS:
                assert action.startswith(REFUSAL), action
                return admitted
    return most + 1


def left_for_all(address: Address, users: Iterable[str], most: int) -> dict[str, int]:
    """:func:`admit_until_refused` for each of ``users``, many at once."""
    left: dict[str, int] = {}

    async def exhaust(waiting: Iterator[str]) -> None:
        reader, writer = await _open(address)
        try:
            for user in waiting:
                left[user] = 0
                while left[user] <= most:
                    writer.write(encode(**mail(user)))
                    async with asyncio.timeout(ANSWER_SECONDS):
                        answer = await reader.readuntil(b"\n\n")
                    action = answer[7:-2].decode()
                    if action != SUCCESS:
                        assert action.startswith(REFUSAL), action
                        break
                    left[user] += 1
        finally:
            writer.close()

    async def exhaust_all() -> None:
        waiting = iter(users)
        async with asyncio.TaskGroup() as group:
            for _ in range(32):
                group.create_task(exhaust(waiting))

    uvloop.run(exhaust_all())
    return left
