"""The mails that a log tells of, from the line with which one begins to that of qmgr(8), by their queue ids.

A short queue id recurs (``enable_long_queue_ids`` of postconf(5)), and instances of one host may have the same at a
time. smtpd(8) and pickup(8) may log with a name of their own (``-o syslog_name=`` in master.cf), while cleanup(8) and
qmgr(8) have that of their instance: where the names differ, a queue id of the same host is the same mail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.maillog.mail import Mail, Origin

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.outgoing import Held
    from policyd_rate_limit.maillog.programs import Program
    from policyd_rate_limit.maillog.tally import Tally

MOST_OPEN: Final = 50_000
"""Mails that have begun and are not complete; beyond that the older half is given up."""

OPEN_SECONDS: Final = 86_400.0
"""After which a mail that is not complete is given up."""

MOST_INSTANCES: Final = 100
"""Names, on one host, with which a mail may begin."""


@mypyc_attr(acyclic=True)
@final
class OpenMail:
    """A mail that is not complete: see :class:`policyd_rate_limit.maillog.mail.Mail`.

    ``message_id``: by which it would be known again, empty: by none. ``is_resent``: that is its Resent-Message-ID.
    ``is_handed_back``: a filter handed it back. ``is_refused``: a command of its session, or all of it, was refused.
    ``held_for``: recipients for whom an action of access(5) has it held; ``waiting``: what is told of it then, without
    its end.
    """

    def __init__(self, origin: Origin, began: float, program: Program) -> None:
        self.origin = origin
        self.began = began
        self.session = program.session
        self.number = 0
        self.program = program
        self.client_address = ""
        self.client_name = ""
        self.sasl_username = ""
        self.sasl_method = ""
        self.message_id = b""
        self.is_resent = False
        self.is_handed_back = False
        self.is_refused = False
        self.waiting: Held | None = None
        self.sender = ""
        self.held_for: list[str] = []

    @property
    def is_told(self) -> bool:
        """Whether it is known without its end."""
        return self.waiting is not None

    def told(
        self,
        time: float,
        queue_id: bytes,
        sender: str,
        size: int,
        recipient_count: int,
        recipients: tuple[str, ...] = (),
    ) -> Mail:
        """It, as the line of ``time`` completes what is known."""
        return Mail(
            time,
            self.began,
            Origin.REINJECTED if self.is_handed_back else self.origin,
            self.program.host,
            self.program.service,
            queue_id.decode(),
            self.client_address,
            self.client_name,
            self.sasl_username,
            self.sasl_method,
            sender,
            "",
            size,
            recipient_count,
            recipients,
            session=self.session,
            number=self.number,
        )


@final
class OpenMails:
    """Finds a mail by the program that names it and its queue id; ``tally`` counts those that are given up."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._young: dict[bytes, OpenMail] = {}
        self._old: dict[bytes, OpenMail] = {}
        self._instances: dict[bytes, list[bytes]] = {}

    def begin(self, program: Program, queue_id: bytes, mail: OpenMail) -> None:
        """``mail`` has begun."""
        key = program.scope + queue_id
        before = self._young.pop(key, None) or self._old.pop(key, None)
        if before is not None:
            self._give_up(before)
        if len(self._young) >= MOST_OPEN // 2:
            for given_up in self._old.values():
                self._give_up(given_up)
            self._old = self._young
            self._young = {}
        self._young[key] = mail
        instances = self._instances.setdefault(program.host_bytes, [])
        if program.instance not in instances and len(instances) < MOST_INSTANCES:
            instances.append(program.instance)

    def find(self, program: Program, queue_id: bytes, time: float) -> OpenMail | None:
        """The mail that ``program`` names, at ``time`` in Unix seconds."""
        mail = self._young.get(program.scope + queue_id)
        if mail is not None and time - mail.began <= OPEN_SECONDS:
            return mail
        return self._look(program, queue_id, time, takes=False)

    def take(self, program: Program, queue_id: bytes, time: float) -> OpenMail | None:
        """The same, and it is complete."""
        key = program.scope + queue_id
        mail = self._young.get(key)
        if mail is not None and time - mail.began <= OPEN_SECONDS:
            del self._young[key]
            return mail
        return self._look(program, queue_id, time, takes=True)

    def end(self) -> None:
        """Nothing more will come."""
        for mail in (*self._old.values(), *self._young.values()):
            self._give_up(mail)
        self._old, self._young = {}, {}

    def _look(self, program: Program, queue_id: bytes, time: float, *, takes: bool) -> OpenMail | None:
        """Look among the older ones, then under other names of the same host."""
        names = self._instances.get(program.host_bytes)
        for instance in (program.instance, *(names if names is not None else ())):
            key = program.host_bytes + b" " + instance + b" " + queue_id
            for mails in (self._young, self._old):
                mail = mails.get(key)
                if mail is None:
                    continue
                if time - mail.began > OPEN_SECONDS:
                    del mails[key]
                    self._give_up(mail)
                elif takes:
                    del mails[key]
                    return mail
                else:
                    return mail
        return None

    def _give_up(self, mail: OpenMail) -> None:
        if not mail.is_refused and not mail.is_told:
            self._tally.unfinished += 1
