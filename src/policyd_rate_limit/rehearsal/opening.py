"""Makes a trial of a configuration: with its tables and countries as they are now, and without its counts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.contract import longest_window
from policyd_rate_limit.backends.limits import limits_of_ids
from policyd_rate_limit.backends.tables import make_tables
from policyd_rate_limit.domain.rules.facts import Answer, Source
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.rehearsal.trial import Trial
from policyd_rate_limit.ruling import make_actions, make_policy
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.tables.cache import look_up
from policyd_rate_limit.tables.countries import asks_for_countries, open_countries
from policyd_rate_limit.tables.file import FileTable
from policyd_rate_limit.tables.source import text_of_column

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.rules.tables import Table
    from policyd_rate_limit.tables.cache import Lookup

MOST_REMEMBERED: Final = 65_536
"""The most values of which it is remembered what one table says."""


class _Remembering(Source):
    """A table in a database, which is asked once about each value; once it does not answer, it says nothing."""

    def __init__(self, name: str, lookup: Lookup, tell: Callable[[str], None]) -> None:
        super().__init__(name)
        self._lookup = lookup
        self._tell = tell
        self._answers: dict[str, Answer] = {}
        self._is_away = False

    def known(self, value: str) -> Answer:
        answer = self._answers.get(value)
        if answer is None:
            if len(self._answers) >= MOST_REMEMBERED:
                self._answers.clear()
            answer = self._answers[value] = Answer(self._look_up(value))
        return answer

    def _look_up(self, value: str) -> str | None:
        if self._is_away:
            return None
        try:
            return look_up(self._lookup, (value,), text_of_column)
        except StoreError as error:
            self._is_away = True
            self._tell(f"tables.{self.name} does not answer, and is taken to say nothing: {error}")
        except ValueError as error:
            self._tell(f"tables.{self.name} for {value!r}: {error}; it does not count")
        return None

    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:  # noqa: ARG002
        done(self.known(value).text)

    def close(self) -> None:
        """Let go of the connection."""
        self._lookup.close()


class _LimitsOfIds:
    """What ``sql_limits_by_id`` says, which is asked once about each id; once it does not answer, it says nothing."""

    keep_seconds = 0  # the limits of an id do not change

    def __init__(self, lookup: Lookup, tell: Callable[[str], None]) -> None:
        self._lookup = lookup
        self._tell = tell
        self._answers: dict[tuple[str, ...], Limits | None] = {}
        self._is_away = False

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None], began: float) -> None:  # noqa: ARG002
        if ids not in self._answers:
            if len(self._answers) >= MOST_REMEMBERED:
                self._answers.clear()
            self._answers[ids] = self._look_up(ids)
        done(self._answers[ids])

    def _look_up(self, ids: tuple[str, ...]) -> Limits | None:
        if self._is_away:
            return None
        try:
            return limits_of_ids(self._lookup, ids)
        except StoreError as error:
            self._is_away = True
            self._tell(f"sql_limits_by_id is not known, and all ids have the limits of the configuration: {error}")
        return None


@contextlib.contextmanager
def open_trial(settings: Settings, stages: Collection[str], tell: Callable[[str], None]) -> Iterator[Trial]:
    """A trial of ``settings``, where Postfix asks at ``stages``; nothing of the daemon's own database is looked at.

    Tables in databases are asked when a rule wants to know; ``tell`` is told, in a sentence, of what does not answer.

    :raises ConfigError: a driver is not installed, or its options are wrong; the file of countries cannot be read.
    """
    backend = backend_of(settings)
    sources: list[_Remembering] = []

    def source_of(name: str, lookup: Lookup) -> Source:
        sources.append(_Remembering(name, lookup, tell))
        return sources[-1]

    tables = make_tables(settings, backend, source_of)
    countries = open_countries(settings) if asks_for_countries(settings) else None
    lookup = backend.make_lookup()
    sql_limits = None if lookup is None else _LimitsOfIds(lookup, tell)
    subjects = make_subjects(settings)
    policy = make_policy(settings, subjects, sql_limits, make_actions(settings), countries=countries, tables=tables)
    read_files(tables)
    try:
        yield Trial(policy, stages, max_ids=settings.max_ids, longest=longest_window(settings))
    finally:
        for source in sources:
            source.close()
        if lookup is not None:
            lookup.close()


def read_files(tables: dict[str, Table]) -> None:
    """Read those of ``tables`` that are in files, once it is known what they are asked about."""
    for table in tables.values():
        if isinstance(table, FileTable):
            table.look()
