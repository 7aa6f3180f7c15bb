"""What commands write: tables, with colours on a terminal, plain text into a pipe, and JSON for programs.

Names come from anywhere: what does not print is escaped here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.cli.layout import Cell, Line, Table, lines, words
from policyd_rate_limit.system.logs import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

REFRESH_SECONDS = 2.0
USUAL_WIDTH = 100  # of a line that is broken between words, into a pipe
IDLE_SHARE = 2.0  # a page that takes long to make is made so much less often

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object, for programs.")

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


Page = Sequence[Table | Cell]
"""Tables and lines of text, in this order."""


def write_json(value: object) -> None:
    """Write ``value`` as JSON, in ASCII."""
    click.echo(json.dumps(value, indent=2))


def write(page: Page) -> None:
    """Write ``page`` as whoever reads standard output likes it."""
    if is_terminal():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_renderable(page, console.width), crop=False)
        return
    for line in _lines(page):
        # As bytes, since a locale such as C cannot say all that a name can.
        click.echo(f"{line}\n".encode(getattr(sys.stdout, "encoding", "utf-8"), "backslashreplace"), nl=False)


def write_again_and_again(make: Callable[[int], Page]) -> None:
    """Have the terminal show what ``make`` returns for so many lines, until SIGINT or SIGTERM; then write it."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    page: Page = ()
    # Or the terminal would stay as it is meanwhile; and whoever starts us may have had SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                page = make(console.size.height)
                live.update(_renderable(page, console.size.width), refresh=True)
                time.sleep(max(REFRESH_SECONDS, IDLE_SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        write(page)


def is_terminal() -> bool:
    """Whether standard output is a terminal that can do more than write lines."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def width() -> int:
    """How many characters a line has: those of the terminal, and as many as usual where there is none."""
    return shutil.get_terminal_size().columns if is_terminal() else shutil.get_terminal_size((USUAL_WIDTH, 24)).columns


def duration(seconds: int) -> str:
    """``seconds`` as people say it, in its two largest units: ``3 min 20 s``."""
    parts: list[str] = []
    for unit, length in _UNITS:
        number, seconds = divmod(seconds, length)
        if number or parts:
            parts.append(f"{number} {unit}" if number else "")
    return " ".join(part for part in parts[:2] if part) or "0 s"


def moment(date: int) -> str:
    """``date`` (Unix second) on the clock of this machine; without the day when that is today."""
    return dated(date).removeprefix(f"{datetime.now():%Y-%m-%d} ")


def dated(date: int) -> str:
    """``date`` (Unix second) on the clock of this machine, with the day: for what is about days gone by."""
    try:
        return f"{datetime.fromtimestamp(date):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"second {date}"  # no year of a calendar


def _lines(page: Page) -> Iterator[str]:
    for part in page:
        if isinstance(part, Cell):
            yield one_line(part.text)
        else:
            yield from ("".join(cell.text for cell in line) for line in lines(_printable(part), None))


def _printable(table: Table) -> Table:
    rows = [[cell._replace(text=one_line(cell.text)) for cell in row] for row in table.rows]
    return table._replace(rows=rows)


def _renderable(page: Page, width: int) -> RenderableType:
    from rich.cells import cell_len
    from rich.console import Group

    parts: list[RenderableType] = []
    for part in page:
        if isinstance(part, Table):
            parts += map(_text, lines(_printable(part), width, cell_len))
        else:
            parts += (_text([part._replace(text=text)]) for text in words(one_line(part.text), width))
    return Group(*parts)


def _text(line: Line) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ignore")
    for cell in line:
        text.append(cell.text, cell.style)
    return text
