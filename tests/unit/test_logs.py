"""The log: one record is one line, and nobody waits for standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import string
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.system import logs
from policyd_rate_limit.system.destinations import Stderr
from policyd_rate_limit.system.logs import (
    FORMATS,
    LINE_CHARACTERS,
    NAME,
    QUEUED_BYTES,
    Handler,
    one_line,
    under_journal,
)
from support.wait import wait_until

# What a client may send, lone surrogates for bytes that are not UTF-8 among it.
TEXT = st.text(st.characters())


def text_of(record: logging.LogRecord, *, journal: bool, form: str = "text") -> str:
    """``record`` as standard error gets it, without the newline."""
    line = Stderr(FORMATS[form], NAME, journal=journal).encode(record).data.decode()
    assert line.endswith("\n")
    return line[:-1]


class Pipe:
    """Standard error as a pipe, with both ends in the test."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.handler = Handler(Stderr(FORMATS["text"], NAME, journal=True, descriptor=self.writer))

    def log(self, text: str, *values: object, level: int = logging.INFO) -> None:
        self.handler.handle(logging.LogRecord("name", level, "", 0, text, values, None))

    def fill(self) -> None:
        """Write until the pipe takes no more."""
        os.set_blocking(self.writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"x" * (select.PIPE_BUF - 1) + b"\n")
        os.set_blocking(self.writer, True)

    def lines(self) -> list[str]:
        """All that can be read now."""
        data = b""
        while select.select([self.reader], [], [], 0)[0] and (more := os.read(self.reader, 1 << 20)):
            data += more
        assert data.endswith(b"\n") or not data
        return data.decode().split("\n")[:-1]

    def read_in_background(self) -> tuple[threading.Thread, list[bytes]]:
        """Read until the other end is closed."""
        read: list[bytes] = []

        def loop() -> None:
            while data := os.read(self.reader, 1 << 20):
                read.append(data)

        thread = threading.Thread(target=loop)
        thread.start()
        return thread, read


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for end in (pipe.reader, pipe.writer):
        with contextlib.suppress(OSError):
            os.close(end)


@given(TEXT)
def test_any_text_is_one_line_that_prints(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert line.splitlines() == ([line] if line else [])
    assert len(line) <= LINE_CHARACTERS
    line.encode("utf-8")


@given(st.text(string.printable.translate({ord(space): None for space in "\t\n\r\x0b\x0c"})))
def test_what_prints_stays(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r\n", r"a\nb\r\n"),
        ("\x1b[2J\x00\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("é ☃ 漢字", "é ☃ 漢字"),
        ("\udcff", r"\udcff"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("admin\u202egpj.exe", r"admin\u202egpj.exe"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize("text", ["x" * 10_000, "\n" * 10_000, "a" + "\udcff" * LINE_CHARACTERS])
def test_a_long_line_loses_its_middle(text: str) -> None:
    line = one_line(text)
    assert LINE_CHARACTERS - 10 < len(line) <= LINE_CHARACTERS
    assert " ... " in line
    assert line.startswith(one_line(text[:10]))
    assert line.endswith(one_line(text[-10:]))


@given(TEXT, TEXT)
def test_no_value_forges_a_line(template: str, value: str) -> None:
    record = logging.LogRecord("name", logging.INFO, "", 0, "user %s said %s", (template, value), None)
    for journal in (True, False):
        line = text_of(record, journal=journal)
        assert len(line.splitlines()) == 1
        assert "INFO user " in line


def test_a_line_bears_time_name_and_level() -> None:
    record = logging.LogRecord("name", logging.WARNING, "", 0, "%s is away", ("db",), None)
    line = text_of(record, journal=False)
    match = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} policyd-rate-limit: WARNING db is away", line)
    assert match, line


def test_the_time_is_that_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(FORMATS["text"], NAME, journal=False)
    record = logging.LogRecord("name", logging.INFO, "", 0, "text", (), None)
    times = []
    for created in (0.0, 0.9, 1.0, 86400.0, 1.5):
        record.created = created
        times.append(stderr.encode(record).data.split()[0])
    assert times[0] == times[1]
    assert times[2] == times[4]
    assert len(set(times)) == 3


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.DEBUG, "<7>DEBUG "),
        (logging.INFO, "<6>INFO "),
        (logging.WARNING, "<4>WARNING "),
        (logging.ERROR, "<3>ERROR "),
        (logging.CRITICAL, "<2>CRITICAL "),
        (15, "<6>Level 15 "),
    ],
)
def test_the_journal_gets_the_priority(level: int, prefix: str) -> None:
    record = logging.LogRecord("name", level, "", 0, "text", (), None)
    assert text_of(record, journal=True) == f"{prefix}text"


def test_a_traceback_is_in_the_line() -> None:
    try:
        int("wrong\nvalue")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, "", 0, "text", (), sys.exc_info())
    line = text_of(record, journal=True)
    assert line.startswith(r"<3>ERROR text\nTraceback (most recent call last):\n")
    assert line.endswith(r"with base 10: 'wrong\nvalue'")


def test_the_journal_is_known_by_its_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as file, (tmp_path / "other").open("w") as other:
        facts = os.fstat(file.fileno())
        stream = f"{facts.st_dev}:{facts.st_ino}"
        assert under_journal(stream, file.fileno())
        assert not under_journal(stream, other.fileno())
        assert not under_journal(None, file.fileno())
        closed = os.dup(other.fileno())
    os.close(closed)
    assert not under_journal(stream, closed)


def test_lines_are_written_at_once_before_it_starts(pipe: Pipe) -> None:
    pipe.log("one %s", "1")
    pipe.log("two")
    assert pipe.lines() == ["<6>INFO one 1", "<6>INFO two"]


def test_lines_are_written_in_order_in_the_background(pipe: Pipe) -> None:
    pipe.handler.start()
    for number in range(1000):
        pipe.log("%d", number)
    pipe.handler.stop()
    assert pipe.lines() == [f"<6>INFO {number}" for number in range(1000)]
    pipe.log("at once again")
    assert pipe.lines() == ["<6>INFO at once again"]


def test_a_single_line_does_not_wait_for_another(pipe: Pipe) -> None:
    pipe.handler.start()
    pipe.log("alone")
    assert select.select([pipe.reader], [], [], 20)[0]
    pipe.handler.stop()


def test_can_start_again(pipe: Pipe) -> None:
    for text in ("one", "two"):
        pipe.handler.start()
        pipe.log("%s", text)
        pipe.handler.stop()
    pipe.handler.stop()
    assert pipe.lines() == ["<6>INFO one", "<6>INFO two"]


def test_many_threads_lose_nothing(pipe: Pipe) -> None:
    reading, read = pipe.read_in_background()
    pipe.handler.start()

    def log(who: int) -> None:
        for number in range(200):
            pipe.log("%d %d", who, number)

    threads = [threading.Thread(target=log, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.handler.stop()
    os.close(pipe.writer)
    reading.join()
    lines = b"".join(read).decode().split("\n")[:-1]
    assert sorted(lines) == sorted(f"<6>INFO {who} {number}" for who in range(8) for number in range(200))


def test_nobody_waits_while_nobody_reads(pipe: Pipe) -> None:
    """What does not fit is dropped, counted, and said once there is room."""
    pipe.fill()
    pipe.handler.start()
    pipe.log("first")
    wait_until(lambda: not pipe.handler._messages, "the writer took the first line")
    line = "x" * 1000
    for _ in range(2 * QUEUED_BYTES // len(line)):
        pipe.log("%s", line)
    queued = len(pipe.handler._messages)
    dropped = pipe.handler.dropped
    assert dropped > 0
    assert queued + dropped == 2 * QUEUED_BYTES // len(line)
    assert pipe.handler._bytes < QUEUED_BYTES + 2 * len(line)
    reading, read = pipe.read_in_background()
    pipe.handler.stop(20)
    os.close(pipe.writer)
    reading.join()
    lines = b"".join(read).decode().split("\n")[:-1]
    lines = lines[lines.index("<6>INFO first") + 1 :]
    assert lines == [f"<6>INFO {line}"] * queued + [
        f"<4>WARNING {dropped} log lines were dropped here: the log is too slow"
    ]


def test_the_end_waits_no_longer_than_its_deadline(pipe: Pipe) -> None:
    pipe.fill()
    pipe.handler.start()
    pipe.log("lost")
    pipe.handler.stop(0.01)
    pipe.log("nobody waits for this either")
    # Let the writer go, that the test ends without it.
    reading, _ = pipe.read_in_background()
    wait_until(lambda: not pipe.handler._queues, "the writer wrote all")
    os.close(pipe.writer)
    reading.join()


def test_a_process_ends_although_nobody_reads() -> None:
    script = """
import logging, os
from policyd_rate_limit.system import logs
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(2, True)
logs.configure(level="debug")
with logs.in_background():
    for _ in range(100_000):
        logging.getLogger("policyd_rate_limit").debug("x" * 100)
    logs._handler.stop(0.01)
print("done")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n"


def test_a_reader_that_is_gone_is_nobodys_problem(pipe: Pipe) -> None:
    os.close(pipe.reader)
    pipe.log("at once")
    pipe.handler.start()
    pipe.log("in the background")
    pipe.handler.stop()
    assert not pipe.handler._queues


def test_a_descriptor_that_somebody_made_non_blocking(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.writer, False)
    pipe.handler.start()
    pipe.log("%s", "y" * 100)
    reading, read = pipe.read_in_background()
    pipe.handler.stop(20)
    os.close(pipe.writer)
    reading.join()
    assert b"".join(read).endswith(b"<6>INFO " + b"y" * 100 + b"\n")


def test_a_wrong_format_string_loses_only_its_arguments(pipe: Pipe) -> None:
    pipe.log("a %s b %s\n", "one")
    (line,) = pipe.lines()
    assert line.startswith("<6>INFO a %s b %s")
    assert "arguments do not fit" in line


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["DEBUG ours", "INFO ours", "ERROR ours", "INFO theirs", "ERROR theirs"]),
        ("info", ["INFO ours", "ERROR ours", "INFO theirs", "ERROR theirs"]),
        ("warning", ["ERROR ours", "ERROR theirs"]),
        ("error", ["ERROR ours", "ERROR theirs"]),
    ],
)
def test_configure_sets_the_level(level: str, expected: list[str]) -> None:
    script = f"""
import logging
from policyd_rate_limit.system import logs
logs.configure(level="debug", to="syslog", form="json")
logs.configure(level={level!r})
with logs.in_background():
    for name, text in (("policyd_rate_limit.service", "ours"), ("asyncio", "theirs")):
        for how in ("debug", "info", "error"):
            getattr(logging.getLogger(name), how)(text)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [line.split("policyd-rate-limit: ")[1] for line in done.stderr.splitlines()] == expected


def test_in_background_ends_with_what_it_was_given(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    monkeypatch.setattr(logs, "_handler", pipe.handler)

    def go_wrong() -> None:
        with logs.in_background():
            pipe.log("before it went wrong")
            raise ValueError("text")

    with pytest.raises(ValueError, match="text"):
        go_wrong()
    assert pipe.lines() == ["<6>INFO before it went wrong"]
