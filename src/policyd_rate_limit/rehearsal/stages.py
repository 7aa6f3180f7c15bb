"""At which stages Postfix is taken to ask about the mails of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.counting import BYTES
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.postfix.endpoint import address, is_same
from policyd_rate_limit.postfix.hooks import hooks
from policyd_rate_limit.postfix.postconf import Postfix
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.policy import Rule

_IN_ORDER = (RCPT, DATA, END_OF_MESSAGE)


class Stages(NamedTuple):
    """``stages`` in the order in which Postfix comes to them, and why it is taken to ask there, in words."""

    stages: tuple[str, ...]
    why: str


def find_stages(named: Sequence[str], configurations: Sequence[Settings], postfix: Postfix | None) -> Stages:
    """The stages that are ``named``; else those at which ``postfix`` asks one of ``configurations``; else as needed."""
    if named:
        return Stages(_ordered(set(named)), "as --stage says")
    hooked = set() if postfix is None else hooked_stages(postfix, configurations)
    if postfix is not None and hooked:
        return Stages(_ordered(hooked), f"as main.cf in {postfix.directory} has it")
    needed = {stage for settings in configurations for stage in needed_stages(settings)}
    return Stages(_ordered(needed), "since the rules need it; --stage says otherwise")


def postfix_here() -> Postfix | None:
    """The Postfix of this host; None: there is none, or it does not understand its configuration."""
    try:
        return Postfix()
    except SystemRefusal:
        return None


def hooked_stages(postfix: Postfix, configurations: Sequence[Settings]) -> set[str]:
    """The stages at which any service of ``postfix`` asks the daemon of one of ``configurations`` about a mail."""
    queue = postfix.queue_directory
    sockets = [settings.SOCKET for settings in configurations]
    return {
        hook.stage
        for service in postfix.smtpd
        for hook in hooks(postfix, service)
        if hook.stage in _IN_ORDER
        and any(
            is_same(address(hook.asked.endpoint, root, queue), socket) for root in (queue, None) for socket in sockets
        )
    }


def needed_stages(settings: Settings) -> set[str]:
    """Where each rule of ``settings`` that has any limit counts: at DATA, if that is possible, with one request."""
    return {_needed(rule) for rule in make_rules(settings, make_subjects(settings), None)}


def _needed(rule: Rule) -> str:
    if rule.unit == BYTES:
        return END_OF_MESSAGE
    return DATA if DATA in rule.stages else RCPT


def _ordered(stages: set[str]) -> tuple[str, ...]:
    return tuple(stage for stage in _IN_ORDER if stage in stages)
