"""How long answers of the daemon take beside the web page: without it, with it, and while it is attacked.

    python bench/web_attack.py [--rounds 5] [--seconds 3]

One client asks 200 times a second, in rounds that are interleaved. The page runs as its unit has it (nice 10), on the
database of the daemon; who attacks it is nicer still, as they would be on another host: wrong passwords, wrong tokens,
pages without a login, and connections that say nothing. Prints percentiles in ms, and those of 99 of 100 as a ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from support.daemon import Client, Daemon
from support.web_process import NAME, WebProcess

PER_SECOND = 200
SILENT = 1_000
NICE_OF_THE_UNIT, NICE_OF_ATTACKERS = 10, 19
PHASES = ("without", "beside", "attacked")
FORM = b"name=anna&password=a+wrong+password"
REQUESTS = (
    b"POST /login HTTP/1.1\r\nhost: %s\r\norigin: https://%s\r\nx-forwarded-for: 192.0.2.%d\r\n"
    b"content-type: application/x-www-form-urlencoded\r\ncontent-length: %d\r\n\r\n",
    b"GET /api/v1/status/alice HTTP/1.1\r\nhost: %s\r\nauthorization: Bearer wrong\r\n\r\n",
    b"GET /login HTTP/1.1\r\nhost: %s\r\n\r\n",
)


def attack(path: str) -> None:
    """Ask for all of it, again and again, until the process is ended."""
    os.nice(NICE_OF_ATTACKERS)
    name, number = NAME.encode(), 0
    silent: list[socket.socket] = []
    while True:
        number += 1
        head, wrong, page = REQUESTS
        for request in (
            head % (name, name, number % 250, len(FORM)) + FORM,
            wrong % name,
            page % name,
            b"GET / HT",
        ):
            one = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(OSError):
                one.settimeout(5)
                one.connect(path)
                one.sendall(request)
                if request.endswith(b"HT"):
                    silent.append(one)
                    continue
                one.recv(65536)
            one.close()
        while len(silent) > SILENT:
            silent.pop(0).close()


@contextlib.contextmanager
def attacked(path: str) -> Iterator[None]:
    """While this lasts, two others attack the page."""
    command = [sys.executable, __file__, "--attack", path]
    others = [subprocess.Popen(command) for _ in range(2)]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()


def ask(client: Client, seconds: float, user: int) -> list[float]:
    """How long each answer took, in ms."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        client.ask(
            protocol_state="RCPT",
            sasl_username=f"user{user}-{len(found) % 50}",
            recipient="b@example.org",
            instance=f"{user}.{len(found)}",
        )
        found.append(1000 * (time.perf_counter() - began))
        time.sleep(max(0.0, 1 / PER_SECOND - (time.perf_counter() - began)))
    return found


def measure(rounds: int, seconds: float) -> dict[str, list[list[float]]]:
    """By phase, what each round has taken."""
    found: dict[str, list[list[float]]] = {phase: [] for phase in PHASES}
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        with Daemon(directory / "daemon", limits=[[1_000_000, 3600]]) as daemon:
            database = daemon.settings["sqlite_config"]
            for number in range(rounds):
                with Client(daemon.address) as client:
                    ask(client, 0.3, 0)
                    found["without"].append(ask(client, seconds, 3 * number))
                    web = WebProcess(directory / "web", sqlite_config=database, limits=[[1_000_000, 3600]])
                    web.prefix = ("nice", "-n", str(NICE_OF_THE_UNIT))
                    with web:
                        found["beside"].append(ask(client, seconds, 3 * number + 1))
                        with attacked(str(web.address)):
                            time.sleep(0.5)
                            found["attacked"].append(ask(client, seconds, 3 * number + 2))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--attack", metavar="PATH")
    options = parser.parse_args(arguments)
    if options.attack:
        attack(options.attack)
        return
    found = measure(options.rounds, options.seconds)
    percentiles = {phase: [statistics.quantiles(one, n=100) for one in found[phase]] for phase in PHASES}
    for phase in PHASES:
        median = {f"p{n}": round(statistics.median(one[n - 1] for one in percentiles[phase]), 3) for n in (50, 90, 99)}
        ratios = [one[98] / base[98] for one, base in zip(percentiles[phase], percentiles["without"], strict=True)]
        print(json.dumps({"phase": phase, **median, "ratio of p99": round(statistics.median(ratios), 2)}))


if __name__ == "__main__":
    main()
