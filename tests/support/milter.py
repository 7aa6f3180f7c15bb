"""A milter that refuses, at their end, mails with a certain subject, as content checks do.

The protocol is that of Sendmail's libmilter, as Postfix speaks it (MILTER_README): each packet is its length, a command
and data.
"""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from collections.abc import Iterator

VERSION = 6
# All but headers, the end and what goes before them is left out, and headers are not answered: SMFIP_NOCONNECT, NOHELO,
# NOMAIL, NORCPT, NOBODY, NOEOH, NR_HDR, NOUNKNOWN, NODATA.
PROTOCOL = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200


class _Session(socketserver.StreamRequestHandler):
    """What one smtpd asks."""

    server: _Server

    def handle(self) -> None:
        is_refused = False
        while len(head := self.rfile.read(4)) == 4:
            packet = self.rfile.read(struct.unpack("!I", head)[0])
            command, data = packet[:1], packet[1:]
            if command == b"O":  # which options
                self._answer(b"O" + struct.pack("!III", VERSION, 0, PROTOCOL))
            elif command == b"L":  # a header
                is_refused |= data == b"Subject\0" + self.server.subject + b"\0"
            elif command == b"E":  # the end
                self._answer(b"y" + self.server.reply + b"\0" if is_refused else b"c")
                is_refused = False
            elif command == b"A":  # the mail is given up
                is_refused = False
            elif command == b"Q":
                return

    def _answer(self, packet: bytes) -> None:
        self.wfile.write(struct.pack("!I", len(packet)) + packet)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    subject = b""
    reply = b""


@contextlib.contextmanager
def milter(subject: str, reply: str) -> Iterator[int]:
    """The port of one that answers ``reply`` (such as ``550 5.7.1 No``) to mails of that subject."""
    with _Server(("127.0.0.1", 0), _Session) as server:
        server.subject, server.reply = subject.encode(), reply.encode()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
