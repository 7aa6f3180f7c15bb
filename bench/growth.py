"""What a decision, a start and a clean-up cost as the store grows, for every store."""

from __future__ import annotations

import contextlib
import pathlib
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import processes
import servers
from contenders import (
    OURS,
    REFUSAL,
    SQLITE,
    SUCCESS,
    VERSION_1_2_0,
    Contender,
    Contestant,
    Fill,
    Load,
    measure,
    prepared,
)
from loads import BASE, WARM_UP, say

# Nobody reaches these, and a million mails have a second each.
LIMITS = [[100_000_000, 60], [100_000_000, 30 * 86_400]]
SETTINGS: dict[str, Any] = {"limits": LIMITS, "max_ids": 8_000_000}
WINDOWS = (10, 1_000, 100_000, 1_000_000)
MAILS_OF_A_WINDOW = 100_000  # so many ids share these that the load itself adds little to each
IDS = (1_000, 100_000, 1_000_000)
MOST_IDS = 5_000_000  # of SQLite
CLEANED_ROWS = 10_000_000
CLEANED_DAYS_AGO = 90
CLEAN_SECONDS = 8.0  # how long clients are watched before it, and beside it
CONTENDERS = (*OURS, VERSION_1_2_0)


def run(
    directory: pathlib.Path,
    places: dict[str, str],
    *,
    seconds: float,
    rounds: int,
    scale: float,
    contenders: Sequence[Contender] = CONTENDERS,
) -> dict[str, Any]:
    """``windows``, ``ids`` and ``clean``: measurements at each size; ``scale`` multiplies the sizes above."""
    windows: list[dict[str, Any]] = []
    ids: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for contender in contenders:
        home = directory / contender.key
        try:
            for found in _windows(contender, home / "windows", places, seconds, rounds, scale):
                (failed if "why" in found else windows).append(found)
            for number in (*IDS, MOST_IDS) if contender is SQLITE else IDS:
                ids += _ids(contender, home / f"ids-{number}", places, seconds, rounds, int(number * scale))
        except servers.NotInstalled as reason:
            failed.append({"contender": contender.key, "why": str(reason)})
            say(f"without {contender.name}: {reason}")
    clean = _clean(directory / "clean", places, scale) if SQLITE in contenders else {}
    return {"windows": windows, "ids": ids, "clean": clean, "failed": failed, "scale": scale}


def _hot(mails: int) -> int:
    """How many users have ``mails`` mails each."""
    return max(1, MAILS_OF_A_WINDOW // mails)


def _prefix(mails: int) -> str:
    return f"w{mails}-"


def _windows(
    contender: Contender, home: pathlib.Path, places: dict[str, str], seconds: float, rounds: int, scale: float
) -> Iterator[dict[str, Any]]:
    """The cost of a decision about ids with more and more mails in their windows, all in one store."""
    sizes = [int(size * scale) or 1 for size in WINDOWS]
    hot = {f"{_prefix(size)}{number:07d}": size for size in sizes for number in range(_hot(size))}
    with _filled(contender, home, places, Fill(hot=hot)) as contestant:
        _start(contestant)
        for number in range(1, rounds + 1):
            for size in sizes:
                load = BASE._replace(key="window", ids=_hot(size), prefix=_prefix(size))
                found = {"contender": contender.key, "mails": size, "round": number}
                try:
                    yield found | _measure(contestant, load, places, seconds, number)
                except RuntimeError as error:
                    yield found | {"why": str(error)}


def _ids(
    contender: Contender, home: pathlib.Path, places: dict[str, str], seconds: float, rounds: int, ids: int
) -> Iterator[dict[str, Any]]:
    """Start-up, memory and the cost of a decision with ``ids`` active ids."""
    with _filled(contender, home, places, Fill(ids=ids)) as contestant:
        ready = _start(contestant)
        about = {
            "contender": contender.key,
            "ids": ids,
            "ready_seconds": ready,
            "resident_mb": processes.resident_memory(contestant.processes()),
        }
        for number in range(1, rounds + 1):
            yield (
                about
                | {"round": number}
                | _measure(contestant, BASE._replace(key="ids", ids=ids), places, seconds, number)
            )


def _clean(home: pathlib.Path, places: dict[str, str], scale: float) -> dict[str, Any]:
    """``--clean`` on old rows in SQLite, and the clients of the daemon before it and beside it."""
    rows = int(CLEANED_ROWS * scale)
    with _filled(SQLITE, home, places, Fill(ids=int(100_000 * scale))) as contestant:
        say(f"filling SQLite with {rows:,} old rows")
        _add_old_rows(contestant, rows)
        _start(contestant)
        load = BASE._replace(key="clean", ids=int(100_000 * scale))
        seconds = CLEAN_SECONDS * min(1.0, scale)
        before = _measure(contestant, load, places, seconds, 1)
        with ThreadPoolExecutor(1) as beside_it:
            cleaning = beside_it.submit(_timed, [contestant.command[0], "-f", str(contestant.config), "--clean"])
            beside = _measure(contestant, load, places, seconds, 2)
            took, told = cleaning.result()
    found = re.search(r"(\d+) records deleted", told)
    if found is None or int(found[1]) < rows:
        raise RuntimeError(f"--clean has not deleted {rows} rows: {told!r}")
    say(f"clean: {took:.1f} s for {rows:,} rows; p99 {before['p99']:.1f} ms before, {beside['p99']:.1f} ms beside")
    return {"rows": rows, "took_seconds": took, "watched_seconds": seconds, "before": before, "beside": beside}


def _timed(command: Sequence[str]) -> tuple[float, str]:
    """How many seconds ``command`` takes, and what it says."""
    begin = time.monotonic()
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return time.monotonic() - begin, told


def _add_old_rows(contestant: Contestant, rows: int) -> None:
    """One mail a row, older than anything that is limited; that they are mails is what ``--clean`` counts."""
    first = int(time.time()) - CLEANED_DAYS_AGO * 86_400
    with contextlib.closing(sqlite3.connect(contestant.database)) as connection, connection:
        # In front of what is there: dates never fall.
        connection.execute("UPDATE policyd_batch SET seq = seq + ?", (2 * rows,))
        connection.execute(
            "WITH RECURSIVE row(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM row WHERE n < ?)"
            " INSERT INTO policyd_batch (seq, date, writer, number, size, entries)"
            ' SELECT n, ? + n / 1000, 1, n, 1, printf(\'[["user:user%07d",1,0,"",""]]\', n % 1000000) FROM row',
            (rows, first),
        )


@contextlib.contextmanager
def _filled(contender: Contender, home: pathlib.Path, places: dict[str, str], fill: Fill) -> Iterator[Contestant]:
    """The contender, filled, not started."""
    with prepared(contender, home, places, SETTINGS) as contestant:
        begin = time.monotonic()
        contestant.fill(fill)
        mails = fill.ids + sum(fill.hot.values())
        say(f"filled {contender.name} with {mails:,} mails in {time.monotonic() - begin:.1f} s")
        yield contestant


def _start(contestant: Contestant) -> float:
    """Seconds until it has answered from its store for the first time."""
    begin = time.monotonic()
    contestant.start()
    while contestant.ask("nobody0000") != SUCCESS:
        time.sleep(0.01)
    ready = time.monotonic() - begin
    if contestant.ask("over0000000") != REFUSAL:
        raise RuntimeError(f"{contestant.contender.name} does not count what it was filled with")
    return ready


def _measure(contestant: Contestant, load: Load, places: dict[str, str], seconds: float, number: int) -> dict[str, Any]:
    found = measure(contestant, load, places, seconds, WARM_UP, number)
    say(f"{load.key} {load.prefix} {load.ids:,}: {found['per_second']:,.0f}/s {contestant.contender.name}")
    return found
