"""The requests that Postfix would make about a mail of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.rehearsal.past import NO_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.rehearsal.past import Past

MOST_RECIPIENTS: Final = 50_000
"""The most recipients of one mail that are asked about one by one: smtpd_recipient_overshoot_limit bounds them."""


def request(past: Past, stage: str, instance: str, recipient: str, recipient_count: int) -> Request:
    """What Postfix asks about ``past`` at ``stage``, with an id of the mail, ``instance``.

    ``recipient_count``: of those that were accepted until then. The size is that of the whole mail also at RCPT and
    DATA, where Postfix sends what the client has announced.
    """
    mail = past.mail
    # As in Postfix's request, for rules that look at other attributes: SMTPD_POLICY_README.
    text = (
        f"request=smtpd_access_policy\nprotocol_state={stage}\nhelo_name={mail.helo_name}\n"
        f"client_name={mail.client_name}\nsasl_method={mail.sasl_method}\nsize={mail.size}\n"
    )
    return Request(
        stage,
        instance,
        mail.queue_id,
        mail.sasl_username,
        mail.sender,
        recipient,
        mail.client_address,
        recipient_count,
        text,
    )


def recipients(past: Past, instance: str) -> Iterator[str]:
    """All recipients of ``past``; those without an address are told apart."""
    known = past.recipients
    yield from known[:MOST_RECIPIENTS]
    for number in range(len(known), min(past.recipient_count, MOST_RECIPIENTS)):
        yield f"{NO_ADDRESS}{instance}-{number}"


def only_recipient(past: Past, passed: int, last_passed: str) -> str:
    """The recipient that requests behind RCPT name: who was accepted, if it is one alone."""
    if passed != 1:
        return ""
    return last_passed or (past.recipients[0] if len(past.recipients) == 1 else "")
