"""Reads a configuration in a process of its own, so that whoever reads it while serving holds nobody up.

Python's parsers and PyYAML's keep the interpreter to themselves until they are done, which takes seconds for 100,000
ids. What comes back comes in slices, between which others run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from policyd_rate_limit.config.checking import Configuration
from policyd_rate_limit.config.loading import load
from policyd_rate_limit.config.schema import SETTINGS, Settings
from policyd_rate_limit.config.wire import from_text, to_text
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator


READ_SECONDS = 120.0
"""How long the process may take."""

MOST_MEMORY = 3 << 30
"""Bytes: the most address space of the process."""

IDS_AT_ONCE = 500
"""How many ids with limits of their own come in one slice."""

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from policyd_rate_limit.config.apart import answer; answer(sys.argv[2])"
)

_logger = logging.getLogger(__name__)


def load_apart(path: Path | None) -> Configuration:
    """As :func:`policyd_rate_limit.config.loading.load`. It blocks, and lets other threads run meanwhile.

    Where no process can be started, it is read in this one.
    """
    if not sys.executable:
        return load(path)
    # Isolated: what the environment tells Python is for another one; sys.path is this one's, whatever made it.
    command = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path), "" if path is None else os.fspath(path)]
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    try:
        process = subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError as error:
        _logger.debug("cannot start a process to read the configuration: %s", error)
        return load(path)
    timer = threading.Timer(READ_SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        with process.stdout as answers:
            return _received(answers)
    except (EOFError, TypeError, ValueError):
        status = process.wait()
        file = "configuration" if path is None else str(path)
        found = f"a process that ended with status {status}"
        raise ConfigError([Problem(file, 0, "", "a file that can be read with the memory there is", found)]) from None
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def answer(path: str) -> None:
    """What the process does: write the configuration at ``path``, if not empty, to standard output."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    gc.disable()  # all that is read stays to the end: to look for garbage in it would take half of the time
    out = sys.stdout.buffer
    try:
        settings, warnings = load(Path(path) if path else None)
    except ConfigError as error:
        problems = [(one.file, one.line, one.setting, one.expected, one.found) for one in error.problems]
        _write(out, (problems, error.warnings))
    else:
        values = {name: getattr(settings, name) for name in SETTINGS}
        ids = list(values.pop("limits_by_id").items())
        # Of each rule the overrides, and of each table the entries, which may be as many.
        overrides = [rule.overrides for rule in settings.rules]
        entries = [table.entries for table in settings.tables]
        values["rules"] = tuple(rule._replace(overrides=()) for rule in settings.rules)
        values["tables"] = tuple(table._replace(entries=()) for table in settings.tables)
        counts = [len(ids), [len(one) for one in overrides], [len(one) for one in entries]]
        _write(out, (None, warnings, values, dict(settings.broken), *counts))
        for named in (ids, *overrides, *entries):
            for start in range(0, len(named), IDS_AT_ONCE):
                _write(out, list(named[start : start + IDS_AT_ONCE]))
    out.flush()
    os._exit(0)  # with nothing put away: the memory goes all at once


def _received(answers: IO[bytes]) -> Configuration:
    """What :func:`answer` has written. Raises ConfigError, and EOFError when it did not get to the end."""
    problems, warnings, *rest = _read(answers)
    if problems is not None:
        raise ConfigError([Problem(*one) for one in problems], warnings)
    values, broken, count, counts_of_rules, counts_of_tables = rest
    same: dict[object, Any] = {}
    by_id = dict(_read_named(answers, count, same))
    values["rules"] = tuple(
        rule._replace(overrides=tuple(_read_named(answers, its_count, same)))
        for rule, its_count in zip(values["rules"], counts_of_rules, strict=True)
    )
    values["tables"] = tuple(
        table._replace(entries=tuple(_read_named(answers, its_count, same)))
        for table, its_count in zip(values["tables"], counts_of_tables, strict=True)
    )
    settings = Settings().with_values(**values, limits_by_id=by_id).with_broken(broken)
    return Configuration(settings, tuple(warnings))


def _read_named(answers: IO[bytes], count: int, same: dict[object, Any]) -> Iterator[tuple[str, Any]]:
    """So many names with what is said of them; what is equal is the ``same``. Raises as :func:`_read`."""
    while count > 0:
        named = _read(answers)
        for name, said in named:
            yield name, same.setdefault(said, said)
        count -= len(named)
        time.sleep(0)  # lets go of the interpreter


def _write(out: IO[bytes], value: object) -> None:
    out.write(to_text(value).encode() + b"\n")


def _read(answers: IO[bytes]) -> Any:
    """The next value that was written. Raises EOFError when there is none, ValueError when it is no value."""
    line = answers.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return from_text(line)
