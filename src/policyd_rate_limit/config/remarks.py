"""What is odd in settings that are each right by itself: entries that can never apply, and limits that limit nobody."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.config.limits import all_limits, may_give_others
from policyd_rate_limit.config.placeholders import wrong_placeholder
from policyd_rate_limit.config.remark import Remark, named
from policyd_rate_limit.config.rule_remarks import remarks_of_rules
from policyd_rate_limit.domain.ids import looks_like_a_pattern
from policyd_rate_limit.domain.limits import shown
from policyd_rate_limit.domain.networks import parse_address, parse_network
from policyd_rate_limit.domain.quantity import quantity

if TYPE_CHECKING:
    from policyd_rate_limit.config.rules import RuleSettings
    from policyd_rate_limit.config.schema import Settings
    from policyd_rate_limit.domain.networks import Network

# What access(5) and postconf(5) have that lets a mail pass, whatever stands behind it.
_PASSING = frozenset({"dunno", "ok", "permit", "prepend", "info", "warn", "bcc", "defer_if_reject", "warn_if_reject"})
_EMPTY = {"limits": "limits is empty", "rules": "no rule has a limit"}
_KINDS = ("user:", "sender:", "client:")


def remarks(settings: Settings) -> Iterator[Remark]:
    """Whatever can never apply, or does not what it looks like. The daemon serves all the same."""
    all_off = "limit_by_sasl, limit_by_sender and limit_by_ip are all off"
    if not charges_anybody(settings):
        yield Remark(("limit_by_sasl",), f"{all_off}: nothing is limited", True)
    elif not limits_anybody(settings):
        name = "rules" if settings.rules else "limits"
        yield Remark((name,), f"{_EMPTY[name]}, and nothing else limits anybody: nothing is limited", True)
    elif not refuses_anybody(settings):
        yield Remark(("rules",), "rules: shadow is on in all that limit anybody: nothing is refused", True)
    elif has_default(settings) and not _charges_by_default(settings):
        yield Remark(("limit_by_sasl",), f"{all_off}: the rule default, of limits and limits_by_id, charges nobody")
    if answers_by_fail_action(settings) and refuses_nothing(settings.fail_action):
        text = f"fail_action: {shown(settings.fail_action)} refuses nothing: beyond the limits all passes"
        yield Remark(("fail_action",), text, True)
    if charges_no_client(settings):
        text = "limit_by_ip is on, and limited_networks is empty: no client is charged"
        yield Remark(("limit_by_ip",), text, True)
    yield from remarks_of_rules(settings)
    yield from _of_ids(settings)
    if settings.report:
        yield from _of_report_limits(settings)
    wrong = wrong_query(settings)
    if wrong is not None:
        yield Remark(("sql_limits_by_id",), f"sql_limits_by_id: {wrong}; the query fails for every id", True)


def has_default(settings: Settings) -> bool:
    """Whether there is the rule ``default``: beside other rules only where one of its settings says something."""
    return not settings.rules or bool(settings.limits or settings.limits_by_id or settings.sql_limits_by_id.strip())


def charges_anybody(settings: Settings) -> bool:
    """Whether anything is on that charges somebody."""
    return bool(settings.rules) or _charges_by_default(settings)


def charges_no_client(settings: Settings) -> bool:
    """Whether clients are to be charged by the rule ``default``, and none is."""
    return settings.limit_by_ip and not settings.limited_networks and has_default(settings)


def limits_anybody(settings: Settings) -> bool:
    """Whether anybody can have a limit."""
    return any(map(_has_limits, settings.rules)) or _limits_by_default(settings)


def refuses_anybody(settings: Settings) -> bool:
    """Whether anybody can have a limit of a rule that is no shadow."""
    return any(_has_limits(rule) and not rule.shadow for rule in settings.rules) or _limits_by_default(settings)


def answers_by_fail_action(settings: Settings) -> bool:
    """Whether ``fail_action`` is the answer of any rule."""
    return has_default(settings) or any(rule.action is None and not rule.shadow for rule in settings.rules)


def _has_limits(rule: RuleSettings) -> bool:
    return bool(rule.limits) or any(limits is None or limits for _, limits in rule.overrides)


def _charges_by_default(settings: Settings) -> bool:
    return settings.limit_by_sasl or settings.limit_by_sender or settings.limit_by_ip


def _limits_by_default(settings: Settings) -> bool:
    if settings.rules and not _charges_by_default(settings):
        return False
    if settings.limits or settings.sql_limits_by_id.strip():
        return True
    never = {name for names in _never(settings).values() for name in names}
    return any(limits and name not in never for name, limits in settings.limits_by_id.items())


def refuses_nothing(action: str) -> bool:
    """Whether Postfix goes on with a mail, or takes it, when it gets ``action``: access(5)."""
    words = action.lower().split()
    if not words:
        return True
    if words[0].isascii() and words[0].isdigit():
        return not (len(words[0]) == 3 and words[0][0] in "45")
    return words[0] in _PASSING


def wrong_query(settings: Settings) -> str | None:
    """What is wrong with the placeholder of ``sql_limits_by_id``, None when nothing is."""
    query = settings.sql_limits_by_id
    placeholder = DATABASES[settings.backend].placeholder
    if not query.strip() or placeholder is None:  # for which there is an error of its own
        return None
    return wrong_placeholder(query, placeholder)


def secrets_in(settings: Settings) -> list[str]:
    """The settings that hold a password."""
    found = [database.setting for database in DATABASES.values() if _has_password(getattr(settings, database.setting))]
    return found + [name for name in ("smtp_credentials", "notify_secret") if getattr(settings, name)]


def _has_password(options: Mapping[str, object]) -> bool:
    return any(_is_secret(str(key), value) for key, value in options.items())


def _is_secret(key: str, value: object) -> bool:
    if not isinstance(value, str):
        return False
    if key.endswith(("passwd", "password")):
        return bool(value.strip("*"))  # as the sample files have it
    if key == "url":
        try:
            return bool(urlsplit(value).password)
        except ValueError:
            return False
    return key == "dsn" and re.search(r"\bpassword\s*=|://[^/@:]*:[^/@]+@", value) is not None


def _of_ids(settings: Settings) -> Iterator[Remark]:
    by_reason = _never(settings)
    never = {name for names in by_reason.values() for name in names}
    if settings.limit_by_sender and settings.limit_by_ip:
        for name in settings.limits_by_id:
            if name not in never and _network(name) is not None:
                why = "only to mail without a sender: limit_by_sender charges the sender before the client"
                by_reason.setdefault(why, []).append(name)
    for name in settings.limits_by_id:
        if name not in never and _may_be_a_user(name) and looks_like_a_pattern(name):
            by_reason.setdefault("to a user of exactly that name, and to no address in a domain", []).append(name)
    for why, names in by_reason.items():
        yield _about_ids(names, why)


def _never(settings: Settings) -> dict[str, list[str]]:
    """The ids of ``limits_by_id`` that apply to nobody, by the reason."""
    never: dict[str, list[str]] = {}
    limited = _Ranges(settings.limited_networks)
    names_are_charged = settings.limit_by_sasl or settings.limit_by_sender
    for name in settings.limits_by_id:
        network = _network(name)
        if network is None:
            why = _why_no_name(name) if names_are_charged else "limit_by_sasl and limit_by_sender are off"
        elif not settings.limit_by_ip:
            why = "limit_by_ip is off"
        else:
            why = None if limited.meet(network) else "in none of limited_networks"
        if why is not None:
            never.setdefault(f"to nobody: {why}", []).append(name)
    return never


def _why_no_name(name: str) -> str | None:
    """Why no user and no sender has this name, None when one may."""
    if not name:
        return "an empty id"
    if looks_like_a_pattern(name) and not _may_be_a_user(name):
        return "an id is one user or one sender, no domain and no pattern"
    return "an id has no kind before it here" if name.lower().startswith(_KINDS) else None


def _may_be_a_user(name: str) -> bool:
    """Whether a user may be called so, for all that it looks like a domain."""
    return "@" not in name and "*" not in name and not name.startswith((".", "/"))


class _Ranges:
    """Networks as ranges of addresses that do not touch, so that looking into many takes no time."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._ends: dict[int, list[int]] = {4: [], 6: []}
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        for version, first, last in sorted(map(_range, map(parse_network, networks))):
            starts, ends = self._starts[version], self._ends[version]
            if ends and first <= ends[-1]:
                ends[-1] = max(ends[-1], last)
            else:
                starts.append(first)
                ends.append(last)

    def meet(self, network: Network) -> bool:
        """Whether an address of ``network`` lies in one of these."""
        version, first, last = _range(network)
        index = bisect_left(self._ends[version], first)
        return index < len(self._ends[version]) and self._starts[version][index] <= last


def _range(network: Network) -> tuple[int, int, int]:
    width = 32 if network.version == 4 else 128
    return network.version, network.bits, network.bits + (1 << (width - network.length)) - 1


def _about_ids(names: list[str], why: str) -> Remark:
    applies = "applies" if len(names) == 1 else "apply"
    return Remark(("limits_by_id", names[0]), f"limits_by_id: {named(names)} {applies} {why}")


def _network(name: str) -> Network | None:
    try:
        return parse_address(name) or parse_network(name)
    except ValueError:
        return None


def _of_report_limits(settings: Settings) -> Iterator[Remark]:
    if may_give_others(settings):
        return  # whose periods nobody knows
    periods = {limit.seconds for limits in all_limits(settings) for limit in limits}
    for index, seconds in enumerate(settings.report_limits):
        if seconds not in periods:
            yield Remark(("report_limits", index), f"report_limits: no limit has {quantity(seconds, 'second')}")
