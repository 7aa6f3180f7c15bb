"""What the daemon counts where smtpd asks it: mails twice, or more recipients at once than limits admit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, error, warning
from policyd_rate_limit.domain.counting import RECIPIENTS
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.postfix.lists import RECIPIENT_LIST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.doctor.hooks import Hooks
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.postfix.hooks import Hook
    from policyd_rate_limit.postfix.postconf import Postfix


def asked_twice(postfix: Postfix, settings: Settings, stage: list[Hook]) -> Finding:
    """The hooks of one service at one ``stage``, where each request counts."""
    lists = [hook.parameter for hook in stage]
    hook = stage[-1]
    return error(
        "asked-twice",
        postfix.place(hook.parameter, hook.service),
        f"asks {len(stage)} times at {hook.stage}: in {', '.join(lists)}",
        f"With count_mode {settings.count_mode} each request counts: a mail counts {len(stage)} times.",
        postfix.line(hook.parameter, hook.others, hook.service),
    )


def counted_twice(postfix: Postfix, hooks: Hooks) -> Iterator[Finding]:
    """Mail that comes back from a content filter."""
    filters = {
        service: postfix.value(name, service)
        for service in postfix.smtpd
        for name in ("content_filter", "smtpd_proxy_filter")
        if postfix.value(name, service) and not service.is_local
    }
    first = [hook for hook in hooks.counting if hook.service in filters]
    again = [hook for hook in hooks.counting if hook.service not in filters and hooks.services.takes_back(hook.service)]
    if not again or not first or not hooks.services.charges_others:
        return
    hook = again[0]
    yield warning(
        "counted-twice",
        f"master.cf, {hook.service.key}",
        f"asks the daemon, as does {first[0].service.key}, whose mail goes through {filters[first[0].service]}",
        "If the filter hands mail back to this service, each mail counts twice.",
        f"  -o {{ {hook.parameter} = {hook.others} }}",
    )


def too_many_recipients(postfix: Postfix, settings: Settings, hooks: Hooks) -> Iterator[Finding]:
    """Mails that can never pass as a whole, where all recipients are counted at once."""
    smallest = min(_most_at_once(hooks.rules, settings), default=0)
    if not smallest:
        return
    for service in dict.fromkeys(hook.service for hook in hooks.counting):
        most = int(postfix.value("smtpd_recipient_limit", service) or 0)
        at_rcpt = RCPT in {hook.stage for hook in hooks.counting if hook.service == service}
        if at_rcpt or most <= smallest or not hooks.services.may_charge(service):
            continue
        why = "A mail to more of them is refused as a whole, however often it is tried."
        if hooks.services.is_for_users(service):
            place = f"master.cf, {service.key}"
            why += (
                " With the line below smtpd tells the client at the first recipient too many to send the rest by"
                " itself (RFC 5321, 4.5.3.1.10)."
            )
            mend = f"  -o {{ smtpd_recipient_limit = {smallest} }}"
        else:
            # A lower smtpd_recipient_limit would hold for mail from other servers, too, which may have a hundred.
            place = postfix.place(RECIPIENT_LIST, service)
            why += " Asked at RCPT, the daemon decides on each of them: those within the limits pass."
            mend = hooks.hooking(RECIPIENT_LIST, service)
            if settings.count_mode is not None:
                mend = f"# in {settings.config_file or 'the configuration'}, count_mode left out; in main.cf:\n{mend}"
        found = f"takes {most} recipients a mail, of which limits admit {smallest}"
        yield warning("recipient-limit", place, found, why, mend)


def _most_at_once(rules: Sequence[Rule], settings: Settings) -> Iterator[int]:
    """How many recipients each limit admits that holds for all mail, and counts all recipients of one at once.

    What is meant to bound one mail does so.
    """
    for rule in rules:
        whole = DATA in rule.stages or END_OF_MESSAGE in rule.stages
        if rule.unit != RECIPIENTS or not rule.refuses or rule.match is not None or not whole:
            continue
        subjects = rule.subjects
        limits = subjects.limits if isinstance(subjects, KeyedSubjects) else settings.limits
        yield from (limit.maximum for limit in limits if not limit.is_per_mail)
