"""How smtpd asks the daemon: what it does without an answer, how long it waits, and how long it stays connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, error, warning
from policyd_rate_limit.postfix.postconf import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.doctor.hooks import Hooks
    from policyd_rate_limit.postfix.hooks import Hook
    from policyd_rate_limit.postfix.postconf import Postfix


def default_action(postfix: Postfix, hooks: Hooks, hook: Hook) -> Iterator[Finding]:
    """What smtpd does while the daemon does not answer."""
    if not hooks.has_default_action(hook):
        yield warning(
            "default-action",
            postfix.place(hook.parameter, hook.service),
            f"no default_action for {hook.asked.endpoint}",
            "While the daemon is stopped Postfix refuses all mail: 451 4.3.5 Server configuration problem.",
            hooks.mended(hook),
        )


def time_limits(postfix: Postfix, settings: Settings, hook: Hook) -> Iterator[Finding]:
    """How long smtpd waits for an answer, and keeps its connection."""
    service = hook.service

    def option(name: str) -> str:
        return hook.asked.options.get(name) or postfix.value(f"smtpd_policy_service_{name}", service)

    def place(name: str) -> str:
        full = f"smtpd_policy_service_{name}"
        return postfix.place(hook.parameter if name in hook.asked.options else full, service)

    timeout = seconds(option("timeout"))
    if timeout <= settings.db_timeout:
        yield error(
            "timeout",
            place("timeout"),
            f"smtpd waits for {timeout:g} s, the daemon for its database {settings.db_timeout:g} s (db_timeout)",
            "When the database is slow smtpd gives up, and does as default_action says.",
            f"smtpd_policy_service_timeout = {max(10, round(5 * settings.db_timeout))}s",
        )
    idle = seconds(option("max_idle"))
    if settings.delay_to_close < idle:
        yield warning(
            "max-idle",
            settings.config_file or "configuration",
            f"delay_to_close is {settings.delay_to_close:g} s, smtpd keeps connections for max_idle = {idle:g} s",
            "The daemon closes them first, and then smtpd waits a second before it asks again: mail is slow.",
            f"delay_to_close: {idle:g}",
        )
    if option("request_limit") not in ("", "0"):
        yield warning(
            "request-limit",
            place("request_limit"),
            f"request_limit = {option('request_limit')}",
            "smtpd connects again after so many requests, which takes longer than the daemon's answer.",
            "smtpd_policy_service_request_limit = 0",
        )
