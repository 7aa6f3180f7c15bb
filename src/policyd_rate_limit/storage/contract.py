"""What every store does, and how it says that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from policyd_rate_limit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Hits, HourOfHits, Override
    from policyd_rate_limit.storage.batch import Batch
    from policyd_rate_limit.storage.heartbeat import Introduction
    from policyd_rate_limit.storage.record import Record


class CommitFailed(StoreError):
    """The batch was decided and counted in memory, but it may not be in the database.

    ``record`` is to be kept elsewhere and to be replayed, ``verdicts`` hold once it is kept. It is None when
    nothing was counted.
    """

    def __init__(self, message: str, verdicts: list[Verdict], record: Record | None) -> None:
        super().__init__(message)
        self.verdicts = verdicts
        self.record = record


class Refused(StoreError):
    """All is decided and in the database, but for what that does not take and will not take as it is.

    ``records`` are that, and ``waited`` what was pending: to be kept elsewhere, and to be offered again now and then.
    ``verdicts`` hold; those at ``unkept`` only once ``records`` are kept. ``reasons``: counter -> why.
    """

    def __init__(
        self,
        verdicts: list[Verdict],
        records: Sequence[Record],
        reasons: Mapping[str, str],
        unkept: Sequence[int] = (),
        waited: Sequence[Record] = (),
    ) -> None:
        super().__init__("; ".join(dict.fromkeys(reasons.values())))
        self.verdicts = verdicts
        self.records = records
        self.reasons = reasons
        self.unkept = unkept
        self.waited = waited


class Store(Protocol):
    """A database that several daemons may share. One thread at a time calls its methods; all but ``prepare`` block."""

    @property
    def reach(self) -> int:
        """The longest window (seconds) that anybody may be judged by: what is older counts for nothing."""

    @property
    def installation(self) -> str | None:
        """The identity of the installation whose database this is, made once and kept in the database.

        None: the database has not been reached yet. Empty: it can keep none.
        """

    def propose(self, installation: str) -> None:
        """A database that has no identity yet is to have this one, unless it is empty."""

    def prepare(self, demands: Sequence[Demand], patience: float) -> Batch | None:
        """Decide ``demands`` in order without waiting for anybody, where that is possible.

        None: nothing was decided, :meth:`admit` is to do it.
        """

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """Decide ``demands`` in order; the verdicts are durable when this returns.

        ``pending`` are records that were decided while the database was away: they are stored first, each of them once,
        whatever of them may be there already. ``patience``: how many seconds to
        wait for others at the most.

        :raises StoreUnavailable: nothing was decided; ``pending`` may not be dropped. So it is, once, when a database
            of another installation has taken the place of the one that was there.
        :raises CommitFailed: decided, but perhaps not stored; ``pending`` may not be dropped.
        :raises Refused: decided; but for what that names all is stored, ``pending`` too.
        """

    def offer(self, records: Sequence[Record], patience: float) -> None:
        """See whether the database takes by now what it has refused; what it takes is stored once.

        :raises Refused: it does not take what that names.
        :raises StoreUnavailable: it does not answer.
        """

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """How the limits of each of ``demands`` stand, as far as this daemon knows; nothing is counted.

        :raises StoreUnavailable: only the database knows, and does not say.
        """

    def need(self, seconds: int) -> None:
        """A window of ``seconds`` is in use: what lies in it is remembered, or read, before the next :meth:`admit`.

        May be called from another thread than the rest.
        """

    def look_back(self, seconds: int) -> None:
        """Ids that had shorter windows have some of up to ``seconds`` now: what lies in them is read before the next
        :meth:`admit`, as memory keeps no more of an id than its limits ask for.

        May be called from another thread than the rest.
        """

    def add_hits(self, hits: Sequence[Hits]) -> None:
        """Keep ``hits`` for the report, of a key and a window at most once each.

        :raises StoreUnavailable: they may not have been kept.
        """

    def add_history(self, rows: Sequence[HourOfHits]) -> None:
        """Add ``rows``, of an hour, key, limit and kind at most once each, to the hit history of all daemons.

        :raises StoreUnavailable: they may not have been kept.
        """

    def clean_trails(self) -> bool:
        """Delete some of what is too old, or too much, of hit history and audit trail; whether more is to be deleted.

        :raises StoreUnavailable: the database does not answer.
        """

    def beat(self, who: Introduction, uptime: int, waiting: int) -> None:
        """Tell of this daemon that it is at work: who it is, for how many seconds, how many batches wait.

        Where the database does not let it, that is said in the log once an hour, and no more becomes of it.

        :raises StoreUnavailable: the database does not answer.
        """

    def leave(self) -> None:
        """This daemon ends, and is not to be missed.

        :raises StoreUnavailable: the database does not answer.
        """

    def block(self, blocks: Sequence[Override]) -> int:
        """Put ``blocks`` in force, each unless there is an override in force of its key, which stays as it is.

        :returns: for how many there was no room, with :data:`policyd_rate_limit.storage.administration.MOST_BLOCKS` in
            force.
        :raises StoreUnavailable: they may not be in force.
        """

    def overrides(self) -> list[Override] | None:
        """Those in force; None: they are as at the last call, or the database has not been reached yet.

        :raises StoreUnavailable: the database does not answer.
        """

    def probe(self, patience: float) -> None:
        """See whether the database is there, and has a turn for a batch within ``patience`` seconds.

        May be called from another thread than the rest.

        :raises StoreError: it is not.
        """

    def reload(self) -> None:
        """Distrust the memory: rebuild it from the database, once that is there."""

    def clean(self, patience: float, limits_of: Callable[[str], Limits | None] | None = None) -> int:
        """Delete what no window reaches any more, while daemons use the database; how many entries that were.

        ``limits_of`` gives the limits of a counter where they are not those of the configuration. ``patience``: how
        many seconds to wait for the daemons at the most.

        :raises StoreUnavailable: the database cannot be cleaned now.
        """

    def maintain(self) -> None:
        """Do what is not urgent; called about once a second."""

    def close(self) -> None:
        """Let go of the database."""
