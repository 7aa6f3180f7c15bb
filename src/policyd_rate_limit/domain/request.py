"""One policy request, as far as it matters here.

The attributes are those of Postfix's SMTPD_POLICY_README, under their names there.
"""

from __future__ import annotations

from typing import NamedTuple

RCPT = "RCPT"
DATA = "DATA"
END_OF_MESSAGE = "END-OF-MESSAGE"


class Request(NamedTuple):
    """The attributes of one policy request that decide or explain an answer.

    An attribute that Postfix did not send, or sent empty, is the empty string (0 for ``recipient_count``).
    Bytes that are not UTF-8 are kept as lone surrogates (``errors="surrogateescape"``).
    """

    protocol_state: str
    instance: str
    queue_id: str
    sasl_username: str
    sender: str
    recipient: str
    client_address: str
    recipient_count: int
