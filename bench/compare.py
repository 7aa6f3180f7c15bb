"""Requests per second and latency of this daemon beside 1.2.0 and beside what the machine allows.

    python bench/compare.py --peer /path/to/1.2.0/bin/policyd-rate-limit

Without ``--peer`` version 1.2.0 is installed with pip into an environment of its own under a temporary
directory.

Every contender starts anew for every round, with a database of its own; the rounds interleave, so that a
machine that slows down slows all of them. Both versions read the same configuration file: SQLite at its
default durability, ``debug`` off. Ours is asked on PostgreSQL, MariaDB and Redis as well, which start and stop with
it and have on disk what they have committed; where one is not installed, ``--only`` chooses the others. The table
shows the median of the rounds, the slowest and the fastest of them, and the median of the ratios within each round.

Contenders and loads are the two tables below; a new one of either is one more line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import yaml

import servers

HERE = pathlib.Path(__file__).resolve().parent
READY_SECONDS = 30.0
STOP_SECONDS = 30.0
PEER = "policyd-rate-limit==1.2.0"


class Contender(NamedTuple):
    """A server to ask.

    ``command`` may name ``{ours}``, ``{peer}``, ``{python}``, ``{here}``, ``{directory}``, ``{config}`` and
    ``{port}``. ``database`` is what it keeps its counts in.
    """

    name: str
    command: tuple[str, ...]
    database: servers.Database = servers.sqlite


class Load(NamedTuple):
    """What the generator does, as its own options, and the settings under which it does it."""

    name: str
    options: tuple[str, ...]
    settings: dict[str, Any]


FLOOR = Contender("answers without looking", ("{python}", "{here}/floor.py", "127.0.0.1", "{port}"))
DURABLE_FLOOR = Contender(
    "the same, each batch on disk first",
    ("{python}", "{here}/floor.py", "--durable", "{directory}/answers", "127.0.0.1", "{port}"),
)
OURS = Contender("policyd-rate-limit", ("{ours}", "-f", "{config}"))
PEER_1_2_0 = Contender("policyd-rate-limit 1.2.0", ("{peer}", "-f", "{config}"))
OURS_ON_SERVERS = tuple(
    Contender(f"policyd-rate-limit on {name}", OURS.command, database)
    for name, database in (
        ("PostgreSQL", servers.postgresql),
        ("MariaDB", servers.mariadb),
        ("Redis", servers.redis),
    )
)
CONTENDERS = (FLOOR, DURABLE_FLOOR, OURS, *OURS_ON_SERVERS, PEER_1_2_0)

LOADS = (
    Load(
        "50 connections, 100,000 ids, every mail admitted, requests as Postfix 3.7 sends them",
        ("--connections", "50", "--ids", "100000", "--state", "RCPT", "--allow", "dunno"),
        {"limits": [[10_000, 60], [100_000, 86400]]},
    ),
    Load(
        "50 connections, 1,000,000 ids, every mail admitted, requests as Postfix 3.7 sends them",
        ("--connections", "50", "--ids", "1000000", "--state", "RCPT", "--allow", "dunno"),
        {"limits": [[10_000, 60], [100_000, 86400]]},
    ),
)

# What a 1.2.0 needs in its file to run; it is ours, too.
COMMON_SETTINGS: dict[str, Any] = {
    "debug": False,
    "user": "root",
    "group": "root",
    "backend": 0,
    "socket_permission": 0o666,
    "limits_by_id": {},
    "sql_limits_by_id": "",
    "limit_by_sasl": True,
    "limit_by_sender": False,
    "limit_by_ip": False,
    "limited_networks": [],
    "success_action": "dunno",
    "fail_action": "defer_if_permit Rate limit reach, retry later",
    "db_error_action": "dunno",
    "count_mode": 0,
    "delay_to_close": 300,
    "report": False,
    "report_limits": [86400],
    "report_only_if_needed": True,
    "smtp_server": ["localhost", 25],
}


class Round(NamedTuple):
    """One measurement: requests per second, milliseconds by percentile, the generator's share of a core."""

    per_second: float
    latency: dict[str, float]
    generator: float


def build_generator(directory: pathlib.Path) -> pathlib.Path:
    """Compile ``load.c`` into ``directory``."""
    program = directory / "load"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "load.c"), "-lm"], check=True)
    return program


def install_peer(directory: pathlib.Path) -> pathlib.Path:
    """Version 1.2.0 in a virtual environment of its own below ``directory``; its command."""
    home = directory / "peer"
    venv.create(home, with_pip=True)
    subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", PEER], check=True)
    return home / "bin" / "policyd-rate-limit"


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when somebody listens on ``port``; SystemExit when ``server`` ends before or takes too long."""
    end = time.monotonic() + READY_SECONDS
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    raise SystemExit("it does not start")


@contextlib.contextmanager
def serving(contender: Contender, load: Load, directory: pathlib.Path, names: dict[str, str]) -> Iterator[int]:
    """The contender, ready, with an empty database in ``directory``; the port that it listens on."""
    with contender.database(directory / "server") as settings:
        yield from _serving(contender, {**load.settings, **settings}, directory, names)


def _serving(
    contender: Contender, settings: dict[str, Any], directory: pathlib.Path, names: dict[str, str]
) -> Iterator[int]:
    port = free_port()
    config = directory / "policyd-rate-limit.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                **COMMON_SETTINGS,
                "pidfile": str(directory / "policyd-rate-limit.pid"),
                "sqlite_config": {"database": str(directory / "db.sqlite3")},
                "SOCKET": ["127.0.0.1", port],
                **settings,
            }
        ),
        encoding="utf-8",
    )
    places = {**names, "directory": str(directory), "config": str(config), "port": str(port)}
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [part.format_map(places) for part in contender.command],
            stdout=output,
            stderr=output,
            cwd=directory,
        )
    try:
        wait_until_ready(server, port)
        yield port
    except SystemExit as failure:
        raise SystemExit(f"{contender.name}: {failure}\n{log.read_text(errors='replace')[-4000:]}") from None
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def measure(generator: pathlib.Path, load: Load, port: int, seconds: float, warm_up: float, seed: int) -> Round:
    """One round of the load against ``port``; SystemExit when one answer was not as expected."""
    done = subprocess.run(
        [
            *(str(generator), "--tcp", f"127.0.0.1:{port}", "--seconds", str(seconds)),
            *("--warm-up", str(warm_up), "--seed", str(seed), *load.options),
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"not every answer was as expected: {done.stdout.decode(errors='replace')}")
    result = json.loads(done.stdout)
    return Round(result["per_second"], result["latency_ms"], result["cpu"])


def machine(directory: pathlib.Path) -> str:
    """What this ran on, and what 4 KB to disk cost where the databases lie, in milliseconds (median)."""
    costs = []
    with (directory / "probe").open("wb", buffering=0) as probe:
        for _ in range(200):
            begin = time.perf_counter()
            probe.write(bytes(4096))
            os.fdatasync(probe.fileno())
            costs.append(time.perf_counter() - begin)
    return (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"fdatasync of 4 KB: {statistics.median(costs) * 1000:.2f} ms"
    )


def table(results: dict[str, list[Round]]) -> str:
    """The results by contender's name as text: one line per contender."""
    speeds = {name: [one.per_second for one in rounds] for name, rounds in results.items()}
    columns: list[tuple[str, Callable[[str], str]]] = [
        ("", lambda name: name),
        ("requests/s", lambda name: f"{statistics.median(speeds[name]):,.0f}"),
        ("slowest", lambda name: f"{min(speeds[name]):,.0f}"),
        ("fastest", lambda name: f"{max(speeds[name]):,.0f}"),
    ]

    def latency(percentile: str) -> Callable[[str], str]:
        return lambda name: f"{statistics.median(one.latency[percentile] for one in results[name]):.2f}"

    def ratio(name: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[name], speeds[base], strict=True))

    columns += [(f"{percentile} ms", latency(percentile)) for percentile in ("p50", "p99", "p99.9", "max")]
    columns.append(("generator", lambda name: f"{statistics.median(one.generator for one in results[name]):.0%}"))
    if PEER_1_2_0.name in results:
        columns.append(("x 1.2.0", lambda name: f"{ratio(name, PEER_1_2_0.name):.1f}"))
    if DURABLE_FLOOR.name in results:
        columns.append(("of durable floor", lambda name: f"{ratio(name, DURABLE_FLOOR.name):.0%}"))
    lines = [[head for head, _ in columns], *([cell(name) for _, cell in columns] for name in results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every contender under every load and print the tables."""
    parser = argparse.ArgumentParser(description="Requests per second beside 1.2.0 and the machine's floors.")
    parser.add_argument("--peer", metavar="COMMAND", help="policyd-rate-limit 1.2.0; else pip installs it")
    parser.add_argument(
        "--ours", metavar="COMMAND", default=str(pathlib.Path(sys.executable).parent / "policyd-rate-limit")
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before it that do not count")
    parser.add_argument("--directory", help="where the databases lie: a real disk, or durability is free")
    parser.add_argument("--only", action="append", metavar="NAME", help="contenders with this in their name")
    parser.add_argument("--load", action="append", metavar="TEXT", help="loads with this in their description")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="also write every round to FILE")
    options = parser.parse_args(arguments)

    kept: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory(prefix="policyd-bench-", dir=options.directory) as name:
        home = pathlib.Path(name)
        home.chmod(0o755)  # the servers run as accounts of their own
        wanted = options.only or [""]
        contenders = [one for one in CONTENDERS if any(part in one.name for part in wanted)]
        peer = options.peer
        if not peer and PEER_1_2_0 in contenders:
            peer = str(install_peer(home))
        names = {"ours": options.ours, "peer": peer, "python": sys.executable, "here": str(HERE)}
        generator = build_generator(home)
        print(machine(home), flush=True)
        loads = [one for one in LOADS if any(part in one.name for part in options.load or [""])]
        for load in loads:
            results: dict[str, list[Round]] = {one.name: [] for one in contenders}
            for number in range(1, options.rounds + 1):
                for contender in contenders:
                    directory = home / "round"
                    directory.mkdir()
                    with serving(contender, load, directory, names) as port:
                        one = measure(generator, load, port, options.seconds, options.warm_up, number)
                    shutil.rmtree(directory)
                    results[contender.name].append(one)
                    print(f"round {number}: {one.per_second:,.0f}/s {contender.name}", file=sys.stderr)
            print(f"\n{load.name}; {options.rounds} rounds of {options.seconds:g} s\n\n{table(results)}")
            kept[load.name] = {contender: [one._asdict() for one in rounds] for contender, rounds in results.items()}
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
