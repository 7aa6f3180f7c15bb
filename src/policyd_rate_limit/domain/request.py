"""One policy request, as far as it matters here.

The attributes are those of Postfix's SMTPD_POLICY_README, under their names there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.rules.facts import NO_FACTS, Facts

RCPT: Final = "RCPT"
DATA: Final = "DATA"
END_OF_MESSAGE: Final = "END-OF-MESSAGE"

WITHOUT_MAIL: Final = ("VRFY", "ETRN")
"""Commands with which no mail is sent. smtpd looks at its client, sender and recipient lists for them as well."""


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Request:
    """The attributes of one policy request that decide or explain an answer.

    An attribute that Postfix did not send, or sent empty, is the empty string (0 for ``recipient_count``).
    Bytes that are not UTF-8 are kept as lone surrogates (``errors="surrogateescape"``).

    ``text``: the lines that it came in, where other attributes can be looked for. ``facts``: what else is known, which
    is put in before rules that ask for it look at the request.
    """

    protocol_state: str
    instance: str
    queue_id: str
    sasl_username: str
    sender: str
    recipient: str
    client_address: str
    recipient_count: int
    text: str = field(default="", compare=False)
    facts: Facts = field(default=NO_FACTS, compare=False, repr=False)

    def __init__(
        self,
        protocol_state: str,
        instance: str,
        queue_id: str,
        sasl_username: str,
        sender: str,
        recipient: str,
        client_address: str,
        recipient_count: int,
        text: str = "",
        facts: Facts = NO_FACTS,
    ) -> None:
        self.protocol_state = protocol_state
        self.instance = instance
        self.queue_id = queue_id
        self.sasl_username = sasl_username
        self.sender = sender
        self.recipient = recipient
        self.client_address = client_address
        self.recipient_count = recipient_count
        self.text = text
        self.facts = facts
