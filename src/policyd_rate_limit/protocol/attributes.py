"""The attributes of one policy request: lines of ``name=value``, as far as they matter here.

https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description". They may come in any order. Postfix
sends 29 or more, of which nine matter.
"""

from __future__ import annotations

from typing import Final

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.errors import ProtocolError

MAX_LINE: Final = 16_384  # bytes of one line: name, "=", value and newline
MAX_REQUEST: Final = 65_536  # bytes of one request
MAX_ATTRIBUTES: Final = 256  # of one request; Postfix 3.9 sends 32
MAX_IN_ORDER: Final = 2_048  # bytes of a request that is looked at for Postfix's order
MAX_RECIPIENT_COUNT: Final = 1_000_000_000
SHOWN: Final = 60  # bytes of what came, in an error

POLICY_REQUEST: Final = "smtpd_access_policy"

_BEGIN: Final = "request=smtpd_access_policy\nprotocol_state="
_CLIENT: Final = "\nclient_address="
_SENDER: Final = "\nsender="
_RECIPIENT: Final = "\nrecipient="
_COUNT: Final = "\nrecipient_count="
_QUEUE_ID: Final = "\nqueue_id="
_INSTANCE: Final = "\ninstance="
_USER: Final = "\nsasl_username="
_KNOWN: Final = 9  # attributes: these, request and protocol_state


class Reader:
    """Reads the requests of one client where it lays them out as Postfix does, in an order that each version keeps.

    Each attribute is looked for behind the one before. Of one that comes twice, which Postfix does not do, either
    counts.
    """

    __slots__ = ("_others",)

    def __init__(self) -> None:
        self._others = ""  # what the last request had besides, which is within the bounds: it is the same in most

    def read(self, data: bytes) -> Request | None:
        """The request that ``data`` is, with the empty line at its end.

        None: it is laid out otherwise, or it is not just one whole request.

        :raises ProtocolError: its recipient_count is no number.
        """
        if len(data) > MAX_IN_ORDER:
            return None
        text = data.decode("utf-8", "surrogateescape")
        if not text.startswith(_BEGIN):
            return None
        state_end = text.find("\n", len(_BEGIN))
        # Where one is missing, -1 is what all that follow are looked for behind, and there is none.
        client = text.find(_CLIENT, state_end)
        client_end = text.find("\n", client + 1)
        sender = text.find(_SENDER, client_end)
        recipient = text.find("\n", sender + 1)
        count = text.find("\n", recipient + 1)
        queue_id = text.find("\n", count + 1)
        instance = text.find("\n", queue_id + 1)
        instance_end = text.find("\n", instance + 1)
        user = text.find(_USER, instance_end)
        user_end = text.find("\n", user + 1)
        if (
            client < 0
            or sender < 0
            or user < 0
            or user_end < 0
            or text[recipient : recipient + len(_RECIPIENT)] != _RECIPIENT
            or text[count : count + len(_COUNT)] != _COUNT
            or text[queue_id : queue_id + len(_QUEUE_ID)] != _QUEUE_ID
            or text[instance : instance + len(_INSTANCE)] != _INSTANCE
        ):
            return None
        others = text[state_end:client] + text[client_end:sender] + text[instance_end:user] + text[user_end:]
        if others != self._others:
            if not _are_lines(others):
                return None
            self._others = others
        return Request(
            text[len(_BEGIN) : state_end],
            text[instance + len(_INSTANCE) : instance_end],
            text[queue_id + len(_QUEUE_ID) : instance],
            text[user + len(_USER) : user_end],
            text[sender + len(_SENDER) : recipient],
            text[recipient + len(_RECIPIENT) : count],
            text[client + len(_CLIENT) : client_end],
            _number(text[count + len(_COUNT) : queue_id]),
            text,
        )


def decode(request: bytes) -> Request:
    """The request in ``request``: whole lines, in any order, without the empty one.

    :raises ProtocolError: it is none.
    """
    check_lines(request)
    text = "\n" + request.decode("utf-8", "surrogateescape")
    kind = _value(text, "\nrequest=")
    if kind != POLICY_REQUEST and not _lacks_one(kind):
        raise ProtocolError(f"expected request={POLICY_REQUEST}, found {kind[:SHOWN]!r}")
    return Request(
        _value(text, "\nprotocol_state="),
        _value(text, _INSTANCE),
        _value(text, _QUEUE_ID),
        _value(text, _USER),
        _value(text, _SENDER),
        _value(text, _RECIPIENT),
        _value(text, _CLIENT),
        _number(_value(text, _COUNT)),
        text,
    )


def _are_lines(others: str) -> bool:
    """Whether ``others``, of a request in Postfix's order, are attributes, and all that it has at the end of it."""
    end = len(others) - 2
    if others.find("\n\n") != end:
        return False
    if not end:
        return True
    lines = others[1:end].split("\n")
    if len(lines) > MAX_ATTRIBUTES - _KNOWN:
        return False
    for line in lines:  # noqa: SIM110 - all() takes a generator, which is not compiled
        if "=" not in line:
            return False
    return True


def _lacks_one(kind: str) -> bool:
    """Whether ``kind`` is POLICY_REQUEST without one of its characters.

    The tests of version 1.2.0, which read none of it, send that, and wait for an answer.
    """
    return len(kind) == len(POLICY_REQUEST) - 1 and any(
        POLICY_REQUEST[:lost] + POLICY_REQUEST[lost + 1 :] == kind for lost in range(len(POLICY_REQUEST))
    )


def check_lines(lines: bytes) -> None:
    """Hold whole lines against the bounds.

    :raises ProtocolError: they go beyond one, or are no attributes.
    """
    count = lines.count(b"\n")
    if count > MAX_ATTRIBUTES:
        raise ProtocolError(f"expected at most {MAX_ATTRIBUTES} attributes, found more: {shown(lines)}")
    if len(lines) > MAX_REQUEST:
        raise ProtocolError(f"expected a request of at most {MAX_REQUEST} bytes, found {len(lines)}: {shown(lines)}")
    for line in lines.split(b"\n")[:-1]:
        if len(line) >= MAX_LINE:
            raise ProtocolError(line_too_long(line))
        if b"=" not in line:
            raise ProtocolError(f"expected name=value, found {shown(line)}")


def line_too_long(line: bytes) -> str:
    """The complaint about ``line``."""
    return f"expected a line of at most {MAX_LINE} bytes, found more: {shown(line)}"


def shown(data: bytes) -> str:
    """The beginning of ``data``, for an error."""
    return repr(data[:SHOWN])[1:]


def _value(text: str, begin: str) -> str:
    start = text.find(begin)
    if start < 0:
        return ""
    start += len(begin)
    return text[start : text.find("\n", start)]


def _number(value: str) -> int:
    if value in ("0", ""):
        return 0
    if not (value.isascii() and value.isdigit()) or len(value) > len(str(MAX_RECIPIENT_COUNT)):
        raise ProtocolError(f"expected a number as recipient_count, found {value[:SHOWN]!r}")
    return min(int(value), MAX_RECIPIENT_COUNT)
