"""Who wrote a line: syslog's host and tag, and which daemon of Postfix that is.

A daemon is known by the end of its tag (``postfix/submission/smtpd``): all in front of that is ``syslog_name`` of
postconf(5), which administrators change for instances and for services of master(5).
"""

from __future__ import annotations

import itertools
import re
from typing import Final, final

from policyd_rate_limit.compiling import mypyc_attr

OTHER: Final = 0
"""Not of Postfix, nor this daemon."""
POSTFIX: Final = 1
"""Of Postfix, and says nothing about what mails it takes."""
SMTPD: Final = 2
PICKUP: Final = 3
CLEANUP: Final = 4
QMGR: Final = 5
DELIVERY: Final = 6
DAEMON: Final = 7
"""This daemon."""

NAME: Final = b"policyd-rate-limit"
"""With which this daemon logs."""

LONGEST_HEADER: Final = 512
"""Bytes of host and tag."""

MOST_PROGRAMS: Final = 10_000
"""That are remembered by how their lines begin, each process by itself; then it begins anew."""

_KINDS: Final = {
    b"smtpd": SMTPD,
    b"pickup": PICKUP,
    b"qmqpd": PICKUP,
    b"cleanup": CLEANUP,
    b"qmgr": QMGR,
    b"nqmgr": QMGR,
    b"oqmgr": QMGR,
    **dict.fromkeys((b"smtp", b"lmtp", b"local", b"virtual", b"pipe", b"discard", b"error", b"retry"), DELIVERY),
    **dict.fromkeys(
        (
            *(b"anvil", b"bounce", b"defer", b"dnsblog", b"flush", b"master", b"postlog", b"postlogd", b"postscreen"),
            *(b"proxymap", b"proxywrite", b"scache", b"showq", b"spawn", b"tlsmgr", b"tlsproxy", b"trace", b"verify"),
            *(b"trivial-rewrite", b"postfix-script", b"postdrop", b"postqueue", b"postsuper", b"postmap", b"postalias"),
            *(b"sendmail", b"postmulti", b"postkick", b"postfix-wrapper", b"postfix-tlsproxy", b"tlsproxy"),
        ),
        POSTFIX,
    ),
}
# With syslogd -v of FreeBSD facility and level stand in front of the host. The tag of a container may have no host.
_HEADER: Final = re.compile(rb"(?:<[a-z0-9.]+> )?(?:(\S+) )?(\S+?)(?:\[\d*\])?")


_SESSIONS: Final = itertools.count(1)


@mypyc_attr(acyclic=True)
@final
class Program:
    """One program on one host.

    ``kind``: what it is to us. ``host``, ``service``: as the log has them. ``host_bytes``: the host, as it is.
    ``instance``: the first part of the tag, by which instances of Postfix on one host differ. ``scope``: what makes a
    queue id one of this instance alone, when it stands in front of it. ``session``: the number of the SMTP session that
    this process serves, 0: that is not known. ``held_for``: recipients for whom an action of access(5) has the next
    mail of this session held, which ``held_sender`` sends. ``sasl_username``, ``sasl_method``: who has logged in to the
    session, as far as a mail of it has told.
    """

    def __init__(self, host: bytes, tag: bytes) -> None:
        instance, slash, _ = tag.partition(b"/")
        self.kind: int = _KINDS.get(tag.rpartition(b"/")[2], OTHER) if slash else DAEMON if tag == NAME else OTHER
        self.host: str = host.decode("utf-8", "surrogateescape")
        self.service: str = tag.decode("utf-8", "surrogateescape")
        self.host_bytes: bytes = host
        self.instance: bytes = instance
        self.scope: bytes = host + b" " + instance + b" "
        self.session: int = 0
        self.is_process: bool = False
        self.held_for: list[str] = []
        self.held_sender: str = ""
        self.sasl_username: str = ""
        self.sasl_method: str = ""

    def connected(self) -> None:
        """A client has connected: a session begins, if that is one process."""
        if self.is_process:
            self.session = next(_SESSIONS)
            self.held_for = []
            self.sasl_username = self.sasl_method = ""


@mypyc_attr(acyclic=True)
@final
class Programs:
    """Knows the programs of a log by what stands between date and message: ``known``, what was found so far."""

    def __init__(self) -> None:
        self.known: dict[bytes, Program | None] = {}

    def of(self, header: bytes) -> Program | None:
        """Whose line has ``header``, such as ``mx postfix/smtpd[123]``; None: it is no header."""
        if header in self.known:
            return self.known[header]
        if len(header) > LONGEST_HEADER:
            return None
        found = _HEADER.fullmatch(header)
        program = None if found is None else Program(found.group(1) or b"", found.group(2))
        if len(self.known) >= MOST_PROGRAMS:
            self.known.clear()
        if program is not None:
            program.is_process = header.endswith(b"]")
        self.known[header] = program
        return program

    def named(self, host: bytes, tag: bytes, process: bytes) -> Program:
        """The program that logs as ``tag`` on ``host``; ``process``: its id, empty where that is not known."""
        header = host.replace(b" ", b"_") + b" " + tag.replace(b" ", b"_")
        program = self.of(header + b"[" + process + b"]" if process.isdigit() else header)
        return program if program is not None else Program(host, tag)
