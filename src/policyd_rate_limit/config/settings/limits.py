"""The limits, the rules, and the answers to Postfix."""

from __future__ import annotations

from dataclasses import dataclass

from policyd_rate_limit.config.kind import seconds, unset_or, whole
from policyd_rate_limit.config.kinds import ACTION, COUNT_MODE, FLAG, LIMITS, LIMITS_BY_ID, NETWORKS, PATH, QUERY
from policyd_rate_limit.config.rule_kind import RULES
from policyd_rate_limit.config.rules import RuleSettings
from policyd_rate_limit.config.setting import setting
from policyd_rate_limit.config.settings.process import ProcessSettings
from policyd_rate_limit.config.table_kind import TABLES
from policyd_rate_limit.config.tables import TableSettings
from policyd_rate_limit.domain.limits import Limits

_DAY = 86400


@dataclass(frozen=True, init=False)
class LimitSettings(ProcessSettings):
    """The limits, the rules, and the answers to Postfix, after the settings that come before."""

    limits: Limits = setting(
        LIMITS,
        ((10, 60), (150, _DAY)),
        """
        At most so many mails in any so many seconds, every pair at once. [10, 60] may also be written as
        '10/1m' or [10, '1m'], with the units s, m, h, d and w. [] is no limit, [0, 60] lets nothing pass.
        """,
        reload=True,
        heading="The limits",
    )
    limits_by_id: dict[str, Limits] = setting(
        LIMITS_BY_ID,
        {},
        """
        Limits of single ids, in place of those above. An id is a SASL user or a sender, in upper or lower
        case, or an address or a network of clients, each of which has these limits for itself. [] is no
        limit.
        """,
        reload=True,
        may_be_empty=True,
    )
    sql_limits_by_id: str = setting(
        QUERY,
        "",
        """
        A query of the database in use, with one placeholder for the id (? for SQLite, %s for the others), that
        gives the limits of that id as text such as [[5, 60]]. They count before those above. Not for redis.
        """,
        reload=True,
        may_be_empty=True,
    )
    sql_limits_ttl: float = setting(
        seconds(0, _DAY),
        60,
        "How long the result of that query is used before it is asked again.",
        unit="seconds",
        reload=True,
    )
    limit_by_sasl: bool = setting(
        FLAG,
        True,
        "Charge the SASL user.",
        reload=True,
    )
    limit_by_sender: bool = setting(
        FLAG,
        False,
        "Where there is no SASL user to charge: charge the envelope sender.",
        reload=True,
    )
    limit_by_ip: bool = setting(
        FLAG,
        False,
        """
        Where there is neither to charge: charge the address of the client, when it lies in limited_networks.
        """,
        reload=True,
    )
    limited_networks: tuple[str, ...] = setting(
        NETWORKS,
        (),
        "The networks, in CIDR notation, whose addresses are limited. Empty: none; 0.0.0.0/0 and ::/0: all.",
        reload=True,
        may_be_empty=True,
    )
    ipv6_prefix: int = setting(
        whole(1, 128),
        64,
        "IPv6 clients whose addresses begin with the same so many bits are one client.",
        unit="bits",
        reload=True,
    )
    count_mode: int | None = setting(
        unset_or(COUNT_MODE),
        None,
        """
        What is counted. Unset: each recipient of a mail once, whichever of smtpd_recipient_restrictions,
        smtpd_data_restrictions and smtpd_end_of_data_restrictions ask. 0: recipients, in
        smtpd_recipient_restrictions. 1: recipients, in smtpd_data_restrictions. 2: mails, in
        smtpd_data_restrictions.
        """,
        reload=True,
    )

    geoip: str | None = setting(
        unset_or(PATH),
        None,
        """
        A file in the format of MaxMind DB (.mmdb), such as that of DB-IP, that has the country of each address, for
        rules that name country. It is reread when it is replaced.
        """,
        reload=True,
    )
    tables: tuple[TableSettings, ...] = setting(
        TABLES,
        {},
        """
        Lists and mappings that rules ask by $NAME: in place, in a file (file:PATH, an entry or an entry and a text on
        each line, reread when it changes), by a query of the database in use (sql:QUERY, with one placeholder), or
        in a hash of Redis (redis:HASH).
        """,
        reload=True,
        may_be_empty=True,
    )
    tables_ttl: float = setting(
        seconds(0, _DAY),
        60,
        "How long what a table in a database says is used before it is asked again.",
        unit="seconds",
        reload=True,
    )
    rules: tuple[RuleSettings, ...] = setting(
        RULES,
        {},
        """
        Rules beside the limits above, each with counters of its own: a key, limits, and what to count (recipients,
        messages or bytes), overrides of the limits by pattern, match and unless, an action, warn, block, notify,
        shadow. Where there are rules, the limits above count only if limits, limits_by_id or sql_limits_by_id is
        written.
        """,
        reload=True,
        may_be_empty=True,
    )

    success_action: str = setting(
        ACTION,
        "dunno",
        "The answer within the limits: any action of access(5).",
        reload=True,
        may_be_empty=True,
        heading="The answers",
    )
    fail_action: str = setting(
        ACTION,
        "defer_if_permit Rate limit reach, retry later",
        "The answer beyond a limit: any action of access(5).",
        reload=True,
        may_be_empty=True,
        sample="defer_if_permit Rate limit reached, retry later",
    )
    block_action: str = setting(
        ACTION,
        "reject 5.7.1 Sending mail is blocked for this account",
        """
        The answer to who is blocked, by the command block or by a rule: any action of access(5). A permanent
        refusal, so that clients say so at once and servers do not retry.
        """,
        reload=True,
    )
