"""What a request costs: at which stages, how much, and what of it has been charged before.

The stages are those of Postfix's ``protocol_state``; which of them ask is a matter of main.cf.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.domain.request import Request

MOST_INSTANCE = 64  # characters that are kept as they are; Postfix 3.7 sends about 25

_RECIPIENT_RESTRICTIONS = "smtpd_recipient_restrictions"
_DATA_RESTRICTIONS = "smtpd_data_restrictions"
_HOOKS = {
    None: (_RECIPIENT_RESTRICTIONS, "smtpd_data_restrictions or smtpd_end_of_data_restrictions"),
    0: (_RECIPIENT_RESTRICTIONS,),
    1: (_DATA_RESTRICTIONS,),
    2: (_DATA_RESTRICTIONS,),
}


class Cost(NamedTuple):
    """What one request costs; see :class:`policyd_rate_limit.domain.charge.Demand` for ``part`` and ``settles``."""

    amount: int
    part: str
    settles: bool = False


def _recipient(request: Request, _repetition: int) -> Cost:
    return Cost(1, digest(request.recipient))


def _all_recipients(request: Request, _repetition: int) -> Cost:
    return Cost(max(1, request.recipient_count), "", settles=True)


def _each_request(request: Request, repetition: int) -> Cost:
    return Cost(1, digest(f"{request.sender}\n{request.recipient}\n{repetition}"))


def _recipients_of_data(request: Request, _repetition: int) -> Cost:
    return Cost(max(1, request.recipient_count), DATA)


def _each_mail(_request: Request, _repetition: int) -> Cost:
    return Cost(1, DATA)


_MODES: dict[int | None, Mapping[str, Callable[[Request, int], Cost]]] = {
    None: {RCPT: _recipient, DATA: _all_recipients, END_OF_MESSAGE: _all_recipients},
    0: {RCPT: _each_request},
    1: {DATA: _recipients_of_data},
    2: {DATA: _each_mail},
}


def stages(count_mode: int | None) -> Mapping[str, Callable[[Request, int], Cost]]:
    """What a request at each counted stage costs, under ``count_mode``.

    The functions take the request and how many equal ones of the same mail were answered on the same connection
    before it: Postfix repeats a request over a new connection only when it got no answer.
    """
    return _MODES[count_mode]


def main_cf_hint(count_mode: int | None, policy_service: str) -> str:
    """The line of main.cf that makes Postfix ask at a stage that ``count_mode`` counts."""
    hook = " or ".join(_HOOKS[count_mode])
    return f"{hook} = ..., check_policy_service {{ {policy_service}, default_action=DUNNO }}, ..."


def mail_id(instance: str) -> str:
    """What tells the requests of one mail, from the ``instance`` attribute; bounded in length."""
    return instance if len(instance) <= MOST_INSTANCE else digest(instance)


def digest(text: str) -> str:
    """Sixteen characters that stand for ``text``: addresses of recipients are not kept longer than needed."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
