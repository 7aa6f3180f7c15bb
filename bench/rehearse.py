"""How long it takes to rehearse a mail log, beside what else reads one: each alone on one core, in turns.

The log is that of :mod:`maillogs`. All but ``zgrep`` read it as it is, out of the page cache. Each has to show that it
has read all of it: how many lines, or lines of some kind, it says it found is held against how many there are.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import maillogs
import processes

SIZE = 10**9  # bytes of the log, times the scale
PEOPLE = 5_000
POLL = 0.05  # seconds between two looks at the memory
LONGEST = 3600.0  # seconds for one reading

PERSON = {"key": "sasl_username", "limits": [[60, "1h"], [300, "1d"]]}
ONE_RULE = {"rules": {"person": PERSON}}
THREE_RULES = {
    "rules": {
        "person": PERSON,
        "domain": {"key": "sasl_domain", "limits": [[20_000, "1h"]]},
        "server": {"key": "server", "limits": [[1_000, "1m"], [30_000, "1h"]]},
    }
}


class Log(NamedTuple):
    """The log, the same compressed, and how many lines are in it, and how many of them tell of a SASL user, of a
    refusal, of a mail that came in from outside or from this host.
    """

    plain: pathlib.Path
    packed: pathlib.Path
    lines: int
    users: int
    refusals: int
    mails: int


class Reader(NamedTuple):
    """A program that reads a log.

    ``command``: with ``{log}``, ``{packed}``, ``{home}``, where the configurations lie, and the places of programs.
    ``told``: how many lines its output says it found. ``expected``: how many there are.
    ``statuses``: with which it may end.
    """

    key: str
    name: str
    command: tuple[str, ...]
    told: Callable[[str], int]
    expected: Callable[[Log], int]
    statuses: tuple[int, ...] = (0,)


def _lines(log: Log) -> int:
    return log.lines


def _read(output: str) -> int:
    return int(json.loads(output)["log"]["lines"])


def _rejected(output: str) -> int:
    found = re.search(r"^\s*(\d+)\s+rejected \(", output, re.MULTILINE)
    if found is None:
        raise ValueError("expected a line that says how many were rejected")
    return int(found[1])


def _last(output: str) -> int:
    return int(output.split()[-1])


def _first(output: str) -> int:
    return int(output.split()[0])


def _simulate(rules: int) -> Reader:
    command = ("{ours}", "-f", f"{{home}}/rules-{rules}.yaml", "simulate", "--stage", "rcpt", "--zone", "UTC", "--json")
    refused = 1  # the status where somebody is refused who was not in the past
    name = f"`simulate`, {rules} rule{'s' * (rules > 1)}"
    return Reader(f"simulate-{rules}", name, (*command, "{log}"), _read, _lines, statuses=(0, refused))


THREE = _simulate(3)
SUGGEST = Reader(
    "suggest",
    "`suggest`",
    ("{ours}", "-f", "{home}/rules-1.yaml", "suggest", "--zone", "UTC", "--json", "{log}"),
    _read,
    _lines,
)
PFLOGSUMM = Reader(
    "pflogsumm",
    "`pflogsumm --detail 10`",
    ("perl", "{pflogsumm}", "--detail", "10", "{log}"),
    _rejected,
    lambda log: log.refusals,
)
LNAV = Reader(
    "lnav",
    "`lnav -n`, which counts the lines by SQL",
    ("{lnav}", "-n", "-c", ";SELECT count(*) FROM syslog_log", "-c", ":write-csv-to -", "{log}"),
    _last,
    _lines,
)
ZGREP = Reader(
    "zgrep",
    "`zgrep -c sasl_username` on the same, compressed",
    ("zgrep", "-c", "sasl_username", "{packed}"),
    _last,
    lambda log: log.users,
)
WC = Reader("wc", "`wc -l`", ("wc", "-l", "{log}"), _first, _lines)
READERS = (THREE, _simulate(1), SUGGEST, PFLOGSUMM, LNAV, ZGREP, WC)
PEERS = (PFLOGSUMM, LNAV, ZGREP)
NAMES = {one.key: one.name for one in READERS}


class Used(NamedTuple):
    """What a program took: ``seconds`` by the clock, ``cpu_seconds``, and at the most ``memory_mb``."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


def watched(
    command: Sequence[str], output: pathlib.Path, environment: Mapping[str, str], core: int
) -> tuple[int, Used]:
    """Run ``command`` on one core, its standard output to ``output``; its exit status, and what it took.

    Memory is what its processes have had resident at one time: their VmHWM (proc(5)), looked at again and again, since
    what wait4(2) tells of a child counts what this process had before the child became another program.
    """
    with output.open("wb") as out, output.with_suffix(".errors").open("wb") as errors:
        begin = time.monotonic()
        child = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=environment,
        )
        memory = 0.0
        try:
            while True:
                ended, status, usage = os.wait4(child.pid, os.WNOHANG)
                if ended:
                    break
                memory = max(memory, processes.peak_memory(processes.tree([child.pid])))
                if time.monotonic() - begin > LONGEST:
                    child.kill()
                time.sleep(POLL)
        except BaseException:
            child.kill()
            raise
        seconds = time.monotonic() - begin
    child.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    return child.returncode, Used(seconds, usage.ru_utime + usage.ru_stime, memory)


def write_rules(directory: pathlib.Path) -> None:
    """Write the configurations, by number of rules, into ``directory``."""
    for rules, settings in ((1, ONE_RULE), (3, THREE_RULES)):
        (directory / f"rules-{rules}.yaml").write_text(json.dumps(settings), encoding="utf-8")  # which is YAML as well


def make_log(directory: pathlib.Path, size: int) -> Log:
    """Write a log of some ``size`` bytes, and the same compressed, into ``directory``."""
    plain = directory / "mail.log"
    with plain.open("wb") as file:
        lines = maillogs.write(file, size, "syslog", users=PEOPLE)
    with plain.open("rb") as file:
        users = refusals = mails = 0
        for line in file:
            users += b"sasl_username" in line
            refusals += b": reject: " in line
            # What a content filter gives back came in before.
            mails += (b": client=" in line and b"=localhost[" not in line) or b": uid=" in line
    subprocess.run(["gzip", "--keep", str(plain)], check=True)
    return Log(plain, plain.with_name(f"{plain.name}.gz"), lines, users, refusals, mails)


def measure(reader: Reader, log: Log, home: pathlib.Path, places: Mapping[str, str], core: int) -> dict[str, Any]:
    """What ``reader`` takes for ``log``; ValueError where it has not read all of it."""
    found = {**places, "home": str(home), "log": str(log.plain), "packed": str(log.packed)}
    environment = {**os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    for name in ("PERL5LIB", "LD_LIBRARY_PATH"):
        # Perl has no use for more of it; ours is to run with the libraries that it has anywhere else.
        if reader in (PFLOGSUMM, LNAV) and places.get(name):
            environment[name] = places[name]
    output = home / reader.key
    status, used = watched([part.format(**found) for part in reader.command], output, environment, core)
    errors = output.with_suffix(".errors").read_text(encoding="utf-8", errors="replace").strip()
    if status not in reader.statuses:
        raise ValueError(f"ended with {status}: {errors[-500:]}")
    told, expected = reader.told(output.read_text(encoding="utf-8", errors="replace")), reader.expected(log)
    if told != expected:
        raise ValueError(f"expected {expected} lines found, got {told}: {errors[-500:]}")
    return {"reader": reader.key, **used._asdict()}


def run(directory: pathlib.Path, places: Mapping[str, str], *, rounds: int, scale: float) -> dict[str, Any]:
    """All readers in turns; ``log`` tells what they read, ``measurements`` what each took, by ``round``."""
    write_rules(directory)
    log = make_log(directory, int(SIZE * scale))
    core = max(os.sched_getaffinity(0))
    about = {"bytes": log.plain.stat().st_size, "lines": log.lines, "mails": log.mails, "people": PEOPLE}
    found: dict[str, Any] = {"log": about, "measurements": [], "failed": []}
    for number in range(rounds):
        for reader in READERS:
            try:
                one = measure(reader, log, directory, places, core)
            except (ValueError, LookupError, OSError) as error:
                found["failed"].append({"contender": reader.key, "round": number, "why": str(error)})
                continue
            print(f"{reader.key}: {one['seconds']:.1f} s, {one['memory_mb']:.0f} MB", file=sys.stderr)
            found["measurements"].append({"round": number, **one})
    return found
