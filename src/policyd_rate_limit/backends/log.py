"""What the databases with SQL have in common: they keep a batch table, and may be asked for limits by id."""

from __future__ import annotations

import time
from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.contract import Backend, longest_window
from policyd_rate_limit.config.limits import may_give_others
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.storage.administration import PATIENCE
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.log.copying import LogCopying
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.replica import Memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.storage.administration import Administration
    from policyd_rate_limit.storage.copying import Copier
    from policyd_rate_limit.storage.log.contract import Log


class LogBackend(Backend):
    """A database that keeps a batch table."""

    @abstractmethod
    def log(self) -> Callable[[], Log]:
        """What opens a connection to the log; its driver is loaded.

        :raises ConfigError: the driver is not installed, or its options are wrong.
        """

    def make_store(self, subjects: Subjects, memory: Memory) -> LogStore:
        return LogStore(
            self.log(),
            memory,
            longest=longest_window(self.settings),
            counters_of_old_id=subjects.keys_of_old_id,
            # Which windows a query will name is not known yet.
            carried=LARGEST if may_give_others(self.settings) else None,
        )

    def open_administration(self, subjects: Subjects) -> LogAdministration:
        memory = Memory(Ledger(self.settings.max_ids), time.time)
        return LogAdministration(
            partial(self.make_store(subjects, memory).connect, PATIENCE),
            memory,
            # Which windows a query names is not known here.
            longest=LARGEST if may_give_others(self.settings) else longest_window(self.settings),
            key_of_old_id=lambda old_id: subjects.keys_of_old_id(old_id)[0],
        )

    def make_copier(self, administration: Administration) -> Copier:
        assert isinstance(administration, LogAdministration)  # noqa: S101 - it has been opened here
        return LogCopying(administration)
