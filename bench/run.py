"""The benchmark: measure what is wanted, write it to bench/results, and make docs/benchmark.md of what is there.

    python bench/run.py [--part loads] [--part postfix] [--part growth] [--only sqlite] [--rounds 3] [--seconds 1.2]
    python bench/run.py --render

`make bench` runs it. Each part writes a file of its own, so that one can be repeated without the others; ``--render``
measures nothing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import front
import growth
import loads
import machine
import page
import peers
import processes
import rehearse
import rules
import situations
import tables
from contenders import CONTENDERS, OURS, Contender, find_places
from options import add_options

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
PLACE = HERE.parent / "var" / "bench"
PARTS = ("loads", "rules", "situations", "postfix", "growth", "rehearse")


def measure(part: str, home: pathlib.Path, places: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """What ``part`` measures."""
    if part == "postfix":
        return front.run(home, places, rounds=options.rounds)
    if part == "rehearse":
        readers = places | peers.install_readers(PLACE)
        return rehearse.run(home, readers, rounds=options.rounds, scale=options.scale)

    def wanted(contenders: Sequence[Contender]) -> list[Contender]:
        return [one for one in contenders if not options.only or one.key in options.only]

    sizes = {"seconds": options.seconds, "rounds": options.rounds}
    if part == "loads":
        return loads.run(home, places, contenders=wanted(CONTENDERS), **sizes)
    if part == "rules":
        return rules.run(home, places, contenders=wanted(OURS), **sizes)
    if part == "situations":
        return situations.run(home, places, contenders=wanted(situations.STORES), **sizes)
    return growth.run(home, places, contenders=wanted(growth.CONTENDERS), scale=options.scale, **sizes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says, and write the page."""
    parser = argparse.ArgumentParser(description="Measure this daemon beside others, and write docs/benchmark.md.")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be given more than once")
    add_options(parser, seconds=1.0, only=", not in the parts postfix and rehearse; the results are of these alone")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes in the parts growth and rehearse")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--results", metavar="DIRECTORY", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)

    if not options.render:
        processes.keep_in_hand()
        parts = options.part or PARTS
        asked = [] if set(parts) == {"rehearse"} else CONTENDERS  # who reads logs is no policy server
        places = find_places(PLACE, asked, ours=options.ours, peer=options.peer)
        options.results.mkdir(exist_ok=True)
        for part in parts:
            with tempfile.TemporaryDirectory(prefix="policyd-bench-", dir=options.directory) as name:
                home = pathlib.Path(name)
                home.chmod(0o755)  # the servers run as accounts of their own
                begin = time.monotonic()
                noise = [machine.noise(home)]
                result = measure(part, home, places, options)
                noise.append(machine.noise(home))
            result |= {"machine": machine.describe(), "noise": noise, "rounds": options.rounds}
            result |= {"took_seconds": round(time.monotonic() - begin), "seconds": options.seconds}
            path = options.results / f"{part}.json"
            path.write_text(json.dumps(tables.rounded(result), indent=1) + "\n", encoding="utf-8")
            print(f"{path}: {result['took_seconds']} s", file=sys.stderr)
    page.write(options.results, HERE.parent / "docs")


if __name__ == "__main__":
    main()
