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

    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.storage.heartbeat import Heartbeat

MOST_OVERRIDES = 10_000  # in force at once
MOST_BLOCKS = 8_000  # of these, beyond which daemons put no further one in force: the rest is for administrators
MOST_HITS = 100_000  # that are told at once
HITS_AT_ONCE = 500  # that are counted all or none
LONGEST_NOTE = 1_000  # characters
LONGEST_DETAIL = 320  # characters of each value that is kept of a request; no address is longer
HOUR = 3_600  # seconds
HISTORY_DAYS = 31  # that the hit history goes back
HISTORY_ROWS_PER_HOUR = 1_000  # what runs into limits beyond that is added up by rule, see OTHERS
MOST_HISTORY_ROWS = 200_000  # in all: beyond that the oldest hours go
AUDIT_DAYS = 400  # that the audit trail goes back
MOST_AUDIT_ENTRIES = 100_000  # beyond that the oldest go
OTHERS = "others"  # the kind of the counter, without an id, that stands for those beyond HISTORY_ROWS_PER_HOUR
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


class HitDetails(NamedTuple):
    """What Postfix said of the request that ran into a limit: each the beginning, of :data:`LONGEST_DETAIL` characters.

    Empty where Postfix said nothing: there is no queue id before the first recipient is accepted, for instance.
    """

    queue_id: str
    client_address: str
    sender: str
    recipient: str
    instance: str


class HourOfHits(NamedTuple):
    """In the hour that began at the Unix second ``hour``, ``hits`` requests of ``key`` ran into ``limit``.

    ``kind`` is the verdict that the log has for them: ``refused`` (by a block where ``limit`` is ``(0, 1)``),
    ``marked``, ``would-refuse``, ``blocked`` and ``would-block``. ``first`` and ``last`` are when (Unix seconds),
    ``details`` are those of the last. Where more than :data:`HISTORY_ROWS_PER_HOUR` would be kept of an hour, the rest
    has ``[rule|]others:`` for its key, ``(0, 0)`` for its limit and one row for each kind.
    """

    hour: int
    key: str
    limit: Limit
    kind: str
    hits: int
    first: int
    last: int
    details: HitDetails


class Actor(NamedTuple):
    """``who`` asks for a change, the name of a login; ``from_where``: ``shell on HOST``, or an address and by what."""

    who: str
    from_where: str


class AuditEntry(NamedTuple):
    """The change with that ``number``, which grows, at the Unix second ``date`` of the store's clock.

    ``who`` and ``from_where`` are those of its :class:`Actor`. ``action``: ``allow``, ``block``, ``revoke``, ``reset``
    or ``copy-to``, or what another part of this program calls what it does. ``subject`` is what was changed: a counter,
    or what else the action is about. ``detail`` says how, in words; ``note`` why, in those of ``who``.
    """

    number: int
    date: int
    who: str
    from_where: str
    action: str
    subject: str
    detail: str
    note: str


class OriginalHits(NamedTuple):
    """``hits``, as the database has them that is known to copies by the number ``origin``; 0: the one that tells it.

    A copy brings them along under their origin, so that the next copy finds them there.
    """

    origin: int
    hits: HourOfHits


class OriginalEntry(NamedTuple):
    """``entry``, which had ``number`` in the database of that ``origin``, as of :class:`OriginalHits`."""

    origin: int
    number: int
    entry: AuditEntry


class MayNotList(StoreError):
    """The database is there, but does not let this user see whom it has counts of."""


class Administration(Protocol):
    """An open store. For one thread at a time.

    Whoever changes something says by which :class:`Actor`: that is kept with the change in the audit trail.
    """

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

    def reset(self, key: str, by: Actor, note: str = "") -> int:
        """Take back all that was counted for ``key``, in every daemon at once; how many mails. ``note``: why."""

    def overrides(self) -> list[Override]:
        """Those in force, by key."""

    def set_override(self, override: Override, by: Actor | None) -> None:
        """Put ``override`` in force, in place of the one of the same key.

        ``by`` is None for a copy, which says in one entry what it does.

        :raises StoreFull: there are :data:`MOST_OVERRIDES` already.
        """

    def remove_override(self, key: str, by: Actor | None, note: str = "") -> bool:
        """End the override of ``key``; whether there was one in force. ``by``: as above; ``note``: why."""

    def replace_override(self, override: Override, seen: Override | None, by: Actor) -> bool:
        """Put ``override`` in force in place of ``seen``, None: of none, in one step with finding out whether it is so.

        False: another one is in force by now, or none. (Or it was put in force, and somebody else changed it at once.)

        :raises StoreFull: there are :data:`MOST_OVERRIDES` already.
        """

    def end_override(self, seen: Override, by: Actor, note: str = "") -> bool:
        """End ``seen``, in one step with finding out whether it is in force; False: another one is by now, or none."""

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

    def hit_history(
        self, since: int, *, keys: Collection[str] | None = None, kinds: Collection[str] | None = None
    ) -> Iterator[HourOfHits]:
        """What ran into limits in the hour of ``since`` (Unix second) and later, oldest hour first.

        Only of those ``keys`` and of those ``kinds``; None: of all. Holds an hour of them in memory at a time.
        """

    def find_queue_id(self, queue_id: str) -> Iterator[HourOfHits]:
        """Those of the hit history whose last request was of the mail ``queue_id``, latest hour first."""

    def history_pages(self) -> Iterator[Sequence[OriginalHits]]:
        """All of the hit history, an hour at a time, for a copy."""

    def bring_history(self, page: Sequence[OriginalHits]) -> int:
        """Have of each origin what ``page`` says, unless it is there already; how many hits are new by that."""

    def audit(
        self, since: int = 0, *, most: int = 100, before: int | None = None, subjects: Collection[str] | None = None
    ) -> list[AuditEntry]:
        """The latest changes first: ``most`` of those since ``since`` (Unix second).

        ``before``: only those with lower numbers, for the next page. ``subjects``: only those about these.
        """

    def note(self, by: Actor, action: str, subject: str, detail: str = "", note: str = "") -> None:
        """Enter into the audit trail what ``by`` did that no other method here does; it is durable afterwards."""

    def audit_pages(self) -> Iterator[Sequence[OriginalEntry]]:
        """All of the audit trail, oldest first, for a copy."""

    def bring_audit(self, page: Sequence[OriginalEntry]) -> int:
        """Enter what is not there yet, under numbers of this database; how many entries that were."""

    def heartbeats(self) -> list[Heartbeat] | None:
        """The last one of each daemon, those first that were heard of last; None: none can be kept here.

        Daemons of an older version say nothing of themselves.
        """

    def close(self) -> None:
        """Let go of the database. Never raises."""


def longest_window(overrides: Iterable[Override]) -> int:
    """The longest of ``overrides``, in seconds; 0 where there is none."""
    return max((longest_of(override.limits) for override in overrides), default=0)
