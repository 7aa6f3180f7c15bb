"""The policy in force, as reloads and commands change it: rules, the table of limits by id, overrides."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.contract import longest_window
from policyd_rate_limit.backends.limits import make_sql_limits
from policyd_rate_limit.backends.tables import Tables
from policyd_rate_limit.domain.outcome import NO_ANSWER
from policyd_rate_limit.ruling import make_actions, make_policy
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.tables.countries import Countries, asks_for_countries, open_countries

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.changes import Changes
    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.policy import Policy
    from policyd_rate_limit.service import Service
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.storage.engine.engine import Engine
    from policyd_rate_limit.tables.limits import SqlLimits

# The settings that the table of limits by id is read by.
_OF_SQL_LIMITS = frozenset({"sql_limits_by_id", "sql_limits_ttl", "limits", "limits_by_id"})

# Those that tables are made of.
_OF_TABLES = frozenset({"tables", "tables_ttl"})

_LOOK_SECONDS: Final = 0.05  # between two looks whether a request still waits for what has been replaced

_LET_OTHERS_RUN: Callable[[], None] = partial(time.sleep, 0)


class Policing:
    """The policy in force, of which the store has to know how far back it looks.

    ``subjects``, ``sql_limits``, ``tables`` and ``countries`` are those of ``settings``. ``engine`` decides for
    ``store`` while that is away.
    """

    def __init__(
        self,
        settings: Settings,
        subjects: Subjects,
        store: Store,
        engine: Engine,
        sql_limits: SqlLimits | None,
        tables: Tables,
        loop: asyncio.AbstractEventLoop,
        countries: Countries | None = None,
    ) -> None:
        self.policy = _policy(settings, subjects, sql_limits, tables, store, countries=countries)
        self._tables = tables
        self._store = store
        self._engine = engine
        self._sql_limits = sql_limits
        self._countries = countries
        self._loop = loop
        self._service: Service | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._former: list[Policy] = []  # those that some requests have met which still wait for tables
        self._is_stopping = False
        self.has_begun = asyncio.Event()  # to know of overrides

    def govern(self, service: Service) -> None:
        """It is ``service`` that answers by the policy."""
        self._service = service

    def start(self) -> None:
        """Look limits up, and ask tables, when somebody asks; look after files."""
        if self._countries is not None:
            self._countries.start()
        self._tables.read()
        self._tables.start(self._loop)
        if self._sql_limits is not None:
            self._sql_limits.start(self._loop)

    async def stop(self) -> None:
        """End that."""
        self._is_stopping = True
        if self._countries is not None:
            self._countries.stop()
        await self._tables.stop()
        if self._sql_limits is not None:
            await self._sql_limits.stop()
        await asyncio.gather(*self._retiring)

    def heed(self, overrides: Sequence[Override], brought: int = 0) -> None:
        """These are the overrides in force now; ``brought``: see :meth:`Service.override`."""
        assert self._service is not None  # noqa: S101 - govern() has been called
        further = self._service.override(overrides, brought)
        # Not before: what is decided by the old limits may forget what has just been read for a longer window.
        if further and self.has_begun.is_set():
            self._store.look_back(further)
        elif further:
            self._store.need(further)
        self.has_begun.set()

    def prepare(self, change: Changes, undo: contextlib.ExitStack) -> Callable[[], None]:
        settings = change.settings
        subjects = make_subjects(settings, _LET_OTHERS_RUN)
        lookup = backend_of(settings).make_lookup()
        longest = longest_window(settings)
        sql_limits = self._sql_limits
        if change.changed & _OF_SQL_LIMITS:
            sql_limits = make_sql_limits(settings, lookup, self._store) if lookup else None
            if sql_limits is not None:
                sql_limits.start(self._loop)
                undo.callback(self._loop.call_soon_threadsafe, self._retire, sql_limits)
        countries = self._prepared_countries(settings, undo)
        tables = self._tables
        if change.changed & _OF_TABLES:
            tables = Tables(settings, backend_of(settings), _LET_OTHERS_RUN)
        policy = _policy(settings, subjects, sql_limits, tables, self._store, _LET_OTHERS_RUN, countries)
        tables.read()
        if tables is not self._tables:
            tables.start(self._loop)
            undo.callback(self._loop.call_soon_threadsafe, self._retire, tables)
        further = policy.may_look_back_further(self.policy) or (
            lookup is not None and self._sql_limits is None  # whose windows nobody knows yet
        )
        return partial(self._put_into_force, policy, sql_limits, tables, countries, longest if further else 0)

    def _prepared_countries(self, settings: Settings, undo: contextlib.ExitStack) -> Countries | None:
        """The countries that ``settings`` ask for; those that are known already need no file any more."""
        if not asks_for_countries(settings):
            return None
        if self._countries is not None and self._countries.path == settings.geoip:
            return self._countries
        countries = Countries(open_countries(settings), time.time)
        countries.start()
        undo.callback(countries.stop)
        return countries

    def _put_into_force(
        self,
        policy: Policy,
        sql_limits: SqlLimits | None,
        tables: Tables,
        countries: Countries | None,
        further: int,
    ) -> None:
        assert self._service is not None  # noqa: S101 - govern() has been called
        if further:
            # Before anybody is judged by the longer windows.
            self._store.look_back(further)
        # While both are in force by turns: who waits for memory to decide gets no answer from a store that does not.
        if policy.away is NO_ANSWER:
            self._engine.enforce(True)
        self._former = [one for one in (*self._former, self.policy) if one.waiting]
        self.policy = self._service.policy = policy
        if policy.away is not NO_ANSWER:
            self._engine.enforce(False)
        former, self._countries = self._countries, countries
        if former is not None and former is not countries:
            former.stop()
        old, self._sql_limits = self._sql_limits, sql_limits
        if old is not None and old is not sql_limits:
            self._retire(old)
        before, self._tables = self._tables, tables
        if before is not tables:
            self._retire(before)

    def _retire(self, asked: SqlLimits | Tables) -> None:
        """End it; who has asked it still gets an answer, also to what the answer makes it ask."""
        retiring = self._loop.create_task(self._end(asked, self._former))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _end(self, asked: SqlLimits | Tables, policies: Sequence[Policy]) -> None:
        """End it once no request that one of ``policies`` answers may ask it any more; at the end of the daemon now."""
        while not self._is_stopping and any(policy.waiting for policy in policies):
            await asyncio.sleep(_LOOK_SECONDS)
        await asked.stop()


def _policy(
    settings: Settings,
    subjects: Subjects,
    sql_limits: SqlLimits | None,
    tables: Tables,
    store: Store,
    pause: Callable[[], None] | None = None,
    countries: Countries | None = None,
) -> Policy:
    actions = make_actions(settings)
    of_tables = tables.by_name, store.need, tables.warn_of_no_limits
    return make_policy(settings, subjects, sql_limits, actions, pause, countries, *of_tables)
