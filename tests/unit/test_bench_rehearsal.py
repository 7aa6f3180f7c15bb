"""The benchmark of rehearsals: what it says a program took, whom it believes, and what its page says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import rehearsed
from measured import Results
from rehearse import (
    LNAV,
    PFLOGSUMM,
    READERS,
    SUGGEST,
    THREE,
    WC,
    ZGREP,
    Log,
    Reader,
    make_log,
    measure,
    watched,
    write_rules,
)

CORE = max(os.sched_getaffinity(0))
PLACES = {"ours": str(Path(sys.executable).parent / "policyd-rate-limit")}
HELD = 64  # MiB


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bench")
    write_rules(home)
    return home


@pytest.fixture(scope="module")
def log(home: Path) -> Log:
    return make_log(home, 100_000)


@pytest.mark.parametrize(("held", "least", "most"), [(0, 2, 50), (HELD, HELD * 1.048, HELD * 1.048 + 50)])
def test_memory_is_that_of_the_program_and_not_of_who_starts_it(
    tmp_path: Path, held: int, least: float, most: float
) -> None:
    ours = b"x" * (128 << 20)  # resident here while the program begins
    code = f"import time; held = b'x' * ({held} << 20); time.sleep(0.4); raise SystemExit(7)"
    status, used = watched([sys.executable, "-I", "-S", "-c", code], tmp_path / "output", os.environ, CORE)
    assert status == 7
    assert least <= used.memory_mb <= most
    assert used.seconds >= 0.4
    assert 0 < used.cpu_seconds < used.seconds
    assert len(ours) > HELD << 20


@pytest.mark.parametrize("reader", [THREE, SUGGEST, ZGREP, WC], ids=lambda one: one.key)
def test_each_finds_all_of_the_log(reader: Reader, log: Log, home: Path) -> None:
    one = measure(reader, log, home, PLACES, CORE)
    assert one["reader"] == reader.key
    assert one["seconds"] > 0


def test_who_does_not_find_all_is_not_measured(log: Log, home: Path) -> None:
    hasty = WC._replace(command=("sh", "-c", "head -n 5 {log} | wc -l"))
    with pytest.raises(ValueError, match=f"expected {log.lines} lines found, got 5"):
        measure(hasty, log, home, PLACES, CORE)
    with pytest.raises(ValueError, match=r"ended with 1: .*nowhere"):
        measure(WC._replace(command=("wc", "-l", "{home}/nowhere")), log, home, PLACES, CORE)


def test_what_others_print_is_understood() -> None:
    assert PFLOGSUMM.told("messages\n\n  34867   received\n  71480   delivered\n   3937   rejected (5%)\n") == 3937
    with pytest.raises(ValueError, match="rejected"):
        PFLOGSUMM.told("")
    assert LNAV.told("count(*)\n341355\n") == 341355


def test_the_page_says_nothing_of_what_was_not_measured(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert rehearsed.section(results) == ""
    assert rehearsed.targets(results) == []


def test_the_page_tells_figures_for_a_gigabyte_and_ratios_within_a_round(tmp_path: Path) -> None:
    half = {"bytes": 500_000_000, "lines": 4_000_000, "mails": 300_000, "people": 5_000}
    took = {THREE.key: (20.0, 310.0), SUGGEST.key: (35.0, 200.0), PFLOGSUMM.key: (40.0, 90.0)}
    measurements = [
        {"round": number, "reader": key, "seconds": seconds * slower, "cpu_seconds": seconds, "memory_mb": memory}
        for number, slower in enumerate((1, 1, 3))
        for key, (seconds, memory) in took.items()
    ]
    part = {"log": half, "measurements": measurements, "rounds": 3}
    (tmp_path / "rehearse.json").write_text(json.dumps(part), encoding="utf-8")
    results = Results(tmp_path)

    verdicts = [(row[2], row[3]) for row in (one.row() for one in rehearsed.targets(results))]
    assert verdicts == [
        ("40.0 s", "reached"),
        ("310 MB", "**not reached**"),
        ("70.0 s", "**not reached**"),
        ("200 MB", "reached"),
    ]
    section = rehearsed.section(results)
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) == len(READERS)
    assert rows[0] == "| `simulate`, 3 rules | 20.0 (20.0–60.0) | 20.0 | 200,000 | 25.0 | 310 | 0.50 | – | – |"
    assert "A log of 500 MB: 4,000,000 lines of 125 bytes on average, with 300,000 mails of 5,000 people" in section
