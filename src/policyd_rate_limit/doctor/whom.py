"""Whom the rules of a configuration charge, as far as that tells where Postfix has to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.config.remarks import has_default
from policyd_rate_limit.domain.rules.keys import parse_key

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings

_OF_USERS = frozenset({"sasl_username", "sasl_domain"})
_OF_EVERYBODY = "server"


def charges_users(settings: Settings) -> bool:
    """Whether a rule charges users by who they are, or everybody, and so is to see the mail of users."""
    if has_default(settings) and settings.limit_by_sasl:
        return True
    keys = (parse_key(rule.key, settings.ipv6_prefix) for rule in settings.rules)
    return any(term.name in _OF_USERS or term.name == _OF_EVERYBODY for key in keys for term in key.terms)


def charges_others(settings: Settings) -> bool:
    """Whether a rule charges mail without a SASL user."""
    if has_default(settings) and (settings.limit_by_sender or settings.limit_by_ip):
        return True
    keys = (parse_key(rule.key, settings.ipv6_prefix) for rule in settings.rules)
    # Of a combination no part may be empty, of alternatives all but one.
    return any((all if key.is_combination else any)(term.name not in _OF_USERS for term in key.terms) for key in keys)
