"""Replay: brings what was decided from memory into Redis, each mail once."""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.contract import Refused
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis.encoding import encoded
from policyd_rate_limit.storage.redis.keys import lane_of, part_field, settled_field
from policyd_rate_limit.storage.redis.node import NodeError, Remedy, refusable, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.domain.charge import Verdict
    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.redis.keys import Keys
    from policyd_rate_limit.storage.redis.link import Link
    from policyd_rate_limit.storage.redis.node import Argument, Command
    from policyd_rate_limit.storage.redis.session import Session

COMMANDS_PER_EXCHANGE = 500  # so that each ends within the timeout

_logger = logging.getLogger(__name__)


class Replays:
    """Brings in records, in the order in which they were written.

    ``run`` has commands answered, or raises NodeError; ``check`` raises it where the servers refuse everybody.
    ``done``: (writer, number) of the records that are in. New
    connections may lead to servers that know nothing of those.
    """

    def __init__(
        self, link: Link, keys: Keys, run: Callable[[Sequence[Command]], object], check: Callable[[], None]
    ) -> None:
        self.done: set[tuple[int, int]] = set()
        self._former: dict[tuple[bytes, str], int] = {}  # lane, counter -> number of the last record
        self._session: Session | None = None  # over which they are in
        self._link = link
        self._keys = keys
        self._run = run
        self._check = check
        self._refused: list[Record] = []
        self._reasons: dict[str, str] = {}  # counter -> why

    def bring_in(self, records: Sequence[Record], keep: int) -> None:
        """Bring in ``records``, which the servers are to remember for ``keep`` seconds at the least.

        :raises NodeError: that takes longer than one batch may, or the servers do not do it.
        """
        if self._session is not self._link.session:
            self.forget()
            self._session = self._link.session
        waiting = [record for record in records if record[:2] not in self.done]
        end = self._link.end()
        while waiting:
            if self._link.monotonic() >= end:
                raise NodeError(
                    f"still to be brought into Redis: {quantity(len(waiting), 'batch', 'batches')}", Remedy.REPEAT
                )
            commands: list[tuple[Command, int, Sequence[Entry]]] = []
            count = 0
            for record in waiting:
                if len(commands) >= COMMANDS_PER_EXCHANGE:
                    break
                try:
                    commands += self._commands(record, keep)
                except ValueError as error:
                    _logger.error("a batch in the spool cannot be understood and does not count: %s", error)
                count += 1
            try:
                self._run([command for command, _, _ in commands])
                self._set_aside(commands)
            except NodeError:
                # Which of them are done is known to the server.
                self.forget()
                raise
            self.done.update(record[:2] for record in waiting[:count])
            del waiting[:count]

    def forget(self) -> None:
        """Whether any are in is no more known."""
        self.done.clear()
        self._former.clear()
        self._refused = []
        self._reasons = {}

    def raise_refused(self, verdicts: list[Verdict], besides: Refused | None = None) -> None:
        """Say what the servers have refused of what was brought in, with what they refuse ``besides``.

        :raises Refused: if there is anything.
        """
        if self._refused:
            records, reasons = self._refused, self._reasons
            self._refused, self._reasons = [], {}
            if besides is None:
                raise Refused(verdicts, (), reasons, waited=records)
            raise Refused(verdicts, besides.records, {**reasons, **besides.reasons}, besides.unkept, records)

    def _set_aside(self, commands: Sequence[tuple[Command, int, Sequence[Entry]]]) -> None:
        """Remember which of ``commands`` were refused."""
        refused = [(command, date, entries) for command, date, entries in commands if command.reply is None]
        if refused:
            self._check()
        for command, date, entries in refused:
            counted = [entry for entry in entries if entry.amount]
            if counted:
                # Of a writer of its own, since what else is in its record is done.
                self._refused.append(pack(secrets.randbits(62), 1, date, counted))
            self._reasons[entries[0].counter] = str(command.failure)

    def _commands(self, record: Record, keep: int) -> Iterator[tuple[Command, int, Sequence[Entry]]]:
        """One command for each counter of ``record``, with the date of the record and the entries."""
        entries: dict[str, list[Entry]] = defaultdict(list)
        for entry in record.dated_until(record.date):
            entries[entry.counter].append(entry)
        lane = lane_of(record.writer, record.number)
        for counter, of_counter in entries.items():
            mails: dict[str, int] = {}
            of_values = is_distinct(counter)
            kind = "replay values" if of_values else "replay"
            arguments: list[Argument] = [kind, self._former.get((lane, counter), 0), record.date]
            for entry in _merged(of_counter):
                mail = entry.mail
                field = b""
                if of_values:
                    mail, field = "", encoded(entry.part)
                elif mail and entry.part and entry.amount > 0:
                    field = part_field(entry.part)
                elif mail:
                    field = settled_field(record.writer, record.number)
                arguments += (entry.amount, entry.date, mails.setdefault(mail, len(mails) + 2) if mail else 0, field)
            names = [self._keys.counter(counter), *(self._keys.mail(counter, mail) for mail in mails)]
            if of_values:
                names.append(self._keys.values(counter))
            command = script(names, (lane, record.number, keep, self._link.time, *arguments))
            yield refusable(command), record.date, of_counter
            self._former[lane, counter] = record.number


def _merged(entries: Sequence[Entry]) -> Iterator[Entry]:
    """``entries`` of one counter, those that have a field in common as one."""
    settled: dict[str, Entry] = {}
    for entry in entries:
        if entry.mail and not entry.part and entry.amount > 0:
            before = settled.get(entry.mail)
            settled[entry.mail] = replace(entry, amount=entry.amount + (before.amount if before else 0))
        else:
            yield entry
    yield from settled.values()
