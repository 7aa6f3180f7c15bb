"""The lists of restrictions of smtpd(8), and at which stage each is looked at: postconf(5), SMTPD_ACCESS_README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT

if TYPE_CHECKING:
    from collections.abc import Collection

RECIPIENT_LIST = "smtpd_recipient_restrictions"
DATA_LIST = "smtpd_data_restrictions"
END_OF_DATA_LIST = "smtpd_end_of_data_restrictions"

LIST_AT = {RCPT: RECIPIENT_LIST, DATA: DATA_LIST, END_OF_MESSAGE: END_OF_DATA_LIST}
"""The list that is looked at at each stage that may count."""

WITH_A_TABLE = tuple(
    f"smtpd_{stage}_restrictions" for stage in ("client", "helo", "sender", "relay", "recipient", "etrn")
)
"""Lists in which a table alone is one restriction: that of check_client_access and so on."""

LISTS = (*WITH_A_TABLE, DATA_LIST, END_OF_DATA_LIST)
"""All of them."""

_STAGES = {
    "smtpd_client_restrictions": "CONNECT",
    "smtpd_helo_restrictions": "EHLO",
    "smtpd_sender_restrictions": "MAIL",
    "smtpd_relay_restrictions": RCPT,
    RECIPIENT_LIST: RCPT,
    DATA_LIST: DATA,
    END_OF_DATA_LIST: END_OF_MESSAGE,
}
_DELAYED = ("CONNECT", "EHLO", "MAIL")


def stages_of_lists(*, delayed: bool) -> dict[str, str]:
    """When each list is looked at for a mail, as protocol_state says it; ``delayed``: with smtpd_delay_reject."""
    return {name: RCPT if delayed and stage in _DELAYED else stage for name, stage in _STAGES.items()}


def asking(endpoint: str) -> str:
    """The restriction that asks the daemon at ``endpoint``, and lets mail pass while it does not answer."""
    return f"check_policy_service {{ {endpoint}, default_action=DUNNO }}"


def hooking(stages: Collection[str], endpoint: str) -> str:
    """The line of main.cf that has the daemon at ``endpoint`` asked at one of ``stages``."""
    return f"{' or '.join(LIST_AT[stage] for stage in LIST_AT if stage in stages)} = ..., {asking(endpoint)}, ..."
