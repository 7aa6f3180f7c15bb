"""The limits that ``sql_limits_by_id`` gives, for daemons and for commands."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.contract import longest_window
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables.cache import look_up
from policyd_rate_limit.tables.limits import SqlLimits, limits_of_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.tables.cache import Lookup

LOOKUP_WARNING_SECONDS = 60.0  # between two lines about the same trouble with sql_limits_by_id

_logger = logging.getLogger(__name__)


def make_sql_limits(settings: Settings, lookup: Lookup, store: Store) -> SqlLimits:
    """What answers from ``lookup`` without holding up the event loop, for ``store`` to decide by."""
    return SqlLimits(
        lookup,
        ttl=settings.sql_limits_ttl,
        timeout=settings.db_timeout,
        longest=max(longest_window(settings), store.reach),
        need=store.need,
        may_log=Throttle(LOOKUP_WARNING_SECONDS, time.monotonic).hit,
    )


def limits_of_counter(lookup: Lookup, counter: str) -> Limits | None:
    """The limits that the query gives to whom ``counter`` counts; None: none, or none that can be understood.

    :raises StoreError: the database does not answer.
    """
    return limits_of_ids(lookup, (id_of_key(counter),))


def limits_of_ids(lookup: Lookup, ids: Sequence[str]) -> Limits | None:
    """The limits that the query gives to the first of ``ids`` that it knows; None as above.

    :raises StoreError: the database does not answer.
    """
    try:
        return look_up(lookup, ids, limits_of_column)
    except ValueError as error:
        _logger.warning("sql_limits_by_id for %r: %s; it does not count", ids[0], error)
        return None
