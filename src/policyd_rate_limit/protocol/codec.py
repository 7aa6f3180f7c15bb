"""Postfix's policy delegation protocol, without I/O: bytes in, requests out, actions in, bytes out.

A request is lines of ``name=value``, each ended by a newline, and an empty line; the answer is one line
``action=...`` and an empty line. https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description".

A full request of Postfix 3.7 has 29 attributes, of which nine matter here. Postfix sends them in the same order in each
version, so that each is looked for behind the one before; in any other order they are found, too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.domain.tuples import maker
from policyd_rate_limit.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE = 16_384  # bytes of one line: name, "=", value and newline
MAX_REQUEST = 65_536  # bytes of one request
MAX_ATTRIBUTES = 256  # of one request; Postfix 3.9 sends 32
MAX_UNCOUNTED = 2_048  # bytes of a request whose attributes nobody counts when they come in Postfix's order
MAX_RECIPIENT_COUNT = 1_000_000_000
MOST_ENCODED = 64  # answers that are kept as bytes
SHOWN = 60  # bytes of what came, in an error

POLICY_REQUEST = "smtpd_access_policy"


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
    kind, _, rest = text.partition("\nprotocol_state=")
    state, _, rest = rest.partition("\n")
    client, _, rest = rest.partition("\nclient_address=")[2].partition("\n")
    sender, _, rest = rest.partition("\nsender=")[2].partition("\nrecipient=")
    recipient, _, rest = rest.partition("\nrecipient_count=")
    count, _, rest = rest.partition("\nqueue_id=")
    queue_id, _, rest = rest.partition("\ninstance=")
    instance, _, rest = rest.partition("\n")
    _, found, rest = rest.partition("\nsasl_username=")
    # Where one is missing, nothing is left in which the next could be found.
    if not found or kind != _REQUEST or "\n" in sender + recipient + count + queue_id:
        return None
    user = rest.partition("\n")[0]
    return _request((state, instance, queue_id, user, sender, recipient, client, 0 if count == "0" else _number(count)))


_REQUEST = f"request={POLICY_REQUEST}"
_request: Callable[[tuple[str, str, str, str, str, str, str, int]], Request] = maker(Request)


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
    if not value:
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
