"""Postfix's policy delegation protocol, without I/O: bytes in, requests out, actions in, bytes out.

A request is lines of ``name=value``, each ended by a newline, and an empty line; the answer is one line
``action=...`` and an empty line. https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description".

A full request of Postfix 3.7 has 29 attributes, of which nine matter here. Postfix sends them in the same order in each
version, so that each is looked for behind the one before; in any other order they are found, too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.errors import ProtocolError

MAX_LINE: Final = 16_384  # bytes of one line: name, "=", value and newline
MAX_REQUEST: Final = 65_536  # bytes of one request
MAX_ATTRIBUTES: Final = 256  # of one request; Postfix 3.9 sends 32
MAX_UNCOUNTED: Final = 2_048  # bytes of a request whose attributes nobody counts when they come in Postfix's order
MAX_RECIPIENT_COUNT: Final = 1_000_000_000
MOST_ENCODED: Final = 64  # answers that are kept as bytes
SHOWN: Final = 60  # bytes of what came, in an error

POLICY_REQUEST: Final = "smtpd_access_policy"


class Decoder:
    """Takes what comes over one connection, split anywhere, and gives the requests in it."""

    __slots__ = ("_data", "_searched", "_start")

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of the next request
        self._searched = 0  # before this there is no end of it

    @property
    def partial(self) -> bool:
        """Whether there is something behind the last request that was taken."""
        return len(self._data) > self._start

    def feed(self, data: bytes) -> list[Request]:
        """The requests that ``data`` completes, in order.

        :raises ProtocolError: as of :meth:`next_request`.
        """
        self.push(data)
        requests = []
        while (request := self.next_request()) is not None:
            requests.append(request)
        return requests

    def push(self, data: bytes) -> None:
        """``data`` has come; :meth:`next_request` gives what is in it."""
        if self.partial:
            data = self._data[self._start :] + data
            self._searched = max(0, self._searched - self._start)
        else:
            self._searched = 0
        self._data = data
        self._start = 0

    def next_request(self) -> Request | None:
        """The next request that is whole, None when there is none yet.

        :raises ProtocolError: what came is no request, or goes beyond a bound. The connection is of no more use.
        """
        data, start = self._data, self._start
        if start == len(data):
            return None
        end = data.find(b"\n\n", self._searched)
        if end < 0:
            self._check_rest()
            return None
        self._start = self._searched = end + 2
        return decode(data[start : end + 1])

    def _check_rest(self) -> None:
        """Hold a request that is not whole against the bounds."""
        rest = self._data[self._start :]
        if len(rest) > MAX_REQUEST:
            raise ProtocolError(f"expected a request of at most {MAX_REQUEST} bytes, found more: {_shown(rest)}")
        line_end = rest.rfind(b"\n")
        if len(rest) - line_end > MAX_LINE:
            raise ProtocolError(_line_too_long(rest[line_end + 1 :]))
        if line_end >= self._searched - self._start:
            _check_lines(rest[: line_end + 1])
        self._searched = max(self._start, len(self._data) - 1)


@lru_cache(MOST_ENCODED)
def encode(action: str) -> bytes:
    """The answer ``action``, which may be any of access(5)."""
    return b"action=" + action.encode("utf-8", "surrogateescape") + b"\n\n"


def decode(request: bytes) -> Request:
    """The request in ``request``: whole lines, without the empty one.

    :raises ProtocolError: it is none.
    """
    if len(request) <= MAX_UNCOUNTED:
        found = _in_order(request.decode("utf-8", "surrogateescape"))
        if found is not None:
            return found
    return _in_any_order(request)


def _in_order(text: str) -> Request | None:
    """The request in ``text``; None where it is not laid out as Postfix does it."""
    if not text.startswith(_BEGIN):
        return None
    state = len(_BEGIN)
    state_end = text.find("\n", state)
    # Where one is missing, -1 is what all that follow are looked for behind, and there is none.
    client = text.find("\nclient_address=", state_end)
    client_end = text.find("\n", client + 1)
    sender = text.find("\nsender=", client_end)
    recipient = text.find("\n", sender + 1)
    count = text.find("\n", recipient + 1)
    queue_id = text.find("\n", count + 1)
    instance = text.find("\n", queue_id + 1)
    instance_end = text.find("\n", instance + 1)
    user = text.find("\nsasl_username=", instance_end)
    if (
        client < 0
        or sender < 0
        or user < 0
        or text[recipient : recipient + len("\nrecipient=")] != "\nrecipient="
        or text[count : count + len("\nrecipient_count=")] != "\nrecipient_count="
        or text[queue_id : queue_id + len("\nqueue_id=")] != "\nqueue_id="
        or text[instance : instance + len("\ninstance=")] != "\ninstance="
    ):
        return None
    return Request(
        text[state:state_end],
        text[instance + len("\ninstance=") : instance_end],
        text[queue_id + len("\nqueue_id=") : instance],
        text[user + len("\nsasl_username=") : text.find("\n", user + 1)],
        text[sender + len("\nsender=") : recipient],
        text[recipient + len("\nrecipient=") : count],
        text[client + len("\nclient_address=") : client_end],
        _number(text[count + len("\nrecipient_count=") : queue_id]),
    )


_BEGIN = f"request={POLICY_REQUEST}\nprotocol_state="


def _in_any_order(request: bytes) -> Request:
    _check_lines(request)
    text = "\n" + request.decode("utf-8", "surrogateescape")
    kind = _value(text, "\nrequest=")
    if kind != POLICY_REQUEST:
        raise ProtocolError(f"expected request={POLICY_REQUEST}, found {kind[:SHOWN]!r}")
    return Request(
        _value(text, "\nprotocol_state="),
        _value(text, "\ninstance="),
        _value(text, "\nqueue_id="),
        _value(text, "\nsasl_username="),
        _value(text, "\nsender="),
        _value(text, "\nrecipient="),
        _value(text, "\nclient_address="),
        _number(_value(text, "\nrecipient_count=")),
    )


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


def _check_lines(lines: bytes) -> None:
    """Hold whole lines against the bounds."""
    count = lines.count(b"\n")
    if count > MAX_ATTRIBUTES:
        raise ProtocolError(f"expected at most {MAX_ATTRIBUTES} attributes, found more: {_shown(lines)}")
    if len(lines) > MAX_REQUEST:
        raise ProtocolError(f"expected a request of at most {MAX_REQUEST} bytes, found {len(lines)}: {_shown(lines)}")
    if len(lines) > MAX_LINE or lines.count(b"=") < count:
        for line in lines.split(b"\n")[:-1]:
            if len(line) >= MAX_LINE:
                raise ProtocolError(_line_too_long(line))
            if b"=" not in line:
                raise ProtocolError(f"expected name=value, found {_shown(line)}")


def _line_too_long(line: bytes) -> str:
    return f"expected a line of at most {MAX_LINE} bytes, found more: {_shown(line)}"


def _shown(data: bytes) -> str:
    return repr(data[:SHOWN])[1:]
