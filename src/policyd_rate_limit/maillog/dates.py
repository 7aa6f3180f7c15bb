"""The dates at the beginning of log lines, in every form in which syslog daemons, Postfix and journalctl(1) write them.

=========================================  =====================================================================
``Nov 28 12:00:01``                        RFC 3164 section 4.1.2: syslog, ``maillog_file``, journalctl short
``Nov 28 12:00:01.123456``                 journalctl short-precise
``2026 Nov 28 12:00:01``                   with a year in front of or behind the day
``2026-11-28T12:00:01.123456+01:00``       RFC 3339: rsyslog, syslog-ng, journalctl short-iso(-precise)
``<22>1 2026-11-28T12:00:01.123456Z``      RFC 5424; a priority may stand in front of each form
``Sat 2026-11-28 12:00:01 CET``            journalctl short-full
``1764327601.123456``                      journalctl short-unix
=========================================  =====================================================================

Names of months and days are English, as in the C locale.

What a date leaves out comes of the order of the log. The **year** is that of the latest such day that is not after the
log was written last (its mtime, or now); it changes where the year turns inside of the log. So a log of more than a
year is dated too late where its dates have no year: nobody can know. Of an **hour that comes twice**, at the end of
daylight saving time, the first is meant until the clock steps back. A log that begins in such an hour is taken to
begin in the first of both.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from datetime import tzinfo

DAY: Final = 86400.0

LATEST: Final = 32_503_680_000.0
"""Unix seconds of the year 3000: nothing that claims to be later, or from before 1970, is a line of a log."""

JITTER_SECONDS: Final = 2.0
"""By so much a line may be older than the one before without a step of the clock: processes log side by side."""

FOLD_SECONDS: Final = 60.0
"""A line that is older by more than this, in an hour that comes twice, is of the second of both."""

_DATE: Final = re.compile(
    rb"(?:<\d{1,3}>)?(1 )?"
    rb"(?:"
    rb"(?:(?P<year>\d{4}) )?(?P<month>[A-Z][a-z]{2})  ?(?P<day>\d{1,2}) (?:(?P<late_year>\d{4}) )?"
    rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
    rb"|"
    rb"(?P<weekday>[A-Z][a-z]{2} )?(?P<iso_year>\d{4})-(?P<iso_month>\d\d)-(?P<iso_day>\d\d)[T ]"
    rb"(?P<iso_hour>\d\d):(?P<iso_minute>\d\d):(?P<iso_second>\d\d)(?:[.,](?P<iso_fraction>\d{1,9}))?"
    rb"(?P<zone>Z|[+-]\d\d:?\d\d|[+-]\d\d|(?(weekday) (?:[A-Z]{2,5}|[+-]\d\d(?:\d\d)?)))?"
    rb"|"
    rb"(?P<unix>\d{9,10})\.(?P<unix_fraction>\d{6})"
    rb") "
)
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}
_UTC_NAMES: Final = frozenset((b"Z", b"UTC", b"GMT"))


@final
class Dates:
    """Reads the dates of one log, from its first line to its last.

    ``zone``: of dates without one. ``written``: Unix seconds before which the log was written.

    After :meth:`read` has found a date, a line that begins with ``prefix`` is of the same second: its date is then
    ``length`` bytes long where ``is_whole``, else it ends with the first space from there on, and :meth:`exact` reads
    the rest. ``time``: Unix seconds of the date, or of its second where the date is more exact. ``is_protocol``: the
    line goes on as RFC 5424 has it. ``backwards``: how often the clock stepped back.
    """

    def __init__(self, zone: tzinfo, written: float) -> None:
        self.prefix = b""
        self.length = 0
        self.is_whole = False
        self.is_protocol = False
        self.time = 0.0
        self.backwards = 0
        self._zone = zone
        self._written = written
        self._horizon = 0.0
        self._last = 0.0
        self._year = 0
        self._month = 0
        self._day = 0
        self._suffix = b" "
        self._hour = (0, 0, 0, 0)
        self._hour_began = 0.0
        self._known_hour = b""
        self._known_hour_began = 0.0
        self._is_one_hour = False
        self._is_second = False
        self._is_begun = False

    def read(self, line: bytes) -> int:
        """The length of the date at the beginning of ``line``, with the space behind it; 0: there is none."""
        return self._in_known_hour(line) or self._anew(line)

    def _in_known_hour(self, line: bytes) -> int:
        """Like :meth:`read`, where all but minute and second is as before; 0: it is not, or there is no date."""
        hour = self._known_hour
        if not hour or not line.startswith(hour):
            return 0
        at = len(hour)
        if len(line) < at + 6:
            return 0
        digits = line[at : at + 2] + line[at + 3 : at + 5]
        if line[at + 2 : at + 3] != b":" or len(digits) != 4 or not digits.isdigit():
            return 0
        figure = int(digits)
        minute, second = figure // 100, figure % 100
        if minute > 59 or second > 59:
            return 0
        suffix = self._suffix
        if self.is_whole:
            if not line.startswith(suffix, at + 5):
                return 0
            self.length = end = at + 5 + len(suffix)
        else:
            end = line.find(b" ", at + 6) + 1
            if end <= 0 or not line.startswith(suffix, end - len(suffix)):
                return 0
            self.length = at + 6
        self.prefix = line[: self.length]
        self._note(self._known_hour_began + (60 * minute + second))
        return end

    def _anew(self, line: bytes) -> int:
        """Like :meth:`read`, whatever was before."""
        found = _DATE.match(line)
        if found is None:
            return 0
        self._is_one_hour = False
        try:
            seconds, fraction = self._seconds(found)
        except (ValueError, OverflowError, OSError):  # the 31st of November, or what the system has no zone for
            return 0
        if not 0.0 <= seconds < LATEST:
            return 0
        self.is_protocol = found.group(1) is not None
        self.is_whole = not fraction
        self.length = found.start(fraction) if fraction else found.end()
        self.prefix = line[: self.length]
        self._known_hour = b""
        if self._is_one_hour:
            is_iso = found.group("iso_year") is not None
            minute, second = found.span("iso_minute" if is_iso else "minute"), "iso_second" if is_iso else "second"
            self._known_hour = line[: minute[0]]
            self._known_hour_began = seconds - 60 * int(line[minute[0] : minute[1]]) - int(found.group(second))
            self._suffix = line[found.end(fraction or second) : found.end()]
        elif fraction:
            self._suffix = line[found.end(fraction) : found.end()]
        self._note(seconds)
        return found.end()

    def exact(self, line: bytes, end: int) -> float:
        """Unix seconds of the date of ``line``, which begins with ``prefix`` and is ``end`` bytes long."""
        if self.is_whole:
            return self.time
        rest = line[self.length : end]
        if not rest.endswith(self._suffix):  # another zone: the clock was changed
            if self._anew(line) != end or self.is_whole:
                return self.time
            rest = line[self.length : end]
        digits = rest[: -len(self._suffix)]
        if not digits.isdigit() or len(digits) > 9:
            return self.time
        return self.time + int(digits) / (1e6 if len(digits) == 6 else 10.0 ** len(digits))

    def _note(self, seconds: float) -> None:
        """Have ``seconds`` be the time of the line: what lies far beyond the present is no time to be trusted."""
        if not self._is_begun:
            self._is_begun = True
            # A log that begins in the future is of a clock of its own.
            self._horizon = self._written + DAY if seconds <= self._written + DAY else float("inf")
        elif seconds > self._horizon:
            self.backwards += 1
            seconds = self._last
        elif seconds < self._last - JITTER_SECONDS:
            self.backwards += 1
        self.time = self._last = seconds

    def _seconds(self, found: re.Match[bytes]) -> tuple[float, str]:
        """The Unix seconds of a date, and the group of its fraction, where it has one."""
        if found.group("unix") is not None:
            return float(found.group("unix")), "unix_fraction"
        if found.group("iso_year") is None:
            fraction = "fraction"
            month = _MONTHS.get(found.group("month"), 0)
            day = int(found.group("day"))
            hour, minute, second = int(found.group("hour")), int(found.group("minute")), int(found.group("second"))
            year = found.group("year") or found.group("late_year")
            if year is not None:
                seconds = self._local(int(year), month, day, hour, minute, second)
            else:
                seconds = self._without_year(month, day, hour, minute, second)
        else:
            fraction = "iso_fraction"
            year, month, day = found.group("iso_year"), int(found.group("iso_month")), int(found.group("iso_day"))
            hour, minute = int(found.group("iso_hour")), int(found.group("iso_minute"))
            second = int(found.group("iso_second"))
            zone = found.group("zone")
            if not zone:
                seconds = self._local(int(year), month, day, hour, minute, second)
            else:
                seconds = self._in_zone(zone.strip(), int(year), month, day, hour, minute, second)
        return seconds, fraction if found.group(fraction) is not None else ""

    def _without_year(self, month: int, day: int, hour: int, minute: int, second: int) -> float:
        if not self._year:
            return self._in_latest_year(month, day, hour, minute, second)
        year = self._year
        days = 31 * (month - self._month) + day - self._day
        if days < -186:  # half a year back: a year has begun
            year += 1
        elif days > 360:  # a line of the year before, written late
            year -= 1
        if month == 2 and day == 29 and not _is_leap(year):
            month, day = 3, 1
        seconds = self._local(year, month, day, hour, minute, second)
        self._year, self._month, self._day = year, month, day
        return seconds

    def _in_latest_year(self, month: int, day: int, hour: int, minute: int, second: int) -> float:
        latest = datetime.fromtimestamp(self._written + DAY, self._zone).year
        for year in range(latest, latest - 9, -1):  # between two leap years there may be eight
            if month == 2 and day == 29 and not _is_leap(year):
                continue
            seconds = self._local(year, month, day, hour, minute, second)
            if seconds <= self._written + DAY:
                self._year, self._month, self._day = year, month, day
                return seconds
        raise ValueError(month)

    def _local(self, year: int, month: int, day: int, hour: int, minute: int, second: int) -> float:
        """Unix seconds of a date in the zone of the log."""
        if minute > 59 or second > 60:
            raise ValueError(minute)
        key = (year, month, day, hour)
        if key == self._hour and second < 60:
            self._is_one_hour = True
            self._is_second = False
            return self._hour_began + (60 * minute + second)
        begins = datetime(year, month, day, hour, tzinfo=self._zone)
        ends = begins.replace(minute=59, second=59)
        began = begins.timestamp()
        if (
            began == begins.replace(fold=1).timestamp()
            and ends.timestamp() == began + 3599
            and ends.replace(fold=1).timestamp() == began + 3599
        ):
            self._hour, self._hour_began, self._is_second = key, began, False
            self._is_one_hour = second < 60
            return began + (60 * minute + second)
        date = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=self._zone)
        first, other = date.timestamp(), date.replace(fold=1).timestamp()
        self._is_second = other > first and (self._is_second or first < self._last - FOLD_SECONDS)
        return other if self._is_second else first

    def _in_zone(self, zone: bytes, year: int, month: int, day: int, hour: int, minute: int, second: int) -> float:
        """Unix seconds of a date in ``zone``: an offset from UTC, or a name, as journalctl(1) writes it."""
        if zone in _UTC_NAMES:
            offset: tzinfo = UTC
        elif zone[:1] in b"+-":
            digits = zone[1:].replace(b":", b"").ljust(4, b"0")
            distance = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
            offset = timezone(-distance if zone[:1] == b"-" else distance)
        else:
            date = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=self._zone)
            for fold in (0, 1):
                if date.replace(fold=fold).tzname() == zone.decode():
                    return date.replace(fold=fold).timestamp()
            return self._local(year, month, day, hour, minute, second)
        self._is_one_hour = second < 60
        return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=offset).timestamp()


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
