"""Which users are blocked, kept for a moment: Dovecot asks at every login, and must not wait for a database."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.counter import kind_of
from policyd_rate_limit.domain.ids import fold, id_of_key
from policyd_rate_limit.domain.rules.attributes import folded_name
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.system.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.web.desks import Desks

FRESH_SECONDS = 2.0
"""So long what was read is used: daemons heed a block within as long."""

PATIENCE_SECONDS = 1.0
"""So long a login waits for the database: Dovecot itself waits for two seconds."""

STALE_SECONDS = 600.0
"""So long what was read last counts while the database is away."""

LOG_SECONDS = 60.0

_logger = logging.getLogger(__name__)


class _Known(NamedTuple):
    """``until``: for each user who is blocked, when that ends; ``read``: when this was read. Both by ``clock``."""

    until: dict[str, float]
    read: float


class Blocks:
    """The blocks in force of users, in whatever rule that refuses. ``clock``: a monotonic one, in seconds."""

    def __init__(self, desks: Desks, clock: Callable[[], float]) -> None:
        self._desks = desks
        self._clock = clock
        self._known: _Known | None = None
        self._reading: asyncio.Task[None] | None = None
        self._tells = Throttle(LOG_SECONDS, clock)

    async def is_blocked(self, user: str) -> bool:
        """Whether nothing of ``user`` passes now.

        :raises PolicydError: the database does not say, and has not said for long.
        """
        if self._known is None or self._clock() - self._known.read >= FRESH_SECONDS:
            await self._read()
        now = self._clock()
        if self._known is None or now - self._known.read >= STALE_SECONDS:
            raise PolicydError("the database does not say who is blocked")
        return any(self._known.until.get(name, now) > now for name in _spellings(user))

    async def _read(self) -> None:
        """Read them, once for all who wait; what is wrong is told now and then."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._refresh())
        await asyncio.wait([self._reading], timeout=PATIENCE_SECONDS)

    async def _refresh(self) -> None:
        read = self._clock()
        try:
            left = await self._desks.ask(_blocked)
        except PolicydError as error:
            if self._tells.hit()[0]:
                _logger.warning("web: the blocks cannot be read: %s; Dovecot is told those known before", error)
            return
        self._known = _Known({user: read + seconds for user, seconds in left.items()}, read)


def _blocked(desk: Desk) -> dict[str, int]:
    """Each user who is blocked, and for how many seconds more."""
    now = desk.store.now()
    found: dict[str, int] = {}
    for counter, override in desk.overrides().items():
        blocks = any(limit.maximum == 0 for limit in override.limits)
        if blocks and kind_of(counter) == "user" and not desk.in_force(counter, override, None).shadow:
            name = folded_name(id_of_key(counter))
            found[name] = max(found.get(name, 0), override.until - now)
    return found


def _spellings(user: str) -> tuple[str, str]:
    """As counters have the name of ``user``: those of the settings of version 1, and those of rules."""
    return folded_name(fold(user)), fold(folded_name(user))
