"""Pages as one file each: no script, nothing from elsewhere, all text escaped, to be opened, mailed or printed."""

from __future__ import annotations

from datetime import datetime, tzinfo
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from policyd_rate_limit import __version__
from policyd_rate_limit.plots import numbers
from policyd_rate_limit.plots.plot import Plot, style
from policyd_rate_limit.system.logs import one_line
from policyd_rate_limit.system.whole_file import write_whole

WIDE: Final = 900
"""The width of plots on a screen of a desk, in CSS pixels."""

NARROW: Final = 340
"""The width of plots on a telephone: drawn anew, since a drawing that is made smaller cannot be read."""

_ROOM: Final = "policyd_rate_limit.rehearsal"


def write(path: Path, template: str, zone: tzinfo, now: float, **values: object) -> None:
    """Write the page that ``template`` makes of ``values`` to ``path``, in place of a file that is there.

    ``zone`` is that of its dates, ``now`` (Unix seconds) when it is made. Raises SystemRefusal.
    """
    write_whole(path, render(template, zone, now, **values).encode(), replace=True)


def render(template: str, zone: tzinfo, now: float, **values: object) -> str:
    """The page that ``template`` makes of ``values``."""

    def moment(time: float) -> str:
        return numbers.moment(time, zone)

    return (
        _environment()
        .get_template(template)
        .render(
            values,
            style=Markup(style() + _style()),  # noqa: S704 - of our own files
            made=moment(now),
            zone=getattr(zone, "key", None) or datetime.fromtimestamp(now, zone).tzname(),
            version=__version__,
            moment=moment,
        )
    )


def verbatim(text: str) -> Markup:
    """``text`` of several lines as it is, for a ``pre``: elsewhere what does not print is shown as an escape."""
    return Markup("\n").join(one_line(line) for line in text.split("\n"))


@lru_cache(1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_ROOM),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.globals["drawn"] = _drawn
    environment.globals["wide"] = WIDE
    environment.globals["narrow"] = NARROW
    environment.filters["grouped"] = numbers.grouped
    environment.globals["counted"] = numbers.counted
    environment.filters["name"] = one_line  # comes from anywhere, and no name is to look like another
    environment.globals["share"] = numbers.share
    return environment


def _printable(value: object) -> object:
    """What does not print is escaped, but for the space between thousands."""
    if type(value) is not str or value.isprintable():
        return value
    return numbers.NARROW_SPACE.join(map(one_line, value.split(numbers.NARROW_SPACE)))


def _drawn(plot: Plot, width: int) -> Markup:
    return Markup(plot.svg(width))  # noqa: S704 - its room escapes all text


def _style() -> str:
    return resources.files(_ROOM).joinpath("templates/page.css").read_text(encoding="utf-8")
