"""The databases that may keep the counts: one object for each, which knows all that differs between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.backends.mysql import MysqlBackend
from policyd_rate_limit.backends.postgresql import PostgresqlBackend
from policyd_rate_limit.backends.redis import RedisBackend
from policyd_rate_limit.backends.sqlite import SqliteBackend

if TYPE_CHECKING:
    from policyd_rate_limit.backends.contract import Backend
    from policyd_rate_limit.config import Settings

_BACKENDS: dict[int | str, type[Backend]] = {
    kind.database.backend: kind for kind in (SqliteBackend, MysqlBackend, PostgresqlBackend, RedisBackend)
}


def backend_of(settings: Settings) -> Backend:
    """The database that ``settings`` ask for; nothing is connected, and no driver is loaded yet."""
    return _BACKENDS[settings.backend](settings)
