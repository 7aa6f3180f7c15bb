"""The servers that are measured, how each is started and filled, and one measurement of one of them.

A contender that joins is one more row of :data:`CONTENDERS`. All that serve SQLite or a database server read the same
configuration, at full durability, ``debug`` off.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

import peers
import processes
import servers
from support.daemon import free_port

HERE = pathlib.Path(__file__).resolve().parent
READY_SECONDS = 120.0
STOP_SECONDS = 30.0
STUCK_SECONDS = 20.0
REST_SECONDS, REST_STEP, REST_CPU = 30.0, 0.3, 0.02  # a server that needs no more CPU than that in a step is at rest
PATIENCE_FACTOR = 15  # what gave no answer in the time of a measurement is watched so much longer
SUCCESS = "dunno"
REFUSAL = "defer_if_permit Rate limit reach, retry later"
SHARE_OF_WINDOW = 0.9  # what is filled shall still be there when it is measured
SPENT_IDS = 1_000  # users who have nothing left, see load.c
SHORT_LIMIT, LONG_LIMIT = (100_000, 60), (1_000_000, 86_400)
# Nobody reaches these at any speed that was ever measured; who is refused was filled to the brim.
LIMITS = [list(SHORT_LIMIT), list(LONG_LIMIT)]

# What a 1.2.0 needs in its file to run; it is ours, too.
SETTINGS: dict[str, Any] = {
    "debug": False,
    "user": "root",
    "group": "root",
    "backend": 0,
    "socket_permission": 0o666,
    "limits": LIMITS,
    "limits_by_id": {},
    "sql_limits_by_id": "",
    "limit_by_sasl": True,
    "limit_by_sender": False,
    "limit_by_ip": False,
    "limited_networks": [],
    "success_action": SUCCESS,
    "fail_action": REFUSAL,
    # A server that is away must not look fast: the load expects another answer than this one.
    "db_error_action": "defer_if_permit the database is away",
    "count_mode": 0,
    "delay_to_close": 3_600,
    "report": False,
    "report_limits": [86_400],
    "report_only_if_needed": True,
    "smtp_server": ["localhost", 25],
}

# The same limits; users who have nothing left had one mail. The options are those of Debian's /etc/default/postfwd.
POSTFWD_RULES = f"""\
id=SPENT ; sasl_username=~^over ; action=rate(sasl_username/1/86400/{REFUSAL})
id=SHORT ; sasl_username=~^user ; action=rate(sasl_username/{SHORT_LIMIT[0]}/{SHORT_LIMIT[1]}/{REFUSAL})
id=LONG ; sasl_username=~^user ; action=rate(sasl_username/{LONG_LIMIT[0]}/{LONG_LIMIT[1]}/{REFUSAL})
"""


class Fill(NamedTuple):
    """What a store holds before it is asked: ``ids`` with one mail each, spread over the longest window.

    ``spent`` users have nothing left. ``hot``: more users, with as many mails each.
    """

    ids: int = 0
    spent: int = SPENT_IDS
    hot: Mapping[str, int] = MappingProxyType({})


class Contender(NamedTuple):
    """A server to ask.

    ``command`` may name ``{ours}``, ``{our_python}``, ``{peer}``, ``{postfwd}``, ``{bin}``, ``{python}``, ``{here}``,
    ``{directory}``, ``{config}`` and ``{port}``. ``database`` is what it keeps its counts in, ``fill`` fills that.
    ``refusal``: what it answers to who has nothing left. ``forks``: it goes into the background.
    """

    key: str
    name: str
    command: tuple[str, ...]
    fill: Callable[[Contestant, Fill], None]
    database: servers.Database = servers.sqlite
    success: str = SUCCESS
    refusal: str = REFUSAL
    forks: bool = False


class Contestant:
    """A contender in a directory of its own, with its database; started and stopped as often as one likes."""

    def __init__(
        self,
        contender: Contender,
        directory: pathlib.Path,
        places: dict[str, str],
        settings: dict[str, Any],
        server: servers.Server,
    ) -> None:
        self.contender = contender
        self.directory = directory
        self.port = free_port()
        self.server = server
        self.config = directory / "policyd-rate-limit.yaml"
        self.database = directory / "db.sqlite3"
        self.pidfile = directory / "pid"
        self.settings = {
            **SETTINGS,
            "pidfile": str(self.pidfile),
            "sqlite_config": {"database": str(self.database)},
            "SOCKET": ["127.0.0.1", self.port],
            **settings,
            **server.settings,
        }
        self.config.write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        self.places = {
            **places,
            "directory": str(directory),
            "config": str(self.config),
            "pidfile": str(self.pidfile),
            "port": str(self.port),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> pathlib.Path:
        """What it said."""
        return self.directory / "log"

    @property
    def command(self) -> list[str]:
        """What starts it."""
        return [part.format_map(self.places) for part in self.contender.command]

    def fill(self, fill: Fill) -> None:
        """Fill its store, while it does not run; return when nobody is busy with that any more."""
        self.contender.fill(self, fill)
        os.sync()
        end = time.monotonic() + REST_SECONDS
        before = -math.inf
        # A server vacuums, or rewrites its log, and that is not what a request costs.
        while time.monotonic() < end and (used := processes.cpu_seconds(self.database_processes())) > before + REST_CPU:
            before = used
            time.sleep(REST_STEP)

    def start(self) -> Contestant:
        """Start it; return when it accepts connections. SystemExit with what it said when it does not."""
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output, cwd=self.directory)
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            if not self.contender.forks and self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise SystemExit(f"{self.contender.name} does not start\n{self.log.read_text(errors='replace')[-4000:]}")

    def ask(self, user: str = "user0000000") -> str:
        """The answer to one request of ``user``."""
        with socket.create_connection(("127.0.0.1", self.port), READY_SECONDS) as connection:
            connection.sendall(
                f"request=smtpd_access_policy\nprotocol_state=RCPT\nsasl_username={user}\nsender={user}@example.org\n"
                f"recipient=someone@example.net\ninstance={time.monotonic_ns():x}\n\n".encode()
            )
            answer = b""
            while not answer.endswith(b"\n\n"):
                received = connection.recv(4096)
                if not received:
                    raise SystemExit(f"{self.contender.name} closes the connection")
                answer += received
            return answer[len("action=") : -2].decode()

    def stop(self) -> None:
        """End it, if it runs."""
        running = self.processes()
        if self.process is not None and not self.contender.forks:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        processes.end(running, signal.SIGTERM, STOP_SECONDS)
        self.process = None

    def processes(self) -> list[int]:
        """The processes of the policy server."""
        if self.process is None:
            return []
        if self.contender.forks:
            with contextlib.suppress(OSError, ValueError):
                return processes.tree([int(self.pidfile.read_text())])
        return processes.tree([self.process.pid])

    def database_processes(self) -> list[int]:
        """The processes of its database server, if it has one."""
        return [] if self.server.process is None else processes.tree([self.server.process])


@contextlib.contextmanager
def prepared(
    contender: Contender, directory: pathlib.Path, places: dict[str, str], settings: dict[str, Any] | None = None
) -> Iterator[Contestant]:
    """The contender with an empty database below ``directory``; stopped at the end of the ``with`` block."""
    directory.mkdir(parents=True)
    directory.chmod(0o755)  # database servers run as accounts of their own
    with contender.database(directory / "server") as server:
        contestant = Contestant(contender, directory, places, settings or {}, server)
        try:
            yield contestant
        finally:
            contestant.stop()


class Load(NamedTuple):
    """What the generator asks; :data:`BASE` and what differs from it."""

    key: str
    name: str
    connections: int = 50
    ids: int = 1_000_000
    spent: float = 0.0
    zipf: float = 0.0
    small: bool = False
    prefix: str = "user"
    suffix: str = ""
    domains: int = 0

    def options(self, contender: Contender) -> list[str]:
        """As load.c takes them; what is answered is checked."""
        options = {
            "connections": self.connections,
            "ids": self.ids,
            "spent": self.spent,
            "spent-ids": SPENT_IDS,
            "zipf": self.zipf,
            "prefix": self.prefix,
            "suffix": self.suffix,
            "domains": self.domains,
            "allow": contender.success,
            "refuse": contender.refusal,
        }
        return [f"--{name}={value}" for name, value in options.items()] + ["--small"] * self.small


def measure(
    contestant: Contestant, load: Load, places: dict[str, str], seconds: float, warm_up: float, seed: int
) -> dict[str, Any]:
    """One measurement of one contestant, as JSON has it. RuntimeError when one answer was not as expected.

    CPU times are those of the policy server and of its database server, in microseconds per request.
    """
    watched = {"cpu_us": contestant.processes(), "database_cpu_us": contestant.database_processes()}
    begin = {name: processes.cpu_seconds(group) for name, group in watched.items()}
    requests = 0
    for length in (seconds, PATIENCE_FACTOR * seconds):
        told = _generate(contestant, load, places, length, warm_up, seed)
        # The warm-up is in the CPU time, so its requests have to be as well.
        requests += told["asked"]
        if told["requests"]:
            break
    else:
        raise RuntimeError(f"not one answer in {length:g} s")
    used = {
        name: 1e6 * (processes.cpu_seconds(group) - begin[name]) / requests if group else None
        for name, group in watched.items()
    }
    return {
        "per_second": told["per_second"],
        **told["latency_ms"],
        **used,
        "generator_cpu": told["cpu"],
        "generator_cpu_us": 1e6 * told["cpu"] / told["per_second"],
        "memory_mb": processes.peak_memory(contestant.processes()),
        "database_memory_mb": processes.peak_memory(contestant.database_processes()) or None,
    }


def _generate(
    contestant: Contestant, load: Load, places: dict[str, str], seconds: float, warm_up: float, seed: int
) -> dict[str, Any]:
    """What load.c tells."""
    generator = [
        *(places["load"], f"--tcp=127.0.0.1:{contestant.port}", f"--seconds={seconds}"),
        *(f"--warm-up={warm_up}", f"--seed={seed}", *load.options(contestant.contender)),
    ]
    try:
        done = subprocess.run(generator, capture_output=True, timeout=seconds + warm_up + STUCK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError("it does not take all connections") from None
    if done.returncode:
        raise RuntimeError(f"not every answer was as expected: {(done.stdout + done.stderr).decode(errors='replace')}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def fill_nothing(_: Contestant, __: Fill) -> None:
    """A server that keeps nothing."""


def fill_ours(contestant: Contestant, fill: Fill) -> None:
    """Through the store itself, as records of other daemons."""
    sizes = (f"--ids={fill.ids}", f"--spent={fill.spent}", "--hot=/dev/stdin")
    subprocess.run(
        [sys.executable, str(HERE / "fill.py"), *sizes, str(contestant.config)],
        input=json.dumps(dict(fill.hot)).encode(),
        check=True,
    )


def fill_1_2_0(contestant: Contestant, fill: Fill) -> None:
    """Into the table that 1.2.0 has made, rows as it writes them."""
    contestant.start()
    contestant.ask()
    contestant.stop()
    most, seconds = max(contestant.settings["limits"], key=lambda limit: limit[1])
    window = SHARE_OF_WINDOW * seconds
    with contextlib.closing(sqlite3.connect(contestant.database)) as connection, connection:
        now = int(time.time())

        def insert(users: Iterator[tuple[str, float, int]]) -> None:
            connection.executemany(
                "INSERT INTO mail_count (id, date, recipient_count, instance, protocol_state)"
                " VALUES (?, ?, ?, 'bench', 'RCPT')",
                ((user, int(now - ago), count) for user, ago, count in users),
            )

        insert((f"user{n:07d}", window * (1 - n / fill.ids), 1) for n in range(fill.ids))
        insert((f"over{n:07d}", 0, most) for n in range(fill.spent))
        for user, mails in fill.hot.items():
            insert((user, window * (1 - n / mails), 1) for n in range(mails))


def fill_postfwd(contestant: Contestant, _: Fill) -> None:
    """Its rules; what it counts is in its memory alone, so that it begins empty."""
    (contestant.directory / "postfwd.cf").write_text(POSTFWD_RULES)


_PYTHON_FLOOR = ("{python}", "{here}/floor.py")
_ADDRESS = ("127.0.0.1", "{port}")
_OURS = ("{ours}", "-f", "{config}")

FLOOR_C = Contender("floor-c", "floor in C", ("{bin}/floor", "{port}"), fill_nothing, refusal=SUCCESS)
FLOOR = Contender("floor", "floor", (*_PYTHON_FLOOR, *_ADDRESS), fill_nothing, refusal=SUCCESS)
DURABLE_FLOOR = Contender(
    "durable-floor",
    "durable floor",
    (*_PYTHON_FLOOR, "--durable", "{directory}/answers", *_ADDRESS),
    fill_nothing,
    refusal=SUCCESS,
)
SQLITE = Contender("sqlite", "SQLite", _OURS, fill_ours)
POSTGRESQL = Contender("postgresql", "PostgreSQL", _OURS, fill_ours, servers.postgresql)
MARIADB = Contender("mariadb", "MariaDB", _OURS, fill_ours, servers.mariadb)
REDIS = Contender("redis", "Redis", _OURS, fill_ours, servers.redis)
VERSION_1_2_0 = Contender("1.2.0", "version 1.2.0, SQLite", ("{peer}", "-f", "{config}"), fill_1_2_0)


POSTFWD = Contender(
    "postfwd",
    "postfwd 1.35",
    (
        *("perl", "-T", "-I{postfwd}/usr/share/perl5", "{postfwd}/usr/sbin/postfwd1", "--daemon"),
        *("--cache=600", "--cache-rdomain-only", "--cache-no-size", "--summary=600"),
        *("--file={directory}/postfwd.cf", "--interface=127.0.0.1", "--port={port}", "--pidfile={pidfile}"),
        *("--user=nobody", "--group=nogroup"),
    ),
    fill_postfwd,
    success="DUNNO",
    forks=True,
)

FLOORS = (FLOOR_C, FLOOR, DURABLE_FLOOR)
OURS = (SQLITE, POSTGRESQL, MARIADB, REDIS)
PEERS = (VERSION_1_2_0, POSTFWD)
CONTENDERS = (*FLOORS, *OURS, *PEERS)


def spend(contestant: Contestant, places: dict[str, str]) -> None:
    """Have the users of a postfwd that have nothing left send the one mail that they may."""
    if contestant.contender is POSTFWD:
        subprocess.run(
            [
                *(places["load"], f"--tcp=127.0.0.1:{contestant.port}", "--warm-up=0", "--seconds=6", "--spent=1"),
                *(f"--spent-ids={SPENT_IDS}", "--allow=DUNNO", "--refuse=DUNNO", f"--refuse={REFUSAL}"),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )


def find_places(directory: pathlib.Path, wanted: Sequence[Contender], *, ours: str, peer: str | None) -> dict[str, str]:
    """Build and install what ``wanted`` need below ``directory``; what commands may name."""
    places = {
        "ours": str(pathlib.Path(ours).absolute()),
        "our_python": str(pathlib.Path(ours).absolute().parent / "python"),
        "python": sys.executable,
        "here": str(HERE),
        "bin": str(directory / "bin"),
        "load": str(peers.build(directory / "bin", "load.c", "-lm")),
    }
    peers.build(directory / "bin", "floor.c")
    if VERSION_1_2_0 in wanted:
        places["peer"] = str(pathlib.Path(peer).absolute() if peer else peers.install_1_2_0(directory))
    if POSTFWD in wanted:
        places["postfwd"] = str(peers.install_postfwd(directory))
    return places
