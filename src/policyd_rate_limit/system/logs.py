"""The daemon log: standard error, syslog or systemd's journal; lines for people, ``key=value`` or JSON for programs.

One record is one message, whatever a client put into it. While the daemon serves, a thread of its own does the
writing (:func:`in_background`): a terminal that is stopped, a pipe that is full or a syslog that hangs never delays an
answer. What waits is bounded; what is more is dropped and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from policyd_rate_limit.system.destinations import JOURNAL_SOCKET, SYSLOG_SOCKET, Format, Journal, Stderr, Syslog
from policyd_rate_limit.system.fields import Line, Shown, unicode, written

if TYPE_CHECKING:
    from policyd_rate_limit.system.destinations import Destination, Message

NAME = "policyd-rate-limit"

QUEUED_BYTES = 4_000_000
"""What may wait to be written; beyond that, lines are dropped and counted."""

LINE_CHARACTERS = 4096
"""A longer line loses its middle."""

FOREGROUND_SECONDS = 1.0
"""How long a line may take where no thread writes yet, as while the daemon starts; then it waits for that thread."""

FLUSH_SECONDS = 2.0
"""How long the end of the daemon waits until what is left has been taken."""


def one_line(text: str) -> str:
    """``text`` cut to LINE_CHARACTERS, with all that does not print escaped as in a Python string.

    That is newlines and other control characters, lone surrogates, and what changes the direction of writing.
    """
    text = _cut(text)
    if text.isprintable():
        return text
    return _cut(
        "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
            for character in text
        )
    )


def _cut(text: str) -> str:
    half = LINE_CHARACTERS // 2 - 3
    return text if len(text) <= LINE_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def as_text(record: logging.LogRecord) -> str:
    """What ``record`` says, on one line; a traceback is part of it."""
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}\n{_formatter.formatException(record.exc_info)}"
    return one_line(text)


def as_json(record: logging.LogRecord) -> str:
    """``record`` as one JSON object on one line: ``time`` (RFC 3339), ``level``, and ``message`` or its fields."""
    milliseconds = int(record.created * 1000) % 1000
    stamp = time.strftime(f"%Y-%m-%dT%H:%M:%S.{milliseconds:03d}%z", time.localtime(record.created))
    content: dict[str, object] = {"time": f"{stamp[:-2]}:{stamp[-2:]}", "level": record.levelname.lower()}
    if isinstance(record.msg, Line):
        for key, value in record.msg.fields.items():
            content[key] = value.data if isinstance(value, Shown) else value
            if isinstance(value, str):
                content[key] = unicode(written(value))
            elif isinstance(value, float):
                content[key] = round(value, 3)
    else:
        content["message"] = unicode(_cut(record.getMessage()))
    if record.exc_info:
        content["traceback"] = unicode(_cut(_formatter.formatException(record.exc_info)))
    # In ASCII: nothing in it ends a line or turns the direction of writing.
    return json.dumps(content, separators=(",", ":"))


_formatter = logging.Formatter()
FORMATS = {"text": Format(as_text, is_whole=False), "json": Format(as_json, is_whole=True)}


class Handler(logging.Handler):
    """Hands records to a destination: at once, if it takes them, or from :meth:`start` to :meth:`stop` in a thread.

    ``dropped``: how many lines it has dropped since it was made.
    """

    def __init__(self, destination: Destination) -> None:
        super().__init__()
        self.dropped = 0
        self._destination = destination
        self._former: list[Destination] = []  # to be closed once they have what is theirs
        self._changed = threading.Condition()
        self._messages: list[tuple[Destination, Message]] = []
        self._bytes = 0
        self._untold = 0  # of the dropped ones
        self._queues = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def use(self, destination: Destination) -> None:
        """From now on records go to ``destination``; what was logged before goes where it was to go."""
        with self._changed:
            former, self._destination = self._destination, destination
            if self._queues:
                self._former.append(former)
                self._changed.notify()
            else:
                former.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write or queue one record."""
        if self._queues and self._bytes >= QUEUED_BYTES:
            self.dropped += 1  # before it is formatted: that is what a flood costs
            self._untold += 1
            return
        destination = self._destination
        try:
            message = destination.encode(record)
        except Exception as error:  # noqa: BLE001 - a wrong format string must not end what logs it
            message = destination.encode(_record(record.levelno, "%s (arguments do not fit: %s)", record.msg, error))
        with self._changed:
            # What has been queued already, for want of room in a pipe, comes before.
            if not self._queues and not self._messages and destination.write([message], FOREGROUND_SECONDS):
                return
            if not self._queues and self._bytes >= QUEUED_BYTES:
                self.dropped += 1
                self._untold += 1
                return
            self._messages.append((destination, message))
            self._bytes += len(message.data) + len(message.line)
            if len(self._messages) == 1:
                self._changed.notify()

    def start(self) -> None:
        """From now on lines are queued, and a thread writes them."""
        self._queues, self._stopping = True, False
        # A daemon thread: one that hangs in write(2) must not keep the process alive.
        self._thread = threading.Thread(target=self._write_queue, name="log", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until what is queued is written, for at most ``timeout`` seconds; then write at once again.

        When nothing is taken for so long, lines go on to be queued, and nobody waits for them.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify()
        thread.join(timeout)

    def _write_queue(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._messages or self._former or self._stopping)
                if not self._messages and not self._former:
                    self._queues = False
                    return
                messages, self._messages, self._bytes = self._messages, [], 0
                former, self._former = self._former, []
                untold, self._untold = self._untold, 0
            if untold:
                lines = "1 log line was" if untold == 1 else f"{untold} log lines were"
                said = _record(logging.WARNING, "%s dropped here: the log is too slow", lines)
                messages.append((self._destination, self._destination.encode(said)))
            for destination, of_one in groupby(messages, key=lambda one: one[0]):
                destination.write([message for _, message in of_one])
            for destination in former:
                destination.close()


def _record(level: int, text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, "", 0, text, arguments, None)


def under_journal(stream: str | None, descriptor: int) -> bool:
    """Whether ``descriptor`` leads to the journal: ``stream`` is JOURNAL_STREAM of systemd.exec(5)."""
    try:
        file = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{file.st_dev}:{file.st_ino}"


_handler = Handler(Stderr(FORMATS["text"], NAME, journal=False))


def configure(*, level: str = "info", to: str = "stderr", form: str = "text") -> None:
    """Send what is logged to standard error, ``syslog`` or ``journald``, in the ``form`` of FORMATS.

    What is less severe than ``level`` (debug, info, warning, error) is not logged, and no DEBUG of other packages. May
    be called again: what has been logged before goes where it was to go.
    """
    # What no line shows need not be found out for each, which halves the cost. So logging's HOWTO has it under
    # "Optimization", and by that name: there is no public one.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    stderr = Stderr(FORMATS[form], NAME, journal=under_journal(os.environ.get("JOURNAL_STREAM"), 2))
    if to == "syslog":
        _handler.use(Syslog(SYSLOG_SOCKET, FORMATS[form], NAME, stderr))
    elif to == "journald":
        _handler.use(Journal(JOURNAL_SOCKET, FORMATS[form], NAME, stderr))
    else:
        _handler.use(stderr)
    root = logging.getLogger()
    root.addHandler(_handler)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(least, logging.INFO))
    logging.getLogger("policyd_rate_limit").setLevel(least)


def dropped() -> int:
    """How many lines have been dropped so far."""
    return _handler.dropped


@contextlib.contextmanager
def in_background() -> Iterator[None]:
    """While this lasts, whoever logs never waits until that is written.

    Enter it after privileges are dropped (it starts a thread) and before the event loop serves.
    """
    _handler.start()
    try:
        yield
    finally:
        _handler.stop()
