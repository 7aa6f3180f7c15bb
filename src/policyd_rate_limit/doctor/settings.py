"""Settings that are valid, and limit nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.config.remarks import (
    answers_by_fail_action,
    charges_anybody,
    charges_no_client,
    has_default,
    limits_anybody,
    refuses_anybody,
    refuses_nothing,
    wrong_query,
)
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.doctor.finding import Finding, error, warning
from policyd_rate_limit.doctor.whom import charges_others
from policyd_rate_limit.domain.networks import parse_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.doctor.hooks import Hooks
    from policyd_rate_limit.postfix.postconf import Postfix

_LOOPBACK = (parse_network("127.0.0.1"), parse_network("::1"))


def examine(settings: Settings) -> Iterator[Finding]:
    """What the configuration alone tells."""
    place = settings.config_file or "configuration"
    if not charges_anybody(settings):
        yield error(
            "nobody-charged",
            place,
            "limit_by_sasl, limit_by_sender and limit_by_ip are all off",
            "Nobody is charged for a mail: nothing is limited.",
            "limit_by_sasl: true",
        )
    if charges_no_client(settings):
        yield error(
            "limited-networks",
            place,
            "limit_by_ip is on, and limited_networks is empty",
            "Clients are charged only when they lie in limited_networks.",
            "limited_networks: [0.0.0.0/0, '::/0']",
        )
    if answers_by_fail_action(settings) and refuses_nothing(settings.fail_action):
        yield error(
            "fail-action",
            place,
            f"fail_action is {settings.fail_action!r}",
            "That refuses nothing: beyond the limits all mail passes.",
            f"fail_action: {SETTINGS['fail_action'].sampled!r}",
        )
    wrong = wrong_query(settings)
    if wrong is not None:
        yield error(
            "sql-limits",
            place,
            f"sql_limits_by_id: {wrong}",
            "The query fails for every id, which then has the limits of the configuration.",
            f"... WHERE id = {DATABASES[settings.backend].placeholder}",
        )
    if not limits_anybody(settings):
        found = "no rule has a limit" if settings.rules else "limits is empty"
        yield error("no-limits", place, found, "Nobody has a limit.", "limits: [[10, 60], [150, 86400]]")
    elif not refuses_anybody(settings):
        yield warning(
            "shadow",
            place,
            "shadow is on in all rules that limit anybody",
            "They tell what they would do, and nothing is refused.",
            "shadow: false",
        )


def examine_with(postfix: Postfix, settings: Settings, hooks: Hooks) -> Iterator[Finding]:
    """What does not fit this Postfix."""
    place = settings.config_file or "configuration"
    hooked = [hook.service for hook in hooks.counting]
    behind_proxy = any(
        postfix.value(name, service)
        for service in hooked
        for name in ("smtpd_upstream_proxy_protocol", "smtpd_authorized_xclient_hosts")
    )
    if (
        hooked
        and not charges_others(settings)
        and not behind_proxy
        and not any(postfix.is_on("smtpd_sasl_auth_enable", service) for service in postfix.smtpd)
    ):
        yield error(
            "no-sasl",
            place,
            "only SASL users are charged, and smtpd_sasl_auth_enable is on in no service of Postfix",
            "Nobody is charged for a mail: nothing is limited.",
            "limit_by_sender: true",
        )
    if (
        settings.limit_by_ip
        and settings.limited_networks
        and has_default(settings)
        and hooked
        and all(service.is_local for service in hooked)
        and not behind_proxy
        and not any(_holds_loopback(network) for network in settings.limited_networks)
    ):
        yield warning(
            "proxied-clients",
            "master.cf, " + ", ".join(sorted({service.key for service in hooked})),
            "listens on the loopback interface only: all its clients are 127.0.0.1, which is not in limited_networks",
            "Nobody is charged by address. A proxy in front of it has to tell the client's, by XCLIENT as below or as"
            " smtpd_upstream_proxy_protocol says.",
            "smtpd_authorized_xclient_hosts = 127.0.0.1, [::1]",
        )


def _holds_loopback(text: str) -> bool:
    network = parse_network(text)
    return any(
        network.version == address.version and address.within(network.length) == network for address in _LOOPBACK
    )
