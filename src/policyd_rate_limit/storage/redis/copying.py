"""The counts in Redis as a copy reads and writes them: see :mod:`policyd_rate_limit.storage.copying`.

What was brought is noted beside each counter, for as long as it counts there::

    policyd:k:{tag}source    hash: Unix second -> how much of it was brought from ``source``
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.storage.copying import Sums, changes
from policyd_rate_limit.storage.redis.node import refusable, script
from policyd_rate_limit.storage.redis.tables import charges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.storage.copying import Change
    from policyd_rate_limit.storage.redis.administration import RedisAdministration
    from policyd_rate_limit.storage.redis.node import Argument, Command

CHANGES_PER_SCRIPT: Final = 200  # a millisecond or two, in which the server serves nobody else
SCRIPTS_PER_EXCHANGE: Final = 50  # so that each ends within the timeout

_logger = logging.getLogger(__name__)


class RedisCopying:
    """Copies counters of Redis, from or to: a :class:`policyd_rate_limit.storage.copying.Copier`, whose methods are
    described there.
    """

    def __init__(self, administration: RedisAdministration) -> None:
        self.refused = 0
        self._administration = administration
        self._keys = administration.keys
        self._source = 0
        self._takes: Callable[[str], bool] = lambda _: False

    def size(self) -> int:
        """A page of counters at a time."""
        return 0

    def size_brought(self, source: int) -> int:  # noqa: ARG002 - likewise
        return 0

    def sums(self, target: int, takes: Callable[[str], bool]) -> Iterator[Sequence[Sums]]:
        for counters in self._administration.counters():
            asked = [(name, key) for name, key in counters if takes(name)]
            found = self._administration.read(asked)
            self.refused += len(asked) - len(found)
            brought = self._brought([name for name, _ in found], target)
            yield [_sums(name, fields, brought[name]) for name, fields in found]

    def begin(self, source: int, takes: Callable[[str], bool]) -> None:
        self._source, self._takes = source, takes

    def add_sums(self, page: Sequence[Sums], keep: int) -> int:
        keep = max(keep, self._administration.longest)
        oldest = self._administration.now() - keep
        brought = self._brought([found.counter for found in page], self._source)
        commands: list[Command] = []
        for found in page:
            there = brought[found.counter]
            missing = [change for change in changes(found, there) if change.date > oldest]  # the others count no more
            firsts = range(0, len(missing), CHANGES_PER_SCRIPT)
            commands += (self._command(missing[first : first + CHANGES_PER_SCRIPT], keep) for first in firsts)
        for first in range(0, len(commands), SCRIPTS_PER_EXCHANGE):
            self._administration.run(commands[first : first + SCRIPTS_PER_EXCHANGE])
        refused = {command.key: command.failure for command in commands if command.reply is None}
        for key, failure in refused.items():
            _logger.error("nothing can be counted in %r, which is left out: %s", key, failure)
        self.refused += len(refused)
        return sum(int(command.reply or 0) for command in commands)

    def nameless(self, counter: str) -> bool:  # noqa: ARG002 - a digest is enough
        return False

    def _command(self, missing: Sequence[Change], keep: int) -> Command:
        counter = missing[0].counter
        arguments: list[Argument] = ["", 0, keep, "", "copy"]
        for _, date, old, new in missing:
            arguments += (date, old, new)
        return refusable(script([self._keys.counter(counter), self._keys.copy(counter, self._source)], arguments))

    def _brought(self, counters: Sequence[str], source: int) -> dict[str, dict[int, int]]:
        """What of each of ``counters`` came from ``source``."""
        found = self._administration.read([(counter, self._keys.copy(counter, source)) for counter in counters])
        brought: dict[str, dict[int, int]] = {counter: {} for counter in counters}
        for counter, fields in found:
            brought[counter] = {int(date): int(amount) for date, amount in _pairs(fields)}
        return brought


def _sums(counter: str, fields: Sequence[bytes], brought: dict[int, int]) -> Sums:
    amounts: dict[int, int] = {}
    for date, amount in charges_of(fields):
        amounts[date] = amounts.get(date, 0) + amount
    oldest = min(amounts, default=LARGEST)
    reset = dict(_pairs(fields)).get(b"r")
    own = {date: max(0, amount - brought.get(date, 0)) for date, amount in amounts.items()}
    return Sums(counter, own, oldest, int(reset or 0))


def _pairs(fields: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(fields[::2], fields[1::2], strict=True)
