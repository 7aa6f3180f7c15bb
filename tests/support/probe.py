"""A well-behaved client in a process of its own, so that what the test does beside it does not slow it down.

    python -m support.probe HOST PORT REQUESTS PAUSE

Asks REQUESTS times over one connection, PAUSE seconds apart, and prints the seconds that each answer took as
JSON. Any answer but success, and any error, ends it with a traceback.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

from support.daemon import Client, mail

TESTS = pathlib.Path(__file__).resolve().parent.parent


class Calm(NamedTuple):
    """What the well-behaved client saw: the 99th percentile and the worst, in seconds."""

    p99: float
    worst: float


class Probe:
    """The client, started at once; :meth:`result` waits for its end."""

    def __init__(self, address: str | tuple[str, int], requests: int = 300, pause: float = 0.005) -> None:
        assert not isinstance(address, str)
        self._requests = requests
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.probe", *map(str, address), str(requests), str(pause)],
            stdout=subprocess.PIPE,
            cwd=TESTS,
        )

    def running(self) -> bool:
        """Whether it still asks."""
        return self._process.poll() is None

    def result(self) -> Calm:
        """What it saw; AssertionError when one request was not answered with success."""
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, "the well-behaved client saw an error"
        seconds = sorted(json.loads(output))
        assert len(seconds) == self._requests
        return Calm(seconds[int(len(seconds) * 0.99)], seconds[-1])


def main(host: str, port: str, requests: str, pause: str) -> None:
    """Ask and print."""
    seconds = []
    with Client((host, int(port))) as client:
        for _ in range(int(requests)):
            began = time.perf_counter()
            action = client.ask(**mail("well-behaved"))
            seconds.append(time.perf_counter() - began)
            assert action == "dunno", action
            time.sleep(float(pause))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
