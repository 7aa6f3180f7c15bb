"""What holds of every configuration file, whatever is in it."""

from __future__ import annotations

from collections.abc import Callable

from policyd_rate_limit.config import checking
from policyd_rate_limit.config.source import Source, decode
from policyd_rate_limit.errors import ConfigError, Problem

FILE = "/etc/x"


def read(data: bytes, reader: Callable[[str, str], Source]) -> None:
    """Read and check ``data`` as the daemon does; whatever is wrong must be a problem at a line of the file."""
    # As Python and YAML have it between them, every one of these ends a line.
    lines = 1 + len(data.decode("latin-1").splitlines()) + data.count(b"\xe2\x80")
    for problem in _problems(data, reader):
        assert problem.file == FILE
        assert 0 <= problem.line <= lines
        assert problem.expected
        assert problem.found


def _problems(data: bytes, reader: Callable[[str, str], Source]) -> tuple[Problem, ...]:
    try:
        checking.check(reader(decode(data, FILE), FILE))
    except ConfigError as error:
        return error.problems or (Problem("", 0, "", "", ""),)
    return ()
