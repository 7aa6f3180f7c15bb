"""All limits that a configuration gives, and whether others may come of what it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.config.tables import IN_PLACE
from policyd_rate_limit.domain.rules.tables import limits_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config.schema import Settings
    from policyd_rate_limit.domain.limits import Limits


def all_limits(settings: Settings) -> Iterator[Limits]:
    """The limits that stand in the configuration: for everybody, for some, and in tables in place."""
    yield settings.limits
    yield from settings.limits_by_id.values()
    tables = {table.name: table for table in settings.tables}
    for rule in settings.rules:
        yield rule.limits
        for text, limits in rule.overrides:
            if limits is not None:
                yield limits
                continue
            table = tables.get(text.removeprefix("$"))
            for _, said in table.entries if table is not None else ():
                yield limits_in(said or "", rule.unit) or ()


def may_give_others(settings: Settings) -> bool:
    """Whether a query, a file or a hash gives limits, which may look back as far as any."""
    if settings.sql_limits_by_id.strip():
        return True
    outside = {table.name for table in settings.tables if table.kept != IN_PLACE}
    of_tables = (text for rule in settings.rules for text, limits in rule.overrides if limits is None)
    return any(text.removeprefix("$") in outside for text in of_tables)
