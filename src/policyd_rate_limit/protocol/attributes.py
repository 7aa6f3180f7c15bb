"""The attributes of one policy request: lines of ``name=value``, as far as they matter here.

https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description". They may come in any order. Postfix has 29 or
more, always in the same: a :class:`Layout` knows where to look for the eight that matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.errors import ProtocolError

if TYPE_CHECKING:
    from mypy_extensions import i64

MAX_LINE: Final = 16_384  # bytes of one line: name, "=", value and newline
MAX_REQUEST: Final = 65_536  # bytes of one request
MAX_ATTRIBUTES: Final = 256  # of one request; Postfix 3.9 sends 32
MAX_LAID_OUT: Final = 2_048  # bytes of a request that is looked for in its layout, where nobody counts attributes
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


class Layout:
    """On which lines the attributes that matter are in the requests of one client, which has them all alike.

    It is learned from one request. Of an attribute that comes twice, which Postfix does not do, either one counts.
    """

    __slots__ = ("_before_client", "_before_sender", "_before_user", "_behind_user", "_known")

    def __init__(self) -> None:
        self._known = False
        self._before_client: i64 = 0  # lines between protocol_state and client_address
        self._before_sender: i64 = 0  # between client_address and sender; four others follow at once
        self._before_user: i64 = 0  # between instance and sasl_username
        self._behind_user = ""  # all that the last request had behind that, which is the same in most

    def learn(self, request: bytes) -> None:
        """Where the attributes are in ``request``, of whole lines; what Postfix does not send teaches nothing."""
        if len(request) > MAX_LAID_OUT:
            return
        names = [line.partition(b"=")[0].decode("utf-8", "surrogateescape") for line in request.split(b"\n")]
        try:
            client, sender, user = names.index("client_address"), names.index("sender"), names.index("sasl_username")
        except ValueError:
            return
        self._known = 1 < client < sender and sender + 4 < user
        self._before_client = client - 2
        self._before_sender = sender - client - 1
        self._before_user = user - sender - 5

    def decode(self, data: bytes) -> Request | None:
        """The request that ``data`` is, with the empty line behind it.

        None: it is not laid out so, or it is not just one whole request.
        """
        if not self._known or len(data) > MAX_LAID_OUT:
            return None
        text = data.decode("utf-8", "surrogateescape")
        if not text.startswith(_BEGIN):
            return None
        # Each is the newline before the attribute, or -1, as all that follow.
        state_end = text.find("\n", len(_BEGIN))
        client = _skip(text, state_end, self._before_client)
        client_end = _skip(text, client, 1)
        sender = _skip(text, client_end, self._before_sender)
        recipient = _skip(text, sender, 1)
        count = _skip(text, recipient, 1)
        queue_id = _skip(text, count, 1)
        instance = _skip(text, queue_id, 1)
        instance_end = _skip(text, instance, 1)
        user = _skip(text, instance_end, self._before_user)
        user_end = _skip(text, user, 1)
        if (
            user_end < 0
            or text[client : client + len(_CLIENT)] != _CLIENT
            or text[sender : sender + len(_SENDER)] != _SENDER
            or text[recipient : recipient + len(_RECIPIENT)] != _RECIPIENT
            or text[count : count + len(_COUNT)] != _COUNT
            or text[queue_id : queue_id + len(_QUEUE_ID)] != _QUEUE_ID
            or text[instance : instance + len(_INSTANCE)] != _INSTANCE
            or text[user : user + len(_USER)] != _USER
        ):
            return None
        if text[user_end:] != self._behind_user:
            if text.find("\n\n", user_end) != len(text) - 2:
                return None
            self._behind_user = text[user_end:]
        return Request(
            text[len(_BEGIN) : state_end],
            text[instance + len(_INSTANCE) : instance_end],
            text[queue_id + len(_QUEUE_ID) : instance],
            text[user + len(_USER) : user_end],
            text[sender + len(_SENDER) : recipient],
            text[recipient + len(_RECIPIENT) : count],
            text[client + len(_CLIENT) : client_end],
            _number(text[count + len(_COUNT) : queue_id]),
        )


def _skip(text: str, newline: int, lines: i64) -> int:
    """The newline that ends the last of the ``lines`` behind ``newline``; -1 when one is empty, or not whole."""
    if newline < 0:
        return -1
    while lines > 0:
        begin = newline + 1
        newline = text.find("\n", begin)
        if newline <= begin:
            return -1
        lines -= 1
    return newline


def decode(request: bytes) -> Request:
    """The request in ``request``: whole lines, in any order, without the empty one.

    :raises ProtocolError: it is none.
    """
    check_lines(request)
    text = "\n" + request.decode("utf-8", "surrogateescape")
    kind = _value(text, "\nrequest=")
    if kind != POLICY_REQUEST:
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
    if len(lines) > MAX_LINE or lines.count(b"=") < count:
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
