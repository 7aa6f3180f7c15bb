"""Requests per second and latency of this daemon beside 1.2.0 and beside what the machine allows, in two minutes.

    python bench/compare.py [--peer /path/to/1.2.0/bin/policyd-rate-limit] [--only sqlite] [--load base]

`make bench-quick` runs it. Without ``--peer`` version 1.2.0 is installed with pip into an environment of its own. The
table shows the median of the rounds, the slowest and the fastest of them, and the median of the ratios within each
round. The whole benchmark, with plots, is `bench/run.py`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import loads
import machine
import processes
from contenders import CONTENDERS, DURABLE_FLOOR, FLOOR, PEERS, POSTFWD, VERSION_1_2_0, Fill, find_places
from options import add_options

QUICK = ("base", "refused")
PLACE = pathlib.Path("var/bench")


def table(measurements: Sequence[dict[str, Any]]) -> str:
    """The measurements of one load as text: one line per contender."""
    by_contender: dict[str, list[dict[str, Any]]] = {}
    for one in measurements:
        by_contender.setdefault(one["contender"], []).append(one)
    names = {one.key: one.name for one in CONTENDERS}

    def median(key: str, field: str) -> float:
        return float(statistics.median(one[field] for one in by_contender[key]))

    def ratio(base: str) -> Callable[[str], str]:
        bases = {one["round"]: one["per_second"] for one in by_contender[base]}

        def text(key: str) -> str:
            ratios = [one["per_second"] / bases[one["round"]] for one in by_contender[key] if one["round"] in bases]
            return f"{statistics.median(ratios):.2f}" if ratios else ""

        return text

    columns: list[tuple[str, Callable[[str], str]]] = [
        ("", lambda key: names[key]),
        ("requests/s", lambda key: f"{median(key, 'per_second'):,.0f}"),
        ("slowest", lambda key: f"{min(one['per_second'] for one in by_contender[key]):,.0f}"),
        ("fastest", lambda key: f"{max(one['per_second'] for one in by_contender[key]):,.0f}"),
        *(
            (f"{field} ms", lambda key, field=field: f"{median(key, field):.2f}")
            for field in ("p50", "p99", "p99.9", "max")
        ),
        ("CPU us", lambda key: f"{median(key, 'cpu_us'):.1f}"),
        ("MB", lambda key: f"{median(key, 'memory_mb'):.0f}"),
        ("generator", lambda key: f"{median(key, 'generator_cpu'):.0%}"),
        *(
            (f"x {names[base]}", ratio(base))
            for base in (VERSION_1_2_0.key, DURABLE_FLOOR.key, FLOOR.key)
            if base in by_contender
        ),
    ]
    lines = [[head for head, _ in columns], *([cell(key) for _, cell in columns] for key in by_contender)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description="Requests per second beside 1.2.0 and the machine's floors.")
    add_options(parser, seconds=0.7)
    parser.add_argument("--ids", type=int, default=100_000, help="how many a store holds at the start")
    parser.add_argument(
        "--load", action="append", choices=[one.key for one in loads.LOADS], metavar="LOAD", help="any of %(choices)s"
    )
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="also write every measurement to FILE")
    options = parser.parse_args(arguments)

    contenders = [one for one in CONTENDERS if (one.key in options.only if options.only else one is not POSTFWD)]
    wanted = [one._replace(ids=min(one.ids, options.ids)) for one in loads.LOADS if one.key in (options.load or QUICK)]
    processes.keep_in_hand()
    places = find_places(PLACE.absolute(), contenders, ours=options.ours, peer=options.peer)
    with tempfile.TemporaryDirectory(prefix="policyd-bench-", dir=options.directory) as name:
        home = pathlib.Path(name)
        home.chmod(0o755)  # the servers run as accounts of their own
        noise = machine.noise(home)
        result = loads.run(
            home,
            places,
            seconds=options.seconds,
            rounds=options.rounds,
            contenders=contenders,
            loads=wanted,
            fill=Fill(ids=options.ids),
        )
    about = machine.describe()
    print(
        f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}; "
        f"fdatasync of 4 KB {noise['fdatasync_ms']['median']:.2f} ms (p90 {noise['fdatasync_ms']['p90']:.2f})"
    )
    for load in wanted:
        found = [one for one in result["measurements"] if one["load"] == load.key]
        print(f"\n{load.name}, {load.ids:,} ids; {options.rounds} rounds\n\n{table(found)}")
    for one in result["failed"]:
        print(f"\nfailed: {one}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if any(one["contender"] not in [peer.key for peer in PEERS] for one in result["failed"]):
        raise SystemExit("not all was measured")


if __name__ == "__main__":
    main()
