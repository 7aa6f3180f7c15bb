"""The databases that the tests of :mod:`policyd_rate_limit.storage.administration` run on."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod

from policyd_rate_limit.storage.administration import Administration
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.copying import Copier
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.log.copying import LogCopying
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.copying import RedisCopying
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.logs import TIMEOUT, Logs
from storage.redis_database import RedisDatabase
from storage.stores import HOUR, PATIENCE, new_memory


class Administered(ABC):
    """An empty database of one test, its daemons' stores and its administrators."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()

    def store(self, longest: int = HOUR) -> Store:
        """A daemon's, with a memory of its own; ``longest``: its longest window (seconds)."""
        store = self._store(longest)
        self._opened.callback(store.close)
        return store

    @abstractmethod
    def copier(self, administration: Administration) -> Copier:
        """What copies from and to an :meth:`administration` of this database."""

    def administration(self) -> Administration:
        """Of this database."""
        administration = self._administration()
        self._opened.callback(administration.close)
        return administration

    @abstractmethod
    def _store(self, longest: int = HOUR) -> Store: ...

    @abstractmethod
    def _administration(self) -> Administration: ...

    @abstractmethod
    def break_connections(self) -> None:
        """Those that are open are lost."""

    def close(self) -> None:
        """Close what is open, and remove the database."""
        self._opened.close()


class AdministeredLog(Administered):
    """A database with a log."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self.logs = logs

    def _store(self, longest: int = HOUR) -> LogStore:
        return LogStore(
            self.logs.open,
            new_memory(time.time),
            longest=longest,
            counters_of_old_id=lambda old_id: (f"user:{old_id}",),
        )

    def copier(self, administration: Administration) -> LogCopying:
        assert isinstance(administration, LogAdministration)
        return LogCopying(administration)

    def _administration(self) -> LogAdministration:
        store = self._store()
        return LogAdministration(
            lambda: store.connect(TIMEOUT),
            new_memory(time.time),
            longest=HOUR,
            key_of_old_id=lambda old_id: f"user:{old_id}",
        )

    def break_connections(self) -> None:
        for log in self.logs.opened:
            log.close()

    def close(self) -> None:
        super().close()
        self.logs.close()


class AdministeredRedis(Administered):
    """A prefix on a server of Redis."""

    def __init__(self, database: RedisDatabase) -> None:
        super().__init__()
        self.database = database

    def _store(self, longest: int = HOUR) -> RedisStore:
        return self.database.store(None, longest=longest)

    def copier(self, administration: Administration) -> RedisCopying:
        assert isinstance(administration, RedisAdministration)
        return RedisCopying(administration)

    def _administration(self) -> RedisAdministration:
        return RedisAdministration(self.database.config, longest=HOUR, timeout=PATIENCE)

    def break_connections(self) -> None:
        with self.database.outage():
            pass
