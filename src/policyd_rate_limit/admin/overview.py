"""How the whole stands: the daemon, the database, what waits for it, the overrides, who sends most."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.daemons import judged
from policyd_rate_limit.admin.heaviest import Heaviest
from policyd_rate_limit.admin.senders import Sender, Senders
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.administration import MayNotList
from policyd_rate_limit.system import pidfile

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.admin.daemons import Daemon
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.remembering import Memory
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.heartbeat import Heartbeat

HEAVIEST = 5
"""Of how many who send most the overview tells."""


class Counted(NamedTuple):
    """How much is on record in the last ``seconds``: ``entries``, of so many ``ids``."""

    seconds: int
    entries: int
    ids: int


class Contents(NamedTuple):
    """What the store says, as of ``now`` (Unix second); ``refusal``: why it does not say whom it has counts of.

    ``heartbeats``: of the daemons that use it; None: that is not known there.
    """

    now: int
    counted: Counted | None
    overrides: list[Override]
    heaviest: list[Sender]
    refusal: str | None = None
    heartbeats: list[Heartbeat] | None = None


class SpoolFile(NamedTuple):
    """What waits in a spool file for the database, or why it cannot be read."""

    path: str
    batches: int = 0
    mails: int = 0
    error: str | None = None


class Overview(NamedTuple):
    """``process``: the daemon's, if it runs; ``place``: the database; ``failure``: why ``contents`` is None."""

    process: int | None
    place: str
    contents: Contents | None
    failure: StoreError | None
    spool_files: list[SpoolFile]

    @property
    def daemons(self) -> list[Daemon] | None:
        """All that use the store; None: that is not known there."""
        if self.contents is None or self.contents.heartbeats is None:
            return None
        return judged(self.contents.heartbeats, self.contents.now, self.process)


class Health(NamedTuple):
    """What this host shows without a look into the database: ``process`` is the daemon's, if it runs."""

    process: int | None
    place: str
    spool_files: list[SpoolFile]


def health(settings: Settings) -> Health:
    """Whether the daemon of ``settings`` runs, and what waits for its database. Never raises."""
    return Health(pidfile.running(settings.pidfile), backend_of(settings).describe(), _spool_files(settings))


def overview_by(settings: Settings, desk: Desk, memory: Memory) -> Overview:
    """How the whole stands, at once, of what ``memory`` knows. Raises StoreError."""
    now = desk.store.now()
    seconds = desk.longest(desk.overrides())
    on_record = Counted(seconds, memory.on_record(seconds, now), len(memory.ledger.windows))
    heaviest = Heaviest(desk, memory, seconds).best(HEAVIEST, by_share=True)
    contents = Contents(now, on_record, desk.store.overrides(), heaviest, heartbeats=desk.store.heartbeats())
    process, place, spool_files = health(settings)
    return Overview(process, place, contents, None, spool_files)


def overview(settings: Settings, desk: Desk, among: Callable[[str], bool] | None = None) -> Overview:
    """How the whole stands that ``settings`` are for. Never raises StoreError.

    ``among``: only of the counters of which this holds, and nothing that is of the whole; None: of all.
    """
    contents = failure = None
    try:
        contents = _contents(desk) if among is None else _part(desk, among)
    except StoreError as error:
        failure = error
    process, place, spool_files = health(settings)
    return Overview(process, place, contents, failure, spool_files if among is None else [])


def counted(desk: Desk) -> Counted:
    """How much is on record in the longest window in use. Raises MayNotList."""
    seconds = desk.longest(desk.overrides())
    ids: set[str] = set()
    entries = 0
    for entry in desk.store.entries(None, max(0, desk.store.now() - seconds)):
        entries += 1
        if len(ids) < desk.max_ids:
            ids.add(entry.counter)
    return Counted(seconds, entries, len(ids))


def _contents(desk: Desk) -> Contents:
    try:
        on_record = counted(desk)
    except MayNotList as refusal:
        heartbeats = desk.store.heartbeats()
        return Contents(desk.store.now(), None, desk.store.overrides(), [], str(refusal), heartbeats)
    senders = Senders(desk, on_record.seconds)
    now = senders.look()
    heaviest = senders.heaviest(HEAVIEST, by_share=True)
    return Contents(now, on_record, desk.store.overrides(), heaviest, heartbeats=desk.store.heartbeats())


def _part(desk: Desk, among: Callable[[str], bool]) -> Contents:
    now = desk.store.now()
    return Contents(now, None, [one for one in desk.store.overrides() if among(one.key)], [])


def _spool_files(settings: Settings) -> list[SpoolFile]:
    backend = backend_of(settings)
    try:
        return [
            SpoolFile(str(path), len(records), sum(record.size for record in records))
            for path, records in backend.waiting()
        ]
    except (OSError, ValueError) as error:
        return [SpoolFile(str(backend.spool_directory), error=str(error))]
