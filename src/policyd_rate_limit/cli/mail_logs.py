"""What commands that read mail logs have in common: which files, in which time zone, and how far they are."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.maillog.reading import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.maillog.mail import Decided, Mail
    from policyd_rate_limit.maillog.tally import Tally


STANDARD_INPUT = "-"

logs_argument = click.argument(
    "logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(readable=False, allow_dash=True)
)


def _in_zone(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """Have ``name`` be the time zone of this process."""
    if name is not None:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise click.BadParameter(
                f"expected a time zone that this host knows, such as Europe/Berlin: {error}"
            ) from error
        os.environ["TZ"] = name
        time.tzset()
    return name


zone_option = click.option(
    "--zone",
    metavar="ZONE",
    callback=_in_zone,
    is_eager=True,
    expose_value=False,
    help="The time zone of the log, such as Europe/Berlin; that of this host unless given.",
)


class HostZone(tzinfo):
    """The time zone of this process, whichever it is, with its summer times (PEP 495 for hours that come twice)."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        naive = moment.replace(tzinfo=None)
        return naive.replace(fold=0) - datetime.fromtimestamp(naive.timestamp(), UTC).replace(tzinfo=None)

    def dst(self, moment: datetime | None) -> timedelta | None:
        if moment is None:
            return None
        is_summer = time.localtime(moment.replace(tzinfo=None).timestamp()).tm_isdst > 0
        return timedelta(hours=1) if is_summer else timedelta(0)

    def tzname(self, moment: datetime | None) -> str | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """See :meth:`datetime.tzinfo.fromutc`."""
        return moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=self)


def mails_in(logs: Sequence[str], tally: Tally, *, wants_recipients: bool) -> Iterator[Mail | Decided]:
    """What ``logs`` tell, in the order of time, while a terminal at standard error shows how far that is.

    :raises PolicydError: one cannot be opened.
    """
    paths = ["-" if name == STANDARD_INPUT else Path(name) for name in logs]
    with _progress() as progress:
        yield from read(
            paths,
            wants_recipients=wants_recipients,
            now=time.time(),
            zone=HostZone(),
            tally=tally,
            progress=progress,
        )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """What shows, on a terminal, how many bytes of how many are read, and when all will be; of 0 it is not known."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield show
