"""Whole logs: in every form, compressed, damaged, in pieces, several at a time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.errors import MailLogError
from policyd_rate_limit.maillog import reading
from policyd_rate_limit.maillog.mail import Origin
from policyd_rate_limit.maillog.reading import read
from policyd_rate_limit.maillog.tally import Tally
from support import maillog_model as model
from support.examples import examples
from support.maillogs import NOW, Log, moment, syslog

if TYPE_CHECKING:
    from collections.abc import Callable

from datetime import UTC

SHOWN = model.traffic(7, 60)
# No line of a log in any form, however it is cut.
GARBAGE = (
    st.binary(max_size=60)
    .map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))
    .filter(lambda data: not data.lstrip(b"\0\x1e\xef\xbb\xbf").startswith(b"-- "))
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of Hypothesis, which a fixture of each test would not be."""
    return tmp_path_factory.mktemp("logs")


@pytest.mark.parametrize("form", model.FORMS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=examples(10))
def test_what_happened_is_read_back_from_every_form(
    directory: Path, form: Callable[[model.Line], bytes], seed: int
) -> None:
    expected = model.traffic(seed, 20, is_exact=form in model.EXACT_FORMS)

    log = Log(directory, model.render(expected.lines, form), wants_recipients=True)
    assert log.read == expected.mails
    assert (log.tally.lines, log.tally.not_understood) == (len(expected.lines), 0)
    assert log.tally.unfinished == expected.unfinished
    assert log.tally.mails.total() == len(expected.mails)


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=examples(40))
def test_garbage_anywhere_costs_what_it_damages_alone(directory: Path, seed: int, data: st.DataObject) -> None:
    """Lines of garbage between the others cost nothing, and are counted."""
    form = data.draw(st.sampled_from([form for form in model.FORMS if form is not model.journal_export]))
    expected = model.traffic(seed, 10, is_exact=form in model.EXACT_FORMS)
    lines = [form(line) for line in expected.lines]
    garbage = [line for line in data.draw(st.lists(GARBAGE, max_size=10)) if line.strip(b"\0\x1e\xef\xbb\xbf\r")]
    for line in garbage:
        lines.insert(data.draw(st.integers(0, len(lines))), line + b"\n")

    log = Log(directory, b"".join(lines))
    assert log.read == [
        mail if mail.origin is Origin.REJECTED else replace(mail, recipients=()) for mail in expected.mails
    ]
    assert log.tally.lines == len(lines)
    assert log.tally.not_understood == len(garbage)


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=examples(60))
def test_a_log_may_be_cut_and_changed_anywhere(directory: Path, seed: int, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(model.FORMS))
    whole = model.traffic(seed, 10, is_exact=form in model.EXACT_FORMS)
    text = model.render(whole.lines, form)
    begin, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    text = text[:begin] + data.draw(st.binary(max_size=20)) + text[end:]

    log = Log(directory, text, wants_recipients=True)
    tally = log.tally
    assert tally.lines == tally.of_postfix + tally.of_daemon + tally.others + tally.not_understood
    assert [item.time for item in log.read] == sorted(item.time for item in log.read)
    assert tally.mails.total() == len(log.read) <= len(whole.mails) + 2  # one line may become two


@pytest.mark.parametrize("form", [model.syslog, model.journal_export])
@pytest.mark.parametrize("size", [1, 2, 7, 100, 1000])
def test_a_log_is_the_same_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, form: Callable[[model.Line], bytes]
) -> None:
    monkeypatch.setattr(reading, "_MOST_BLOCK_BYTES", size)

    log = Log(tmp_path, model.render(SHOWN.lines, form), wants_recipients=True)
    assert log.read == SHOWN.mails
    assert log.tally.lines == len(SHOWN.lines)


def _zstandard(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


COMPRESSIONS: list[Callable[[bytes], bytes]] = [
    gzip.compress,
    lambda data: gzip.compress(data[:500]) + gzip.compress(data[500:]),
    lambda data: bz2.compress(data, 1),
    lzma.compress,
    _zstandard,
]


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_compressed(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    log = Log(tmp_path, compress(model.render(SHOWN.lines, model.syslog)), wants_recipients=True)

    assert log.read == SHOWN.mails
    assert log.tally.damaged == []


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_of_a_file_that_ends_early_what_is_there_is_read(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    # Of what does not compress, so that something comes before the end; bzip2 has blocks of 100 kB here.
    chance = random.Random(1)
    filling = "".join(f"Nov 28 11:58:00 mx other: {chance.randbytes(600).hex()}\n" for _ in range(200)).encode()
    data = compress(filling + model.render(SHOWN.lines, model.syslog) + filling)

    log = Log(tmp_path, data[: len(data) - 100])
    [(name, what)] = log.tally.damaged
    assert name == str(tmp_path / "log-0")
    assert what == "it ends early"
    assert len(log.read) == len(SHOWN.mails)
    assert log.tally.others >= 200


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_what_is_damaged_is_told(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = bytearray(compress(model.render(SHOWN.lines, model.syslog)))
    middle = len(data) * 3 // 4
    data[middle : middle + 40] = bytes(40)

    log = Log(tmp_path, bytes(data))
    assert [name for name, _ in log.tally.damaged] == [str(tmp_path / "log-0")]
    assert len(log.read) <= len(SHOWN.mails)


def test_zstandard_without_its_package_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)

    with pytest.raises(MailLogError, match=r"log-0: it is compressed with Zstandard.*policyd-rate-limit\[zstd\]"):
        Log(tmp_path, zstandard.compress(b"x"))


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_log_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    with pytest.raises(MailLogError, match=f"cannot read mail log {path}: (No such|Is a dir)"):
        read([path], wants_recipients=False, now=NOW, zone=UTC, tally=Tally())


def test_an_empty_log_has_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path, b"", b"\n\n", b"\0\0\n")

    assert (log.read, log.tally.lines, log.tally.damaged) == ([], 0, [])


def test_lines_may_end_as_on_windows_or_begin_with_nul(tmp_path: Path) -> None:
    text = model.render(SHOWN.lines, model.syslog).replace(b"\n", b"\r\n")

    log = Log(tmp_path, b"\xef\xbb\xbf" + text[:-2].replace(b"\r\nNov", b"\r\n\0\0Nov", 3), wants_recipients=True)
    assert log.read == SHOWN.mails


def test_a_line_without_end_is_read_in_its_bound(tmp_path: Path) -> None:
    log = Log(tmp_path, b"x" * 5_000_000 + b"\n" + model.render(SHOWN.lines, model.syslog), wants_recipients=True)

    assert log.read == SHOWN.mails
    assert log.tally.not_understood == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_rotated_files_follow_one_another_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    cuts = [0, len(SHOWN.lines) // 3, len(SHOWN.lines) // 2, len(SHOWN.lines)]
    files = [model.render(SHOWN.lines[cuts[part] : cuts[part + 1]], model.syslog) for part in range(3)]

    log = Log(tmp_path, *(gzip.compress(files[part]) if part else files[part] for part in order), wants_recipients=True)
    assert log.read == SHOWN.mails


def test_a_copy_of_a_log_is_read_once_and_told(tmp_path: Path) -> None:
    text = model.render(SHOWN.lines, model.syslog)

    log = Log(tmp_path, text, gzip.compress(text), b"", b"", wants_recipients=True)
    assert log.read == SHOWN.mails
    assert log.tally.damaged == [(str(tmp_path / "log-1"), f"it begins as {tmp_path / 'log-0'} does, and is not read")]


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=examples(20))
def test_logs_of_several_hosts_are_in_one_order_of_time(directory: Path, seed: int, data: st.DataObject) -> None:
    forms = [data.draw(st.sampled_from(model.EXACT_FORMS)) for _ in range(3)]
    # The same seed: the same queue ids on each host.
    traffics = [model.traffic(seed, 10, host=f"mx{number}", is_exact=True) for number in range(3)]

    log = Log(
        directory,
        *(model.render(one.lines, form) for one, form in zip(traffics, forms, strict=True)),
        wants_recipients=True,
    )
    assert [mail.time for mail in log.mails] == sorted(mail.time for mail in log.mails)
    for number, one in enumerate(traffics):
        assert [mail for mail in log.mails if mail.host == f"mx{number}"] == one.mails


def test_a_pipe_and_standard_input(tmp_path: Path) -> None:
    text = gzip.compress(model.render(SHOWN.lines[:100], model.syslog))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = (
        "import sys; from datetime import UTC; from pathlib import Path\n"
        "from policyd_rate_limit.maillog.reading import read; from policyd_rate_limit.maillog.tally import Tally\n"
        f"tally = Tally(); paths = ['-', Path({str(fifo)!r})]\n"
        f"print(sum(1 for _ in read(paths, wants_recipients=False, now={NOW}, zone=UTC, tally=tally)), tally.lines)"
    )
    writer = threading.Thread(target=fifo.write_bytes, args=(model.render(SHOWN.lines[100:], model.syslog),))
    writer.start()

    done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, check=True, timeout=60)
    writer.join()
    assert done.stdout.split() == [b"%d" % len(SHOWN.mails), b"%d" % len(SHOWN.lines)]


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b.gz"]
    paths[0].write_bytes(model.render(SHOWN.lines, model.syslog))
    paths[1].write_bytes(gzip.compress(model.render(SHOWN.lines, model.rfc3339)))
    told: list[tuple[int, int]] = []

    list(
        read(
            paths,
            wants_recipients=False,
            now=NOW,
            zone=UTC,
            tally=Tally(),
            progress=lambda done, total: told.append((done, total)),
        )
    )
    size = sum(path.stat().st_size for path in paths)
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_year_of_a_file_is_that_of_its_last_change(tmp_path: Path) -> None:
    path = tmp_path / "mail.log.52"
    path.write_text(syslog("smtpd[1]: NOQUEUE: reject: CONNECT from a[192.0.2.1]: 554 5.7.1 no; proto=SMTP"))
    os.utime(path, (0, moment("2024-11-28T13:00:00")))

    [mail] = read([path], wants_recipients=False, now=NOW, zone=UTC, tally=Tally())
    assert mail.time == moment("2024-11-28T12:00:01")


def test_what_journalctl_says_of_itself_is_no_garbage(tmp_path: Path) -> None:
    log = Log(tmp_path, b"-- Journal begins at Sat 2026-11-28 --\n-- Boot 1 --\n")

    assert (log.tally.others, log.tally.not_understood) == (2, 0)


def test_what_journalctl_leaves_out_is_told(tmp_path: Path) -> None:
    log = Log(
        tmp_path,
        b"Nov 28 12:00:01 mx postfix/smtpd[1]: [83B blob data]\n"
        b"Nov 28 12:00:01 mx policyd-rate-limit[1]: [2.1K blob data]\n"
        b"Nov 28 12:00:01 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n",
    )
    assert (log.tally.not_understood, log.tally.of_postfix, log.tally.of_daemon, log.tally.lines) == (2, 1, 0, 3)


@pytest.mark.parametrize("stamp", ["-1", "x", "", "1" * 18, "1" * 400, "1" * 10_000, "\u0661" * 400])
@pytest.mark.parametrize("form", [model.journal_json, model.journal_export])
def test_an_entry_of_the_journal_without_a_time_is_told(
    tmp_path: Path, form: Callable[[model.Line], bytes], stamp: str
) -> None:
    first, *others = SHOWN.lines
    wrong = form(first).replace(b"%d" % round(first.time * 1e6), stamp.encode())

    log = Log(tmp_path, b"__CURSOR=x\n\n" * (form is model.journal_export) + wrong + model.render(others, form))
    assert len(log.mails) == len(SHOWN.mails)
    assert log.tally.not_understood == 1 + (form is model.journal_export)


def test_figures_that_are_too_long_are_no_mail(tmp_path: Path) -> None:
    text = f"smtpd[1]: 4F1AB2C3D4: client=a[192.0.2.1]\nqmgr[1]: 4F1AB2C3D4: from=<>, size={'1' * 9999}, nrcpt=1 (queue active)"

    log = Log(tmp_path, syslog(text))
    assert (log.read, log.tally.unfinished) == ([], 1)
