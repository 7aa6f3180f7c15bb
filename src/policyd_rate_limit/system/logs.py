"""The log: lines on standard error, which systemd, a container or a terminal takes from there.

One record is one line, whatever a client put into it. While the daemon serves, a thread of its own does the
writing (:func:`in_background`): a terminal that is stopped or a pipe that is full never delays an answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Hashable, Iterator

NAME = "policyd-rate-limit"

QUEUED_CHARACTERS = 4_000_000
"""What may wait for standard error; beyond that, lines are dropped and counted."""

LINE_CHARACTERS = 4096
"""A longer line loses its middle."""

FLUSH_SECONDS = 2.0
"""How long the end of the daemon waits for standard error to take what is left."""

THROTTLE_KEYS = 1024

# sd-daemon(3): the journal takes the priority of syslog(3) from the beginning of a line.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


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


def under_journal(stream: str | None, descriptor: int) -> bool:
    """Whether ``descriptor`` leads to the journal: ``stream`` is JOURNAL_STREAM of systemd.exec(5)."""
    try:
        file = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{file.st_dev}:{file.st_ino}"


class LineFormatter(logging.Formatter):
    """One record as one line: for the journal with its priority, else with time and name of the program."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal
        self._second = -1
        self._time = ""

    def format(self, record: logging.LogRecord) -> str:
        """The line without its newline. A traceback is part of it."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        line = f"{record.levelname} {one_line(text)}"
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}"
        second = int(record.created)
        if second != self._second:  # strftime is the dearest part of a line
            self._second, self._time = second, time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
        return f"{self._time} {NAME}: {line}"


class StderrHandler(logging.Handler):
    """Writes lines to a file descriptor: at once, or from :meth:`start` to :meth:`stop` in a thread."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._characters = 0
        self._dropped = 0
        self._queues = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write or queue one record."""
        if self._queues and self._characters >= QUEUED_CHARACTERS:
            self._dropped += 1  # before it is formatted: that is what a flood costs
            return
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a wrong format string must not end what logs it
            line = one_line(f"{record.levelname} {record.msg} (arguments do not fit: {error})")
        with self._changed:
            if not self._queues:
                self._write([line])
                return
            self._lines.append(line)
            self._characters += len(line)
            if len(self._lines) == 1:
                self._changed.notify()

    def start(self) -> None:
        """From now on lines are queued, and a thread writes them."""
        self._queues, self._stopping = True, False
        # A daemon thread: one that hangs in write(2) must not keep the process alive.
        self._thread = threading.Thread(target=self._write_queue, name="log", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until what is queued is written, for at most ``timeout`` seconds; then write at once again.

        When standard error takes nothing for so long, lines go on to be queued, and nobody waits for them.
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
                self._changed.wait_for(lambda: self._lines or self._stopping)
                if not self._lines:
                    self._queues = False
                    return
                lines, self._lines, self._characters = self._lines, [], 0
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(self._format_dropped(dropped))
            self._write(lines)

    def _format_dropped(self, dropped: int) -> str:
        return self.format(
            logging.makeLogRecord(
                {
                    "levelno": logging.WARNING,
                    "levelname": "WARNING",
                    "msg": "%d log lines were dropped here: standard error is too slow",
                    "args": (dropped,),
                }
            )
        )

    def _write(self, lines: list[str]) -> None:
        data = memoryview(("\n".join(lines) + "\n").encode())
        # Nobody is left to be told that standard error is gone.
        with contextlib.suppress(OSError):
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # whoever shares the descriptor made it non-blocking
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()


_stderr = StderrHandler()


def configure(*, debug: bool) -> None:
    """Send what is logged to standard error; with ``debug``, also what this package logs at DEBUG."""
    # What no line shows need not be found out for each: logging's HOWTO, "Optimization". It halves the cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    _stderr.setFormatter(LineFormatter(journal=under_journal(os.environ.get("JOURNAL_STREAM"), 2)))
    root = logging.getLogger()
    root.addHandler(_stderr)
    root.setLevel(logging.INFO)
    logging.getLogger("policyd_rate_limit").setLevel(logging.DEBUG if debug else logging.INFO)


@contextlib.contextmanager
def in_background() -> Iterator[None]:
    """While this lasts, whoever logs never waits for standard error.

    Enter it after privileges are dropped (it starts a thread) and before the event loop serves.
    """
    _stderr.start()
    try:
        yield
    finally:
        _stderr.stop()


class Throttle:
    """Lets something be said once per ``interval`` seconds and key.

    For warnings that a client can cause at will. ``clock`` is a monotonic clock in seconds. At most ``keys``
    keys are known at a time; those beyond share one turn, so that many keys do not make many lines.
    """

    _OTHERS = object()

    def __init__(self, interval: float, clock: Callable[[], float], keys: int = THROTTLE_KEYS) -> None:
        self._interval = interval
        self._clock = clock
        self._keys = keys
        # key -> when it was said last, how often it was not said since; in the order of the former
        self._said: dict[Hashable, tuple[float, int]] = {}
        self._forgotten = 0  # of what was not said, about keys that are no longer known

    def hit(self, key: Hashable = None) -> tuple[bool, int]:
        """Whether to say it now, and how often it was not said since the last time.

        That is about ``key``, and about keys that have been forgotten since without being told of.
        """
        now = self._clock()
        said = self._said
        if key not in said:
            while len(said) >= self._keys:
                oldest = next(iter(said))
                if now - said[oldest][0] < self._interval:
                    key = self._OTHERS
                    break
                self._forgotten += said.pop(oldest)[1]
        last, suppressed = said.get(key, (float("-inf"), 0))
        if now - last < self._interval:
            said[key] = last, suppressed + 1
            return False, suppressed + 1
        said.pop(key, None)
        said[key] = now, 0
        suppressed, self._forgotten = suppressed + self._forgotten, 0
        return True, suppressed
