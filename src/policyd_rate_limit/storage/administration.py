"""What an administrator asks of a store and tells it, beside the running daemons: the contract.

Every method blocks, and raises StoreError when the database does not answer. A *key* is the name of a counter, such as
``user:alice``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from policyd_rate_limit.domain.charge import Entry
    from policyd_rate_limit.domain.limits import Limits

MOST_OVERRIDES = 10_000  # in force at once
MOST_BLOCKS = 8_000  # of these, beyond which daemons put no further one in force: the rest is for administrators
MOST_HITS = 100_000  # that are told at once
HITS_AT_ONCE = 500  # that are counted all or none
LONGEST_NOTE = 1_000  # characters
PATIENCE = 30.0  # seconds to wait for the daemons, where they have to be kept from the database


class Hits(NamedTuple):
    """How often ``key`` ran into its limit of ``seconds`` since the last report, at ``last`` (Unix second) most lately.

    ``last`` is 0 where it is not known: an older version has counted.
    """

    key: str
    seconds: int
    hits: int
    last: int


class Override(NamedTuple):
    """``limits`` in place of all others for ``key``, until the second ``until`` (Unix) of the store's clock.

    ``(Limit(0, 1),)`` blocks, ``()`` is no limit at all. ``note`` is the administrator's, or says
    which limit of which rule the daemon has blocked ``key`` for.
    """

    key: str
    limits: Limits
    until: int
    note: str = ""


class MayNotList(StoreError):
    """The database is there, but does not let this user see whom it has counts of."""


class Administration(Protocol):
    """An open store. For one thread at a time."""

    def now(self) -> int:
        """The Unix second, by the clock that all daemons share."""

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        """What was counted for ``keys``, None for all, and is dated ``since`` (Unix second) or later; in no order.

        What was given back comes as entries of negative amounts, behind those that it is taken from. Keeps no daemon
        waiting, and holds little of it in memory at a time. How far back it goes: twice the longest window with SQL,
        the windows in use with Redis.
        """

    def follow(self, since: int) -> Iterator[Sequence[Entry]]:
        """What was counted since ``since`` (Unix second), and what is counted from then on: page after page, for ever.

        An empty page: there is nothing more yet. Ask for the next one a little later.
        """

    def reset(self, key: str) -> int:
        """Take back all that was counted for ``key``, in every daemon at once; how many mails that were."""

    def overrides(self) -> list[Override]:
        """Those in force, by key."""

    def set_override(self, override: Override) -> None:
        """Put ``override`` in force, in place of the one of the same key.

        :raises StoreFull: there are :data:`MOST_OVERRIDES` already.
        """

    def remove_override(self, key: str) -> bool:
        """End the override of ``key``; whether there was one in force."""

    def hits(self) -> list[Hits]:
        """Those since the last report, those of the most hits first, and :data:`MOST_HITS` at the most."""

    def add_hits(self, hits: Sequence[Hits]) -> None:
        """Count ``hits``, of a key and a window at most once each; up to :data:`HITS_AT_ONCE` in one step.

        Those of windows of 0 and less seconds are notes of a copy: see :meth:`copied`.
        """

    def copied(self) -> dict[tuple[str, int], int]:
        """The notes of :mod:`policyd_rate_limit.storage.copying` in this database: (name, 0 or less) -> number.

        They are kept as hits are, of windows that there are not, so that both change in one step; no report tells them.
        """

    def forget_hits(self, hits: Sequence[Hits]) -> None:
        """These were reported: take them off. What came meanwhile stays."""

    def close(self) -> None:
        """Let go of the database. Never raises."""


def longest_window(overrides: Iterable[Override]) -> int:
    """The longest of ``overrides``, in seconds; 0 where there is none."""
    return max((longest_of(override.limits) for override in overrides), default=0)
