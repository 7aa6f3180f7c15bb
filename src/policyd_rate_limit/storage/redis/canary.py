"""Tells a server that refuses everybody from one that refuses some keys.

One id's key may be of another type, or out of reach of our user: that is the matter of this id alone. A server that
refuses everybody is away. A key of nobody, written in the same way as all others, tells the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.storage.redis.keys import lane_of
from policyd_rate_limit.storage.redis.node import Remedy, script

if TYPE_CHECKING:
    from policyd_rate_limit.storage.redis.keys import Keys
    from policyd_rate_limit.storage.redis.link import Link
    from policyd_rate_limit.storage.replica import Memory

COUNTER = ""  # no id has an empty name
SECONDS = 60


class Canary:
    """A counter in which nothing is ever counted."""

    def __init__(self, memory: Memory, keys: Keys, link: Link) -> None:
        self._memory = memory
        self._key = keys.counter(COUNTER)
        self._link = link

    def check(self) -> None:
        """See that the server takes what is written for nobody.

        :raises NodeError: it does not: the server is of no use to anybody.
        """
        number = self._memory.next_number()
        lane = lane_of(self._memory.writer, number)
        command = script([self._key], (lane, number, SECONDS, self._link.time, "replay", 0, 0, 0, 0, 0, ""))
        self._link.run((command,), self._link.end())
        if command.failure is not None:
            command.failure.remedy = Remedy.NONE
            raise command.failure
