"""An installation in one process: daemons that share a database and a configuration, and the commands beside them.

Daemons are put together as :class:`policyd_rate_limit.daemon.daemon.Daemon` does it, without sockets and threads, on
clocks that stand.
"""

from __future__ import annotations

import pathlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from policyd_rate_limit.domain.charge import Charge, Demand, Usage, Verdict, Waiting
from policyd_rate_limit.domain.limits import Limit, Limits, longest_of
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.policy import Actions, Policy, Rule
from policyd_rate_limit.service import Service
from policyd_rate_limit.storage.administration import Administration, Override
from policyd_rate_limit.storage.engine.engine import Engine
from policyd_rate_limit.storage.engine.mailbox import Mailbox
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.log.contract import Log
from policyd_rate_limit.storage.log.mysql.log import MysqlLog
from policyd_rate_limit.storage.log.postgresql.log import PostgresqlLog
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.store import RedisStore
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.system.throttle import Throttle
from storage.daemon import die
from storage.stores import PATIENCE, Clock, new_memory
from support.callbacks import Answering
from support.policies import Nobody, policy, subjects

FOR_EVER = 10**6  # seconds, longer than any window


class Place(ABC):
    """A database, which is empty at first, and a directory for spool files."""

    def __init__(self, directory: pathlib.Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock

    @abstractmethod
    def store(self, memory: Memory, longest: int) -> LogStore | RedisStore:
        """A daemon's."""

    @abstractmethod
    def administration(self, longest: int) -> Administration:
        """A command's."""


class LogPlace(Place):
    """A database that keeps a log: a file of SQLite's."""

    def open_log(self) -> Log:
        """A connection."""
        return SqliteLog(self.directory / "db.sqlite3", self.clock)

    def store(self, memory: Memory, longest: int) -> LogStore:
        return LogStore(self.open_log, memory, longest=longest, counters_of_old_id=lambda old_id: (f"user:{old_id}",))

    def administration(self, longest: int) -> LogAdministration:
        store = self.store(new_memory(self.clock), longest)
        return LogAdministration(
            lambda: store.connect(PATIENCE),
            new_memory(self.clock),
            longest=longest,
            key_of_old_id=lambda old_id: f"user:{old_id}",
        )


class PostgresqlPlace(LogPlace):
    """A database of a server, whose clock is the one of the test."""

    def __init__(self, directory: pathlib.Path, clock: Clock, config: dict[str, Any]) -> None:
        super().__init__(directory, clock)
        self._config = config

    def open_log(self) -> Log:
        clock = self.clock

        class Timed(PostgresqlLog):
            @property
            def CLOCK(self) -> str:  # type: ignore[override] # noqa: N802 - a constant elsewhere
                return f"SELECT {clock.now}"

        return Timed(self._config, PATIENCE)


class MariadbPlace(PostgresqlPlace):
    """The same on MySQL or MariaDB."""

    def open_log(self) -> Log:
        clock = self.clock

        class Timed(MysqlLog):
            @property
            def CLOCK(self) -> str:  # type: ignore[override] # noqa: N802 - a constant elsewhere
                return f"SELECT {clock.now}"

        return Timed(self._config, PATIENCE)


class RedisPlace(Place):
    """A prefix on a server of Redis, which is asked by the clock of the test."""

    def __init__(self, directory: pathlib.Path, clock: Clock, config: dict[str, Any]) -> None:
        super().__init__(directory, clock)
        self._config = config

    def store(self, memory: Memory, longest: int) -> RedisStore:
        return RedisStore(self._config, memory, longest=longest, timeout=PATIENCE, clock=self.clock)

    def administration(self, longest: int) -> RedisAdministration:
        return RedisAdministration(self._config, longest=longest, timeout=PATIENCE, clock=self.clock)


class _Told(Nobody):
    """Notes what is warned of, and who is blocked: counter, limit, seconds."""

    def __init__(self) -> None:
        self.blocked_by_rules: list[tuple[str, Limit, int]] = []
        self.found: list[tuple[str, int, int, int]] = []

    def decided(self, *told: Any) -> None:
        rules: Sequence[Rule] = told[2]
        result: Verdict | Exception = told[3]
        if isinstance(result, Verdict):
            self.found += [(rules[index].name, *limit, used) for index, limit, used in result.warned]

    def blocks(self, _request: Request, counter: str, limit: Limit, seconds: int, *, shadow: bool) -> None:
        assert not shadow
        self.blocked_by_rules.append((counter, limit, seconds))


class Running:
    """One daemon at ``place``, with ``policy``, whose longest window is ``longest`` seconds."""

    def __init__(self, place: Place, policy: Policy, longest: int) -> None:
        self.memory = new_memory(place.clock)
        self._told = _Told()
        self._store = place.store(self.memory, longest)
        self._mailbox = Mailbox(self.memory.shared_time)
        self._engine = Engine(
            self._store,
            self.memory,
            journal_directory=place.directory,
            journal_name="db.sqlite3",
            journal_size=1 << 16,
            enforce=True,
            patience=PATIENCE,
            monotonic=Clock(0.0),
            mailbox=self._mailbox,
        )
        self._service = Service(
            policy,
            self._submit,
            observer=self._told,
            uncounted=Throttle(60, lambda: 0.0),
            policy_service="unix:policy",
            explain=self._explain,
            keep_blocks=self._mailbox.block,
            clock=self._mailbox.clock,
        )
        self._has_begun = False
        self._mailbox.subscribe(self._heed)
        self._engine.open()
        self.maintain()

    def action(self, request: Request) -> str | None:
        """What answers ``request``."""
        answers: list[str | None] = []
        self._service.ask(request, Answering(answers.append))
        (action,) = answers
        return action

    @property
    def warned(self) -> list[tuple[str, int, int, int]]:
        """What was warned of since the last call: rule, maximum and seconds of the limit, and what is used of it."""
        found, self._told.found = self._told.found, []
        return found

    @property
    def blocked(self) -> list[tuple[str, Limit, int]]:
        """Whom rules have blocked since the last call: counter, limit and seconds."""
        found, self._told.blocked_by_rules = self._told.blocked_by_rules, []
        return found

    def usage(self, key: str, limits: Limits) -> tuple[int, ...]:
        """What lies in the window of each of ``limits``, as the daemon explains its decisions."""
        self._decide(())  # a log is read
        (usages,) = self._engine.explain([Demand((Charge(key, 1, limits),))])
        return tuple(usage.used for usage in usages)

    def maintain(self) -> None:
        """What is done about once a second: overrides are looked up, among others."""
        self._engine.maintain()

    def govern(self, policy: Policy, longest: int) -> None:
        """SIGHUP, and ``policy`` is that of the configuration."""
        if policy.may_look_back_further(self._service.policy):
            self._store.look_back(longest)
        self._service.policy = policy

    def close(self) -> None:
        """The daemon ends in order."""
        self._engine.close()

    def die(self) -> None:
        die(self._store, self._engine)

    def _heed(self, overrides: Sequence[Override], brought: int) -> None:
        further = self._service.override(overrides, brought)
        if further and self._has_begun:
            self._store.look_back(further)
        elif further:
            self._store.need(further)
        self._has_begun = True

    def _submit(self, demand: Demand, waiting: Waiting) -> None:
        (verdict,) = self._decide((demand,))
        waiting.conclude(verdict)

    def _explain(self, demand: Demand, done: Callable[[tuple[Usage, ...]], None]) -> None:
        done(self._engine.explain([demand])[0])

    def _decide(self, demands: Sequence[Demand]) -> Sequence[Verdict]:
        if not demands:
            return self._engine.admit(demands)
        batch = self._engine.prepare(demands)
        return batch.verdicts if batch.is_done else batch.finish()


class Installed(Running):
    """One daemon at ``place``, with ``limits`` for each SASL user."""

    def __init__(self, place: Place, limits: Limits, count_mode: int | None) -> None:
        self.limits = limits
        self._count_mode = count_mode
        super().__init__(place, self._policy(limits), longest_of(limits))

    def ask(self, request: Request) -> bool:
        """Whether ``request`` is admitted."""
        action = self.action(request)
        assert action in ("success", "fail", "blocked")
        return action == "success"

    def reload(self, limits: Limits) -> None:
        """SIGHUP, and the configuration has these ``limits``."""
        self.govern(self._policy(limits), longest_of(limits))
        self.limits = limits

    def _policy(self, limits: Limits) -> Policy:
        return policy(subjects(limits), Actions("success", "fail", None, "blocked"), self._count_mode)
