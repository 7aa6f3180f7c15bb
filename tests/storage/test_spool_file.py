"""The spool: whole records or none, of one generation, for one holder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import shutil
import struct
import zlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.engine.spool_file import SpoolFile, could_be_larger, waiting
from policyd_rate_limit.storage.record import OVERHEAD, Record, pack
from storage.daemon import open_descriptors, spool_files, write_former

SIZE = 1 << 16
NAME = "db.sqlite3"


def record(number: int, entries: int = 3, writer: int = 77) -> Record:
    """A record whose content shows its number."""
    return pack(
        writer, number, 1_700_000_000, [Entry(f"user:{number}", entry + 1, 5, "m", "p") for entry in range(entries)]
    )


def reopened(directory: pathlib.Path, name: str = NAME) -> list[Record]:
    """All records that the next daemon finds; the spool files are left as they were."""
    found = []
    for spool_file in SpoolFile.adopt(directory, name):
        found += spool_file.read()
        spool_file.close()
    return found


def test_what_was_appended_is_read_by_the_next_holder(tmp_path: pathlib.Path) -> None:
    """In order, and appending goes on behind it."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.append(record(1))
    spool_file.extend([record(2), record(3, entries=0), record(4)])
    spool_file.close()
    assert reopened(tmp_path) == [record(1), record(2), record(3, entries=0), record(4)]
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME)
    assert len(spool_file.read()) == 4
    spool_file.append(record(5))
    spool_file.close()
    assert [found.number for found in reopened(tmp_path)] == [1, 2, 3, 4, 5]


def test_the_file_has_its_full_size_from_the_start(tmp_path: pathlib.Path) -> None:
    """And keeps it."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    blocks = spool_file.path.stat().st_blocks
    assert blocks * 512 >= SIZE
    spool_file.append(record(1))
    spool_file.clear()
    spool_file.append(record(1))
    status = spool_file.path.stat()
    assert (status.st_size, status.st_blocks, status.st_mode & 0o777) == (SIZE, blocks, 0o600)
    spool_file.close()


def test_a_daemon_that_dies_while_it_makes_a_spool_file_leaves_none_that_is_damaged(tmp_path: pathlib.Path) -> None:
    """What is there when room is asked for, and when that was given, is an empty one."""
    left = tmp_path / f"{NAME}-7.journal"
    reserve = os.posix_fallocate

    def dies(descriptor: int, at: int, size: int) -> None:
        left.write_bytes(spool_file_at(descriptor))
        assert (reopened(tmp_path), damage_of(left)) == ([], "")
        reserve(descriptor, at, size)
        left.write_bytes(spool_file_at(descriptor))
        assert (reopened(tmp_path), damage_of(left)) == ([], "")

    with mock.patch.object(os, "posix_fallocate", dies):
        SpoolFile.create(tmp_path, NAME, SIZE).close()


def spool_file_at(descriptor: int) -> bytes:
    """All that is in the file."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def damage_of(path: pathlib.Path) -> str:
    """What is said to be missing in the spool file."""
    spool_file = next(one for one in SpoolFile.adopt(path.parent, NAME) if one.path == path)
    spool_file.read()
    spool_file.close()
    return spool_file.damage


def test_what_the_system_writes_in_parts_is_whole(tmp_path: pathlib.Path) -> None:
    """As it may where a disk is nearly full, or a signal comes."""
    write = os.pwrite
    with mock.patch.object(os, "pwrite", lambda descriptor, data, at: write(descriptor, data[:7], at)):
        spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
        spool_file.extend([record(1), record(2)])
        spool_file.close()
    assert reopened(tmp_path) == [record(1), record(2)]


def test_nobody_adopts_a_spool_file_that_is_held(tmp_path: pathlib.Path) -> None:
    """Each daemon has its own; what one holds is nobody else's."""
    one, two = SpoolFile.create(tmp_path, NAME, SIZE), SpoolFile.create(tmp_path, NAME, SIZE)
    one.append(record(1))
    two.append(record(1, writer=78))
    assert one.path != two.path
    assert reopened(tmp_path) == []
    two.close()
    assert reopened(tmp_path) == [record(1, writer=78)]
    (adopted,) = SpoolFile.adopt(tmp_path, NAME)
    assert reopened(tmp_path) == []
    adopted.remove()
    one.remove()
    assert spool_files(tmp_path) == []


@pytest.mark.parametrize(
    "other", ["db", "db.sqlite", "db.sqlite3-old", "db.sqlite3-1", "*", "xdb.sqlite3", "db?sqlite3"]
)
def test_spool_files_of_other_databases_are_left_alone(tmp_path: pathlib.Path, other: str) -> None:
    """Names that begin alike, or that a pattern would match, are other names."""
    SpoolFile.create(tmp_path, NAME, SIZE).close()
    SpoolFile.create(tmp_path, other, SIZE).close()
    for name in (NAME, other):
        (spool_file,) = SpoolFile.adopt(tmp_path, name)
        assert spool_file.path.name == f"{name}-0.journal"
        spool_file.close()


def test_a_torn_record_is_the_end(tmp_path: pathlib.Path) -> None:
    """At whatever byte the last append was cut off, what was there before it is read; nothing is written behind it."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.extend([record(1), record(2)])
    before = spool_file.path.read_bytes()
    spool_file.append(record(3))
    after = spool_file.path.read_bytes()
    spool_file.close()
    first = next(at for at in range(SIZE) if before[at] != after[at])
    last = next(at for at in reversed(range(SIZE)) if before[at] != after[at])
    for cut in range(first + 1, last + 1):
        spool_file.path.write_bytes(after[:cut] + before[cut:])
        (torn,) = SpoolFile.adopt(tmp_path, NAME)
        found = torn.read()
        # The record may be whole, and only what says that it is the last one is not.
        assert found in ([record(1), record(2)], [record(1), record(2), record(3)]), cut
        assert torn.damage, cut
        assert torn.room == 0
        torn.close()


@given(at=st.integers(0, 4095), mask=st.integers(1, 255))
def test_a_flipped_bit_costs_one_record(tmp_path_factory: pytest.TempPathFactory, at: int, mask: int) -> None:
    """What is before and behind the damage is read, nothing else is, and what is missing is said."""
    directory = tmp_path_factory.mktemp("journal")
    written = [record(number) for number in range(1, 6)]
    spool_file = SpoolFile.create(directory, NAME, 4096)
    spool_file.extend(written)
    end = spool_file._end
    spool_file.close()
    content = bytearray(spool_file.path.read_bytes())
    content[at] ^= mask
    spool_file.path.write_bytes(content)
    (damaged,) = SpoolFile.adopt(directory, NAME)
    found = damaged.read()
    missing = [one for one in written if one not in found]
    assert [one for one in written if one in found] == found
    assert len(missing) <= 1
    if missing:
        assert damaged.damage == "1 batch"
    elif end <= at < end + 24:
        assert damaged.damage == "what was behind the last batch that can be read"
    else:
        assert damaged.damage == ""
    damaged.close()


def damaged_journal(directory: pathlib.Path, *cuts: tuple[int, int], size: int = SIZE) -> list[Record]:
    """A spool file of nine records, with zeros from one place to another; what is in it."""
    spool_file = SpoolFile.create(directory, NAME, size, installation="i" * 32)
    written = [record(number) for number in range(1, 10)]
    spool_file.extend(written)
    spool_file.close()
    content = bytearray(spool_file.path.read_bytes())
    for first, last in cuts:
        content[first:last] = bytes(len(content[first:last]))
    spool_file.path.write_bytes(content)
    return written


FRAME = 24 + len("[77, 1, 1700000000, 3]\n") + len(record(1).entries)


@pytest.mark.parametrize(
    ("cuts", "missing", "said"),
    [
        ([(0, 64)], [], ""),
        ([(SIZE - 64, SIZE)], [], ""),
        ([(0, 64), (SIZE - 64, SIZE)], [], "its header"),
        ([(0, 100)], [1], "1 batch"),
        ([(0, 64 + FRAME), (SIZE - 64, SIZE)], [1], "1 batch"),
        ([(64 + 2 * FRAME + 30, 64 + 4 * FRAME + 1)], [3, 4, 5], "3 batches"),
        ([(70, 71), (64 + 8 * FRAME, SIZE)], [9], "what was behind the last batch that can be read"),
        ([(64, SIZE - 64)], list(range(1, 10)), "all that was in it"),
        ([(0, SIZE)], list(range(1, 10)), "all that was in it"),
    ],
)
def test_what_can_be_read_behind_damage_is_kept(
    tmp_path: pathlib.Path, cuts: list[tuple[int, int]], missing: list[int], said: str
) -> None:
    """Header, first record, middle, end: the rest is read, and what is not is said."""
    written = damaged_journal(tmp_path, *cuts)
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME)
    assert spool_file.read() == [one for one in written if one.number not in missing]
    assert spool_file.damage == said
    spool_file.remove()
    aside = [path.name for path in tmp_path.iterdir()]
    assert len(aside) == bool(said)
    assert all(".journal.damaged-" in name for name in aside)
    assert reopened(tmp_path) == []


def rewritten(content: bytes, before: bytes, after: bytes) -> bytes:
    """``content`` with a frame in which ``after`` stands for ``before``, whole by its checksum."""
    assert len(before) == len(after)
    text = content.index(before)
    head = content.rindex(b"\xf5\xfe\xf7\xff", 0, text)
    length = struct.unpack_from("<I", content, head + 4)[0]
    frame = bytearray(content[head : head + 24 + length])
    frame[text - head : text - head + len(before)] = after
    frame[20:24] = zlib.crc32(frame[24:], zlib.crc32(frame[:20])).to_bytes(4, "little")
    return content[:head] + frame + content[head + len(frame) :]


@pytest.mark.parametrize(
    "numbers",
    [
        *("7", "null", "true", '"four"', "{}", "[]", "[77, 2, 3]", "[77, 2, 3, 4, 5]"),
        *("[77, 2, 3.0, 4]", '["77", 2, 3, 4]', "[77, true, 3, 4]", "[77, 2, null, 4]", "[[77], 2, 3, 4]"),
        *("[-1, 2, 3, 4]", "[77, 2, 3, -4]", f"[{1 << 63}, 2, 3, 4]", f"[77, 2, {2**53}, 4]"),
    ],
)
def test_a_whole_frame_that_is_no_record_costs_that_one(tmp_path: pathlib.Path, numbers: str) -> None:
    """Whoever wrote it: the others are read, and a daemon that starts does not fail."""
    written = [record(1), record(2, writer=1 << 50), record(3)]
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.extend(written)
    spool_file.close()
    before = f"[{1 << 50}, 2, 1700000000, 3]".encode()
    content = rewritten(spool_file.path.read_bytes(), before, numbers.encode().ljust(len(before)))
    spool_file.path.write_bytes(content)
    (found,) = SpoolFile.adopt(tmp_path, NAME)
    assert (found.read(), found.damage) == ([written[0], written[2]], "1 batch")
    found.close()


@pytest.mark.parametrize("largest", [f"[{2**63 - 1}, 2, 3, 4]", f"[77, 2, {2**53 - 1}, 4]", "[0, 0, 0, 0]"])
def test_a_frame_with_the_largest_numbers_is_a_record(tmp_path: pathlib.Path, largest: str) -> None:
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.append(record(2, writer=1 << 50))
    spool_file.close()
    before = f"[{1 << 50}, 2, 1700000000, 3]".encode()
    content = rewritten(spool_file.path.read_bytes(), before, largest.encode().ljust(len(before)))
    spool_file.path.write_bytes(content)
    (found,) = SpoolFile.adopt(tmp_path, NAME)
    assert [list(one[:4]) for one in found.read()] == [json.loads(largest)]
    assert found.damage == ""
    found.close()


def test_a_spool_file_that_was_cut_keeps_what_is_left(tmp_path: pathlib.Path) -> None:
    """Of the rest it is said that it is missing."""
    written = damaged_journal(tmp_path)
    path = tmp_path / f"{NAME}-0.journal"
    content = path.read_bytes()
    for size in (10, 64, 100, 64 + FRAME, 64 + 3 * FRAME + 5, 64 + 9 * FRAME, 64 + 9 * FRAME + 23):
        path.write_bytes(content[:size])
        (spool_file,) = SpoolFile.adopt(tmp_path, NAME)
        assert spool_file.read() == written[: max(0, (size - 64) // FRAME)]
        assert spool_file.damage
        spool_file.close()


@pytest.mark.parametrize("name", [NAME, "other"])
@pytest.mark.parametrize("of_file", ["", "a" * 32, "b" * 32])
@pytest.mark.parametrize("of_database", ["", "a" * 32])
def test_whose_a_spool_file_is(tmp_path: pathlib.Path, of_database: str, of_file: str, name: str) -> None:
    """The identity decides where both are known, else the name."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE, installation=of_file)
    spool_file.append(record(1))
    spool_file.close()
    found = list(SpoolFile.adopt(tmp_path, name, of_database))
    ours = of_database == of_file if of_database and of_file else name == NAME
    assert len(found) == ours
    for one in found:
        assert (one.read(), one.installation) == ([record(1)], of_file)
        one.close()


def test_an_identity_is_claimed_later(tmp_path: pathlib.Path) -> None:
    """Once it is known; what is in the spool stays."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.append(record(1))
    spool_file.claim("c" * 32)
    spool_file.append(record(2))
    spool_file.close()
    (found,) = SpoolFile.adopt(tmp_path, "other", "c" * 32)
    assert found.read() == [record(1), record(2)]
    found.clear()
    found.close()
    (found,) = SpoolFile.adopt(tmp_path, NAME)
    assert (found.read(), found.installation) == ([], "c" * 32)
    found.close()


def test_a_spool_file_of_the_version_before_is_read(tmp_path: pathlib.Path) -> None:
    """By its old name; it is not written to."""
    written = [record(number) for number in range(1, 5)]
    path = tmp_path / "old-name-0.journal"
    content = bytearray(write_former(path, written))
    assert list(SpoolFile.adopt(tmp_path, NAME, "a" * 32)) == []
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME, "a" * 32, "old-name")
    assert (spool_file.read(), spool_file.damage, spool_file.room) == (written, "", 0)
    spool_file.close()
    write_former(path, written, size=0)  # full to its last byte
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME, "a" * 32, "old-name")
    assert (spool_file.read(), spool_file.damage) == (written, "")
    spool_file.close()
    second = content.index(b'"user:2"')
    content[second] ^= 1
    path.write_bytes(content)
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME, former_name="old-name")
    assert spool_file.read() == [written[0], *written[2:]]
    assert "first 1 batch," in spool_file.damage
    spool_file.close()


def test_records_of_an_older_generation_are_gone(tmp_path: pathlib.Path) -> None:
    """After `clear` what was there does not come back, even where a new record ends just where an old one begins."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.extend([record(1), record(2), record(3)])
    spool_file.clear()
    spool_file.append(record(4))  # as long as the first
    assert spool_file.read() == [record(4)]
    spool_file.close()
    assert reopened(tmp_path) == [record(4)]
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME)
    spool_file.read()
    spool_file.clear()
    spool_file.close()
    assert reopened(tmp_path) == []


def test_clearing_an_adopted_spool_file_does_not_bring_back_what_it_held(tmp_path: pathlib.Path) -> None:
    """Its generation is the one in its header, not the first."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.append(record(1))
    spool_file.clear()
    spool_file.append(record(2))
    spool_file.close()
    (spool_file,) = SpoolFile.adopt(tmp_path, NAME)
    assert spool_file.read() == [record(2)]
    spool_file.clear()
    assert spool_file.read() == []
    spool_file.close()


def test_a_full_spool_file_keeps_what_it_has(tmp_path: pathlib.Path) -> None:
    """Nothing of what does not fit is written; a smaller record may still fit."""
    spool_file = SpoolFile.create(tmp_path, NAME, 4096)
    appended = 0
    with contextlib.suppress(StoreFull):
        for number in range(1, 1000):
            spool_file.append(record(number, entries=5))
            appended = number
    assert 10 < appended < 100
    with pytest.raises(StoreFull, match=str(spool_file.path)):
        spool_file.extend([record(1, entries=0), record(2, entries=200)])
    assert [found.number for found in spool_file.read()] == list(range(1, appended + 1))
    spool_file.close()


@pytest.mark.parametrize("beyond", [0, 1])
def test_what_has_room_is_kept_to_the_byte(tmp_path: pathlib.Path, beyond: int) -> None:
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.append(record(1))
    numbers = (77, 2, 1_700_000_000, 0)
    entries = " " * (spool_file.room + beyond - 24 - len(f"{json.dumps(numbers)}\n"))
    with pytest.raises(StoreFull) if beyond else contextlib.nullcontext():
        spool_file.append(Record(*numbers, entries))
    assert spool_file.room == 0 or beyond
    spool_file.close()


def test_a_spool_file_takes_a_quarter_of_what_is_free_at_the_most(tmp_path: pathlib.Path) -> None:
    """The database needs the rest."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    quarter = shutil.disk_usage(tmp_path).free // 4
    with mock.patch.object(spool_file, "size", quarter * 9 // 10):
        assert could_be_larger(spool_file, 1 << 62)
    with mock.patch.object(spool_file, "size", quarter * 11 // 10):
        assert not could_be_larger(spool_file, 1 << 62)
    spool_file.close()


def test_a_record_takes_no_more_room_than_it_is_said_to(tmp_path: pathlib.Path) -> None:
    """The bound that the engine reckons with, with the largest numbers."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    largest = Record(2**62 - 1, 2**62 - 1, 2**53, 2**53, "[]")
    for _ in range(100):
        before = spool_file._end
        spool_file.append(largest)
        assert spool_file._end - before <= OVERHEAD + len(largest.entries)
    spool_file.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"polic",
        b"policyd1",
        bytes(SIZE),
        b"otherone" + bytes(100),
        b"policyd1" + struct.pack("<QII", 1, 2**32 - 1, 0),
    ],
    ids=["empty", "cut in the header", "no generation", "zeros", "of another program", "a huge length"],
)
def test_a_file_that_is_no_spool_file_holds_nothing(tmp_path: pathlib.Path, content: bytes) -> None:
    """As a daemon leaves it that dies while it makes one."""
    (tmp_path / f"{NAME}-0.journal").write_bytes(content)
    assert reopened(tmp_path) == []


def test_what_cannot_be_opened_does_not_hide_the_rest(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """Directories and links of such names are left where they are."""
    (tmp_path / f"{NAME}-0.journal").mkdir()
    (tmp_path / f"{NAME}-1.journal").symlink_to(tmp_path / "elsewhere")
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.append(record(1))
    spool_file.close()
    assert spool_file.path.name == f"{NAME}-2.journal"
    assert reopened(tmp_path) == [record(1)]
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING] * 2


def test_no_directory_no_spool_files(tmp_path: pathlib.Path) -> None:
    """And none is made by looking for them; by making one it is."""
    assert list(SpoolFile.adopt(tmp_path / "a" / "b", NAME)) == []
    assert list(tmp_path.iterdir()) == []
    SpoolFile.create(tmp_path / "a" / "b", NAME, SIZE).close()
    assert spool_files(tmp_path / "a" / "b") == [f"{NAME}-0.journal"]


def test_appending_to_a_removed_spool_file_fails(tmp_path: pathlib.Path) -> None:
    """What nobody can find is not kept."""
    spool_file = SpoolFile.create(tmp_path, NAME, SIZE)
    spool_file.path.unlink()
    with pytest.raises(FileNotFoundError):
        spool_file.append(record(1))
    other = SpoolFile.create(tmp_path, NAME, SIZE)
    assert other.path == spool_file.path
    spool_file.remove()
    assert spool_files(tmp_path) == [other.path.name]
    other.close()


def test_no_descriptor_is_left(tmp_path: pathlib.Path) -> None:
    """Whatever becomes of a spool file."""
    before = open_descriptors()
    one, two = SpoolFile.create(tmp_path, NAME, SIZE), SpoolFile.create(tmp_path, NAME, SIZE)
    one.close()
    (adopted,) = SpoolFile.adopt(tmp_path, NAME)
    adopted.remove()
    two.remove()
    with pytest.raises(OSError):
        SpoolFile.create(tmp_path, NAME, 0)
    assert open_descriptors() == before
    assert spool_files(tmp_path) == []


def test_anybody_may_look_at_what_waits(tmp_path: pathlib.Path) -> None:
    """Without taking it from its holder, or from whoever would adopt it."""
    assert list(waiting(tmp_path / "missing", NAME)) == []
    held, empty, other = (SpoolFile.create(tmp_path, name, SIZE) for name in (NAME, NAME, "other"))
    held.extend([record(1), record(2)])
    other.append(record(3))
    for _ in range(2):
        assert list(waiting(tmp_path, NAME)) == [(held.path, [record(1), record(2)])]
    held.append(record(4))
    held.close()
    assert list(waiting(tmp_path, NAME)) == [(held.path, [record(1), record(2), record(4)])]
    assert reopened(tmp_path) == [record(1), record(2), record(4)]
    empty.close()
    other.close()
    held.path.unlink()
    held.path.mkdir()
    with pytest.raises(OSError, match="directory"):
        list(waiting(tmp_path, NAME))
