"""The counts in Redis as a copy reads and writes them: see :mod:`policyd_rate_limit.storage.copying`.

What was brought is noted beside each counter, for as long as it counts there::

    policyd:k:{tag}source    hash: Unix second -> how much of it was brought from ``source``;
                             or value -> second in which it came last there
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.storage.copying import Sums, changes
from policyd_rate_limit.storage.redis.encoding import decoded, encoded, pairs
from policyd_rate_limit.storage.redis.node import refusable, script
from policyd_rate_limit.storage.redis.tables import charges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.storage.copying import Change, What
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
            values = dict(self._administration.values([name for name, _ in found if is_distinct(name)]))
            known = [(name, fields) for name, fields in found if name in values or not is_distinct(name)]
            self.refused += len(asked) - len(known)
            brought = self._brought([name for name, _ in known], target)
            yield [_sums(name, fields, values.get(name), brought[name]) for name, fields in known]

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
        of_values = is_distinct(counter)
        arguments: list[Argument] = ["", 0, keep, "", "copy values" if of_values else "copy"]
        for _, what, old, new in missing:
            arguments += (encoded(what) if isinstance(what, str) else what, old, new)
        keys = [self._keys.counter(counter), self._keys.copy(counter, self._source)]
        if of_values:
            keys.append(self._keys.values(counter))
        return refusable(script(keys, arguments))

    def _brought(self, counters: Sequence[str], source: int) -> dict[str, dict[What, int]]:
        """What of each of ``counters`` came from ``source``."""
        found = self._administration.read([(counter, self._keys.copy(counter, source)) for counter in counters])
        brought: dict[str, dict[What, int]] = {counter: {} for counter in counters}
        for counter, fields in found:
            of_values = is_distinct(counter)
            brought[counter] = {
                decoded(what) if of_values else int(what): int(amount) for what, amount in pairs(fields)
            }
        return brought


def _sums(counter: str, fields: Sequence[bytes], values: dict[str, int] | None, brought: dict[What, int]) -> Sums:
    reset = int(dict(pairs(fields)).get(b"r") or 0)
    if values is not None:
        oldest = min(values.values(), default=LARGEST)
        return Sums(
            counter, {value: date for value, date in values.items() if date > brought.get(value, 0)}, oldest, reset
        )
    amounts: dict[int, int] = {}
    for date, amount in charges_of(fields):
        amounts[date] = amounts.get(date, 0) + amount
    oldest = min(amounts, default=LARGEST)
    own: dict[What, int] = {date: max(0, amount - brought.get(date, 0)) for date, amount in amounts.items()}
    return Sums(counter, own, oldest, reset)
