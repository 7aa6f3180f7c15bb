"""This daemon with several rules for one mail: ``python several.py NUMBER -f CONFIG``, with the Python of its command.

The first rule is that of the configuration. The second charges the sender, which the generator makes one for each
domain, the third the client's address, which all mails have in common: a cap for a domain, and one for the whole
server. Further rules charge the user, the domain and the server by turns. Nobody reaches their limits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from policyd_rate_limit import command
from policyd_rate_limit.backends.tables import Tables
from policyd_rate_limit.config import Settings
from policyd_rate_limit.daemon import policing
from policyd_rate_limit.domain.identity import Subjects
from policyd_rate_limit.policy import Policy, Rule
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.tables.countries import Countries
from policyd_rate_limit.tables.limits import SqlLimits

UNREACHED = 10**12
make_policy = policing._policy


def rules_of(settings: Settings, number: int) -> Subjects:
    """Whom the rule with that ``number``, counted from 0, charges."""
    return Subjects(
        limits=tuple(limit._replace(maximum=UNREACHED) for limit in settings.limits),
        limits_by_id={},
        limit_by_sasl=number % 3 == 0,
        limit_by_sender=number % 3 == 1,
        limit_by_ip=number % 3 == 2,
        limited_networks=(),
        ipv6_prefix=settings.ipv6_prefix,
    )


def several(
    settings: Settings,
    subjects: Subjects,
    sql_limits: SqlLimits | None,
    tables: Tables,
    store: Store,
    pause: Callable[[], None] | None = None,
    countries: Countries | None = None,
) -> Policy:
    """The policy of ``settings``, with as many rules as were asked for."""
    policy = make_policy(settings, subjects, sql_limits, tables, store, pause, countries)
    first = policy.rules[0]
    further = (Rule(f"rule{n}", rules_of(settings, n), first.stages) for n in range(1, NUMBER))
    policy.rules = (first, *further)
    return policy


NUMBER = int(sys.argv.pop(1))
policing._policy = several
command.main()
