"""Postfix's policy delegation protocol, without I/O: bytes in, requests out, actions in, bytes out.

A request is lines of ``name=value``, each ended by a newline, and an empty line; the answer is one line
``action=...`` and an empty line. https://www.postfix.org/SMTPD_POLICY_README.html, "Protocol description".
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.protocol.attributes import (
    MAX_LINE,
    MAX_REQUEST,
    Reader,
    check_lines,
    decode,
    line_too_long,
    shown,
)

if TYPE_CHECKING:
    from policyd_rate_limit.domain.request import Request

MOST_ENCODED: Final = 64  # answers that are kept as bytes


class Decoder:
    """Takes what comes over one connection, split anywhere, and gives the requests in it."""

    __slots__ = ("_data", "_reader", "_searched", "_start")

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of the next request
        self._searched = 0  # before this there is no end of it
        self._reader = Reader()

    @property
    def partial(self) -> bool:
        """Whether there is something behind the last request that was taken."""
        return len(self._data) > self._start

    @property
    def held(self) -> int:
        """Bytes of memory for what has come and was not taken yet."""
        return len(self._data)

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
        if not start:
            # Postfix sends one, and waits for its answer.
            request = self._reader.read(data)
            if request is not None:
                self._data = b""  # the memory is used for the next that comes, while it is in the processor's cache
                return request
        end = data.find(b"\n\n", self._searched)
        if end < 0:
            self._check_rest()
            return None
        if end + 2 == len(data):
            self._data = b""
            self._start = self._searched = 0
        else:
            self._start = self._searched = end + 2
        return self._reader.read(data[start : end + 2]) or decode(data[start : end + 1])

    def _check_rest(self) -> None:
        """Hold a request that is not whole against the bounds."""
        rest = self._data[self._start :]
        if len(rest) > MAX_REQUEST:
            raise ProtocolError(f"expected a request of at most {MAX_REQUEST} bytes, found more: {shown(rest)}")
        line_end = rest.rfind(b"\n")
        if len(rest) - line_end > MAX_LINE:
            raise ProtocolError(line_too_long(rest[line_end + 1 :]))
        if line_end >= self._searched - self._start:
            check_lines(rest[: line_end + 1])
        self._searched = max(self._start, len(self._data) - 1)


@lru_cache(MOST_ENCODED)
def encode(action: str) -> bytes:
    """The answer ``action``, which may be any of access(5)."""
    return b"action=" + action.encode("utf-8", "surrogateescape") + b"\n\n"
