"""How what was decided from memory is brought into Redis."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.redis_keys import lane_of, part_field, settled_field
from policyd_rate_limit.storage.redis_node import script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyd_rate_limit.domain.charge import Entry
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.redis_keys import Keys
    from policyd_rate_limit.storage.redis_node import Argument, Command


class Replays:
    """Makes the commands that bring in records, in the order in which they were written.

    ``done``: (writer, number) of the records that are in.
    """

    def __init__(self) -> None:
        self.done: set[tuple[int, int]] = set()
        self._former: dict[tuple[bytes, str], int] = {}  # lane, counter -> number of the last record

    def commands(self, record: Record, keys: Keys, keep: int, time: str) -> Iterator[Command]:
        """One command for each counter of ``record``."""
        entries: dict[str, list[Entry]] = defaultdict(list)
        for entry in record.dated_until(record.date):
            entries[entry.counter].append(entry)
        lane = lane_of(record.writer, record.number)
        for counter, of_counter in entries.items():
            mails: dict[str, int] = {}
            arguments: list[Argument] = ["replay", self._former.get((lane, counter), 0), record.date]
            for entry in _merged(of_counter):
                mail = entry.mail
                field = b""
                if mail and entry.part and entry.amount > 0:
                    field = part_field(entry.part)
                elif mail:
                    field = settled_field(record.writer, record.number)
                arguments += (entry.amount, entry.date, mails.setdefault(mail, len(mails) + 2) if mail else 0, field)
            names = [keys.counter(counter), *(keys.mail(counter, mail) for mail in mails)]
            yield script(names, (lane, record.number, keep, time, *arguments))
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
