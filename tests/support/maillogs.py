"""Reads mail logs that tests write down."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from policyd_rate_limit.maillog.mail import Decided, Mail
from policyd_rate_limit.maillog.reading import read
from policyd_rate_limit.maillog.tally import Tally

if TYPE_CHECKING:
    from datetime import tzinfo
    from pathlib import Path

NOW = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


def moment(text: str) -> float:
    """Unix seconds of an RFC 3339 date; without a zone it is in UTC."""
    date = datetime.fromisoformat(text)
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()


class Log:
    """A log of ``data`` in ``directory``: what was read of it, and what was counted."""

    def __init__(
        self,
        directory: Path,
        *data: bytes | str,
        wants_recipients: bool = False,
        now: float = NOW,
        zone: tzinfo = UTC,
    ) -> None:
        paths = []
        for number, one in enumerate(data):
            path = directory / f"log-{number}"
            path.write_bytes(one if isinstance(one, bytes) else one.encode("utf-8", "surrogateescape"))
            paths.append(path)
        self.tally = Tally()
        self.read = list(read(paths, wants_recipients=wants_recipients, now=now, zone=zone, tally=self.tally))

    @property
    def mails(self) -> list[Mail]:
        return [item for item in self.read if isinstance(item, Mail)]

    @property
    def decisions(self) -> list[Decided]:
        return [item for item in self.read if isinstance(item, Decided)]

    @property
    def mail(self) -> Mail:
        """The only one."""
        [mail] = self.mails
        return mail


def syslog(text: str) -> str:
    """The lines of ``text``, each with date and host: ``smtpd[1]: connect`` is one of postfix/smtpd."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "".join(f"Nov 28 12:00:{number % 60:02d} mx {_tagged(line)}\n" for number, line in enumerate(lines, 1))


def _tagged(line: str) -> str:
    return line if "/" in line.partition(": ")[0] or line.startswith("other ") else f"postfix/{line}"
