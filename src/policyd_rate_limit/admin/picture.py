"""What is known of a store at one moment: as a whole, and of one counter."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.admin.senders import Sender
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.heartbeat import Heartbeat


class Picture(NamedTuple):
    """What is known, as of ``now`` (Unix second, of the store).

    ``limited``: those that get no further mail through, or would not in a rule in shadow; ``close``: those that have
    used :data:`.remembering.CLOSE` of a limit or more; both without those that an override blocks, and those first that
    have used most. ``mails`` of each are those of the last hour. ``overrides``: those in force. ``ids``: of how many
    anything is on record; ``more``: how many are limited or close beyond :data:`.remembering.MOST_CLOSE`. ``crowded``:
    there are more ids than ``max_ids``, of which figures may be too high.

    ``read``: how many entries were read so far, while the first reading goes on; None: all are. ``failure``: why the
    store is not read any more. ``since``: the moment of the last look, by ``time.monotonic``. ``hidden``: the store is
    there, and does not let its user see whom it has counts of. ``heartbeats``: of the daemons that use it; None: that
    is not known there.
    """

    now: int = 0
    since: float = 0.0
    limited: tuple[Sender, ...] = ()
    close: tuple[Sender, ...] = ()
    overrides: tuple[Override, ...] = ()
    ids: int = 0
    more: int = 0
    crowded: bool = False
    read: int | None = 0
    failure: str | None = None
    hidden: str | None = None
    heartbeats: tuple[Heartbeat, ...] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all that lies in the windows has been read."""
        return self.read is None


class Seen(NamedTuple):
    """How the limits of one counter stand (``usages``), and its ``charges``: (Unix second, amount), oldest first."""

    usages: tuple[Usage, ...]
    charges: Sequence[tuple[int, int]]
