"""Makes mails of the lines of Postfix, version 3.0 to 3.10: what each queue id was, from whom, how large, for how many.

===========================================================  ======================================================
smtpd    ``ID: client=NAME[ADDR], sasl_username=USER``       a mail begins; ``orig_queue_id=``: from a filter
pickup   ``ID: uid=N from=<SENDER>``                         one of sendmail(1) begins; ``orig_id=``: once more
cleanup  ``ID: message-id=<...>``                            of one that nobody handed in: Postfix has made it
qmgr     ``ID: from=<SENDER>, size=N, nrcpt=N (queue ...)``  complete; the line comes again with each queue run
smtp     ``ID: to=<RCPT>, orig_to=<RCPT>, relay=...``        one recipient; "queued as ID" of a filter
qmgr     ``ID: removed``                                     all its recipients have been told
smtpd    ``ID: hold: RCPT from NAME[ADDR]: ...``             complete once its content is there: qmgr waits for it
===========================================================  ======================================================

What cannot be known: recipients before cleanup(8) expanded aliases, but for ``orig_to``; whether a program of this host
hands in a mail twice with the same Message-ID and sender, or a filter hands it back; the client of a mail that comes
through a before-queue filter without XFORWARD; who sent a mail that began before the log does: its first line may be
that of cleanup. postscreen(8) refuses before any policy server could be asked: those are no refusals here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.maillog.clients import client
from policyd_rate_limit.maillog.mail import Mail, Origin
from policyd_rate_limit.maillog.open_mails import OpenMail, OpenMails
from policyd_rate_limit.maillog.outgoing import Held, Outgoing
from policyd_rate_limit.maillog.programs import PICKUP
from policyd_rate_limit.maillog.recent import Recent
from policyd_rate_limit.maillog.refusals import END_OF_MESSAGE, holding, refusal, refused_mail

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.programs import Program
    from policyd_rate_limit.maillog.tally import Tally

DELIVERY_SECONDS: Final = 600.0
"""For so long, in the time of the log, a mail waits for the recipients that its deliveries name."""

FILTER_SECONDS: Final = 10.0
"""For so long a mail without a Message-ID of its own waits for a filter to say that it is one that it hands back."""

HOLD_SECONDS: Final = 10.0
"""For so long a mail that is to be held waits until it is known not to be refused at its end."""

MOST_HOSTS: Final = 10_000
"""Whose names are remembered."""

MOST_PROXIED: Final = 10_000
"""Clients of before-queue filters that are remembered."""

_SIZE: Final = re.compile(rb"(\d{1,18}), nrcpt=(\d{1,9}) \(queue \w+\)")
_PICKUP: Final = re.compile(rb"uid=\d+ from=<.*>( orig_id=\w+)?")
_DELIVERY: Final = re.compile(rb"(.*?)>, (?:orig_to=<(.*?)>, )?relay=(\S+), ")
_QUEUED_AS: Final = re.compile(rb".*queued as ([0-9A-Za-z]{6,})\b")

_LOOPBACK: Final = (b"[127.", b"[::1]")


@final
class Traffic:
    """The mails of the lines that it is given, in the order of time; they are left in ``outgoing``.

    Each method takes a line from ``at`` on, where its message begins, and its time in Unix seconds.
    """

    def __init__(self, outgoing: Outgoing, tally: Tally, *, wants_recipients: bool) -> None:
        self._outgoing = outgoing
        self._tally = tally
        self._wants_recipients = wants_recipients
        self._open = OpenMails(tally)
        self._recent = Recent()
        self._waiting: dict[bytes, Held] = {}
        self._proxied: dict[tuple[str, str, str], OpenMail] = {}
        self._own_names: dict[bytes, bytes] = {}
        self._number = 0  # of lines with which a mail may begin

    def smtpd(self, program: Program, line: bytes, at: int, time: float) -> None:
        """A line of smtpd(8)."""
        self._number += 1
        found = line.find(b": client=", at)
        if found >= 0:
            queue_id = line[at:found]
            if queue_id.isalnum():
                self._client(program, queue_id, line[found + 9 :], time)
                return
        if line.find(b"reject: ", at) >= 0:
            self._refusal(program, line[at:], time)
        elif line.find(b": hold: ", at) >= 0:
            self._holding(program, line[at:], time)

    def pickup(self, program: Program, line: bytes, at: int, time: float) -> None:
        """A line of pickup(8), or of qmqpd(8), which asks no policy server either."""
        found = line.find(b": ", at)
        if found < 0 or not line[at:found].isalnum():
            return
        queue_id = line[at:found]
        if line.startswith(b"client=", found + 2):
            self._client(program, queue_id, line[found + 9 :], time)
            return
        sender = _PICKUP.fullmatch(line, found + 2)
        if sender is not None:
            mail = OpenMail(Origin.LOCAL, time, program)
            mail.is_handed_back = sender.group(1) is not None
            self._open.begin(program, queue_id, mail)

    def cleanup(self, program: Program, line: bytes, at: int, time: float) -> None:
        """A line of cleanup(8)."""
        found = line.find(b"message-id=<", at)
        if found < 0:
            if line.find(b"reject: ", at) >= 0:
                self._refusal(program, line[at:], time)
            return
        is_resent = found - at > 8 and line.startswith(b"resent-", found - 7)
        end = found - 9 if is_resent else found - 2
        if end <= at or not line[at:end].isalnum():
            return
        queue_id = line[at:end]
        mail = self._open.find(program, queue_id, time)
        if mail is None:
            mail = OpenMail(Origin.INTERNAL, time, program)
            self._open.begin(program, queue_id, mail)
        if is_resent or not mail.is_resent:
            mail.message_id = line[found + 12 :]
            mail.is_resent = is_resent
            if mail.held_for:
                self._held(mail, queue_id, time)
            if _is_of_cleanup(mail.message_id, queue_id):
                self._note_name(program.host_bytes, mail.message_id)

    def qmgr(self, program: Program, line: bytes, at: int, time: float) -> None:
        """A line of qmgr(8)."""
        if line.endswith(b": removed"):
            if self._waiting and len(line) - 9 > at:
                self._removed(program, line[at:-9])
            return
        found = line.find(b": from=<", at)
        sender_end = line.rfind(b">, size=", found + 7)
        if found < 0 or sender_end < 0:
            return
        figures = _SIZE.fullmatch(line, sender_end + 8)
        queue_id = line[at:found]
        if figures is None or not queue_id.isalnum():
            return
        mail = self._open.take(program, queue_id, time)
        if mail is None or mail.is_told:
            self._tally.again += 1
            return
        self._complete(program, queue_id, mail, line[found + 8 : sender_end], figures, time)

    def delivery(self, program: Program, line: bytes, at: int, time: float) -> None:
        """A line of a delivery agent."""
        if not self._wants_recipients and line.find(b"[127.", at) < 0 and line.find(b"[::1]", at) < 0:
            return
        found = line.find(b": to=<", at)
        if found < 0 or not line[at:found].isalnum():
            return
        queue_id = line[at:found]
        delivery = _DELIVERY.match(line, found + 6)
        if delivery is None:
            return
        recipient, original, relay = delivery.groups()
        if any(address in relay for address in _LOOPBACK):
            queued = _QUEUED_AS.match(line, delivery.end())
            if queued is not None:
                self._handed_back(program, queued.group(1), time)
        held = self._waiting.get(program.scope + queue_id)
        if held is not None and held.recipients is not None and isinstance(held.item, Mail):
            held.recipients[_text(original or recipient)] = None
            if len(held.recipients) >= held.item.recipient_count:
                _has_recipients(held)

    def end(self) -> None:
        """Nothing more will come."""
        self._open.end()
        self._waiting = {}
        self._proxied = {}

    def _client(self, program: Program, queue_id: bytes, text: bytes, time: float) -> None:
        told = client(text)
        if told is None:
            return
        mail = OpenMail(Origin.LOCAL if program.kind == PICKUP else Origin.SMTP, time, program)
        mail.number = self._number
        mail.client_name, mail.client_address = told.name, told.address
        mail.sasl_method, mail.sasl_username = told.sasl_method, told.sasl_username
        if program.is_process:
            program.sasl_method, program.sasl_username = told.sasl_method, told.sasl_username
        if queue_id == b"NOQUEUE":  # it passes the session to smtpd_proxy_filter
            if len(self._proxied) >= MOST_PROXIED:
                self._proxied.clear()
            self._proxied[program.host, told.name, told.address] = mail
            return
        if told.original_id not in ("", "NOQUEUE"):
            mail.is_handed_back = True
        elif told.original_name:
            # A before-queue filter hands it in: the first smtpd had no queue file.
            mail.client_name, mail.client_address = told.original_name, told.original_address
            before = self._proxied.get((program.host, told.original_name, told.original_address))
            if before is not None:
                mail.sasl_method, mail.sasl_username = before.sasl_method, before.sasl_username
                mail.program, mail.session = before.program, before.session
        if program.held_for:
            mail.held_for, mail.sender = program.held_for, program.held_sender
            program.held_for = []
        self._open.begin(program, queue_id, mail)

    def _complete(
        self, program: Program, queue_id: bytes, mail: OpenMail, sender: bytes, figures: re.Match[bytes], time: float
    ) -> None:
        is_own = mail.origin is Origin.LOCAL or (mail.origin is Origin.SMTP and self._is_own(mail))
        if len(mail.message_id) > 1:
            known = hash((program.host_bytes, mail.message_id, sender))
            if is_own and not mail.is_handed_back and self._recent.has(known, time):
                mail.is_handed_back = True
            self._recent.add(known, time)
        size, recipient_count = int(figures.group(1)), int(figures.group(2))
        complete = mail.told(time, queue_id, _text(sender), size, recipient_count)
        key = program.scope + queue_id
        # cleanup has given it its Message-ID, and would have given one to what comes back from a filter as well.
        is_suspect = is_own and not mail.is_handed_back and _is_of_cleanup(mail.message_id, queue_id)
        if not is_suspect and not self._wants_recipients:
            self._outgoing.put(complete)
            return
        held = Held(complete, time + (DELIVERY_SECONDS if self._wants_recipients else FILTER_SECONDS))
        held.is_suspect = is_suspect
        if self._wants_recipients:
            held.recipients = {}
        self._waiting[key] = held
        self._outgoing.hold(held)
        if len(self._waiting) > len(self._outgoing) + max(1000, len(self._outgoing) // 4):
            self._waiting = {key: waiting for key, waiting in self._waiting.items() if not waiting.is_gone}

    def _removed(self, program: Program, queue_id: bytes) -> None:
        held = self._waiting.get(program.scope + queue_id)
        if held is not None and held.recipients is not None:
            _has_recipients(held)

    def _handed_back(self, program: Program, queue_id: bytes, time: float) -> None:
        """A filter on this host has answered that it handed back a mail, which is now ``queue_id``."""
        held = self._waiting.get(program.scope + queue_id)
        if held is not None and isinstance(held.item, Mail):
            if held.is_suspect:
                held.item.origin = Origin.REINJECTED
                held.is_suspect = False
                held.is_done = held.recipients is None
            return
        mail = self._open.find(program, queue_id, time)
        if mail is not None and mail.origin is Origin.SMTP:
            mail.is_handed_back = True

    def _note_name(self, host: bytes, message_id: bytes) -> None:
        """The name of ``host``, ``myhostname`` of postconf(5), as it stands in a Message-ID that it made."""
        if len(self._own_names) >= MOST_HOSTS and host not in self._own_names:
            self._own_names.clear()
        self._own_names[host] = message_id.rpartition(b"@")[2].removesuffix(b">")

    def _is_own(self, mail: OpenMail) -> bool:
        """Whether the client is the host itself."""
        address, name = mail.client_address, mail.client_name
        if address.startswith("127.") or address == "::1":
            return True
        if "." in name and name == mail.program.host:
            return True
        return name.encode("utf-8", "surrogateescape") == self._own_names.get(mail.program.host_bytes)

    def _refusal(self, program: Program, message: bytes, time: float) -> None:
        told = refusal(message)
        if told is None:
            return
        if told.recipient in program.held_for:
            program.held_for.remove(told.recipient)
        mail = self._open.find(program, told.queue_id, time) if told.queue_id else None
        if mail is not None:
            mail.is_refused = True
            if (
                mail.waiting is not None and told.stage == END_OF_MESSAGE
            ):  # it was to be held, and is refused at its end
                mail.waiting.is_void = mail.waiting.is_done = True
        for _ in range(told.times):
            self._outgoing.put(refused_mail(told, mail, program, time, self._number))

    def _holding(self, program: Program, message: bytes, time: float) -> None:
        """An action of access(5) has a mail wait in the queue named hold, where qmgr says nothing of it."""
        told = holding(message)
        if told is None:
            return
        if not told.queue_id:  # the first recipient, before there is a file
            if program.is_process:
                program.held_for.append(told.recipient)
                program.held_sender = told.sender
            return
        mail = self._open.find(program, told.queue_id, time)
        if mail is None:
            return
        mail.sender = told.sender
        mail.held_for.append(told.recipient)
        if mail.message_id:  # at its end, or at the second recipient list of a session
            self._held(mail, told.queue_id, time)

    def _held(self, mail: OpenMail, queue_id: bytes, time: float) -> None:
        """``mail`` is held; how large it is, and to whom else it goes, would be known once it is released."""
        if mail.is_told:
            return
        known = tuple(dict.fromkeys(name for name in mail.held_for if name))
        # At DATA and later Postfix names who is the only one.
        recipient_count = max(2 if "" in mail.held_for else 1, len(known))
        recipients = known if self._wants_recipients else ()
        complete = mail.told(time, queue_id, mail.sender, 0, recipient_count, recipients)
        mail.waiting = Held(complete, time + HOLD_SECONDS)
        self._outgoing.hold(mail.waiting)


def _is_of_cleanup(message_id: bytes, queue_id: bytes) -> bool:
    """Whether cleanup(8) made ``message_id``: nobody else knew the queue id. In front of a short one is the time."""
    return message_id.startswith(queue_id + b"@") or b"." + queue_id + b"@" in message_id


def _has_recipients(held: Held) -> None:
    """All recipients of ``held`` are known."""
    if held.is_suspect:
        held.due = min(held.due, held.item.time + FILTER_SECONDS)
    else:
        held.is_done = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
