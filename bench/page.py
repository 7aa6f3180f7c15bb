"""docs/benchmark.md and its plots, made of the measurements in bench/results and of bench/benchmark.md.in.

Every number of the page comes from there. The same measurements always make the same files.
"""

from __future__ import annotations

import pathlib
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plots
import rehearse
import rehearsed
import situations
from contenders import (
    CONTENDERS,
    DURABLE_FLOOR,
    FLOOR,
    FLOOR_C,
    LIMITS,
    MARIADB,
    OURS,
    POSTFWD,
    POSTGRESQL,
    REDIS,
    SQLITE,
    VERSION_1_2_0,
    Contender,
)
from front import IN_FRONT, WITHOUT
from loads import BASE, LOADS
from measured import Results, Rounds, figures, median, ratio, ratios
from rules import DOMAINS, NUMBERS
from tables import NOTHING, Target, number, percent, spread, table

HERE = pathlib.Path(__file__).resolve().parent
NAMES = {one.key: one.name for one in CONTENDERS} | {WITHOUT: "no policy server"} | rehearse.NAMES


def targets(results: Results) -> list[Target]:
    """What this version set out to reach."""
    stall = [*results.load(SQLITE, "max").values(), *results.load(SQLITE, "max", "connections-200").values()]
    ids = [one for one in results.ids if one["contender"] == SQLITE.key and one["ids"] == BASE.ids]
    slower = ratio(*(figures(results.postfix, "seconds", contender=one.key) for one in (SQLITE, FLOOR)))
    found = [
        Target("SQLite, all admitted: of 1.2.0", results.speed(SQLITE, VERSION_1_2_0), 30, " ×", stretch=50),
        Target("SQLite, all admitted: of the durable floor", results.speed(SQLITE, DURABLE_FLOOR), 0.5, stretch=0.8),
        Target(
            "the same at 200 connections", results.speed(SQLITE, DURABLE_FLOOR, "connections-200"), 0.5, stretch=0.8
        ),
        Target("SQLite, all admitted: p99", median(results.load(SQLITE, "p99")), 5, " ms", at_most=True),
        Target("SQLite: the longest stall", max(stall, default=None), 50, " ms", at_most=True),
        Target("SQLite, mostly refused: of the floor", results.speed(SQLITE, FLOOR, "refused"), 0.35, stretch=0.5),
        Target(
            "SQLite, one connection: median, of the durable floor's",
            ratio(results.load(SQLITE, "p50", "connections-1"), results.load(DURABLE_FLOOR, "p50", "connections-1")),
            1.5,
            " ×",
            at_most=True,
        ),
        Target(
            "in front of Postfix: slower than the floor by",
            None if slower is None else 100 * (slower - 1),
            5,
            " %",
            at_most=True,
        ),
        Target(
            "1,000,000 active ids, two windows: resident",
            max((one["resident_mb"] for one in ids), default=None),
            350,
            " MB",
            at_most=True,
        ),
        Target(
            "… ready after a restart within",
            max((one["ready_seconds"] for one in ids), default=None),
            10,
            " s",
            at_most=True,
        ),
    ]
    for contender, least in ((POSTGRESQL, 12), (MARIADB, 12), (REDIS, 25)):
        found.append(Target(f"{contender.name}: of 1.2.0", results.speed(contender, VERSION_1_2_0), least, " ×"))
    found += [
        Target(f"{contender.name}, three rules for one mail: of one rule", _of_one_rule(results, contender, 3), 0.6)
        for contender in (SQLITE, POSTGRESQL, REDIS)
    ]
    for contender in situations.STORES:
        ratios_of = {one.key: _of_one_situation(results, contender, one.key) for one in situations.SITUATIONS}
        large = ratios_of.pop(situations.LARGE)
        known = [one for one in ratios_of.values() if one is not None]
        found += [
            Target(
                f"{contender.name}, rules of administrators, the slowest: of one rule", min(known, default=None), 0.5
            ),
            Target(f"{contender.name}, with a table of {situations.ENTRIES:,}: of without it", large, 0.9),
        ]
    found += [
        Target(
            f"{contender.name}: a decision with 100,000 mails in the window, of one with ten",
            ratio(
                results.decision(results.windows, contender, mails=100_000),
                results.decision(results.windows, contender, mails=10),
            ),
            1.5,
            " ×",
            at_most=True,
        )
        for contender in OURS
    ]
    return found + rehearsed.targets(results)


def _base_table(results: Results) -> str:
    columns: list[tuple[str, Callable[[Contender], str]]] = [
        ("", lambda one: one.name),
        ("requests/s", lambda one: spread(results.load(one, "per_second"))),
        *(
            (f"{field}, ms", lambda one, field=field: number(median(results.load(one, field))))
            for field in ("p50", "p99", "p99.9")
        ),
        ("longest, ms", lambda one: number(max(results.load(one, "max").values(), default=None))),
        ("CPU, µs", lambda one: number(median(results.load(one, "cpu_us")))),
        ("database's CPU, µs", lambda one: number(median(results.load(one, "database_cpu_us")))),
        ("peak memory, MB", lambda one: number(median(results.load(one, "memory_mb")))),
        ("database's, MB", lambda one: number(median(results.load(one, "database_memory_mb")))),
        ("× 1.2.0", lambda one: number(results.speed(one, VERSION_1_2_0))),
        ("of durable floor", lambda one: number(results.speed(one, DURABLE_FLOOR))),
    ]
    return table([head for head, _ in columns], [[cell(one) for _, cell in columns] for one in CONTENDERS])


def _loads_table(results: Results, field: str) -> str:
    rows = [[load.name, *(number(median(results.load(one, field, load.key))) for one in CONTENDERS)] for load in LOADS]
    return table(["", *(one.name for one in CONTENDERS)], rows)


def _of_one_rule(results: Results, contender: Contender, number: int) -> float | None:
    """How many times as many requests per second are answered with ``number`` rules as with one."""
    several, one = (
        figures(results.rules, "per_second", store=contender.key, rules=rules) for rules in (number, NUMBERS[0])
    )
    return ratio(several, one)


def _of_one_situation(results: Results, contender: Contender, situation: str) -> float | None:
    """How many times as many requests per second are answered in ``situation`` as with one rule."""
    several, one = (
        figures(results.situations, "per_second", store=contender.key, situation=key)
        for key in (situation, situations.ONE.key)
    )
    return ratio(several, one)


def _situations_table(results: Results) -> str:
    rows = [
        [one.name, *(number(_of_one_situation(results, store, one.key)) for store in situations.STORES)]
        for one in situations.SITUATIONS
    ]
    return table(["of one rule", *(store.name for store in situations.STORES)], rows)


def _further_rule(results: Results, contender: Contender) -> float | None:
    """What one further rule costs a request, with the database server, in microseconds of CPU."""
    least, most = NUMBERS[0], NUMBERS[-1]
    few, many = (
        results.decision([{**one, "contender": one["store"]} for one in results.rules], contender, rules=number)
        for number in (least, most)
    )
    return median({number: (many[number] - few[number]) / (most - least) for number in many if number in few})


def _rules_table(results: Results) -> str:
    rows = []
    for one in OURS:
        speeds = [figures(results.rules, "per_second", store=one.key, rules=number) for number in NUMBERS]
        several = [number(_of_one_rule(results, one, rules)) for rules in NUMBERS[1:]]
        rows.append([one.name, *map(spread, speeds), *several, number(_further_rule(results, one))])
    heads = [
        "",
        *(f"{rules} rule{'s' * (rules > 1)}, requests/s" for rules in NUMBERS),
        *(f"{rules} rules, of one" for rules in NUMBERS[1:]),
        "CPU of a further rule, µs",
    ]
    return table(heads, rows)


def _postfix_table(results: Results) -> str:
    def measured(key: str, field: str) -> Rounds:
        return figures(results.postfix, field, contender=key)

    mails = results.parts.get("postfix", {}).get("mails", 1)
    rows = []
    for key in IN_FRONT:
        seconds = measured(key, "seconds")
        rows.append(
            [
                NAMES[key],
                spread({number: 1e3 * one / mails for number, one in seconds.items()}),
                number(median({number: 1e3 * one / mails for number, one in measured(key, "taken_seconds").items()})),
                number(ratio(seconds, measured(WITHOUT, "seconds"))),
                spread(ratios(seconds, measured(FLOOR.key, "seconds"))),
                number(median(measured(key, "cpu_us"))),
            ]
        )
    heads = ["", "ms per mail", "until it is taken", "of Postfix alone", "of the floor", "policy server's CPU, µs"]
    return table(heads, rows)


def _times_the_floor(results: Results) -> float | None:
    """How much more CPU Postfix needs for a mail than the floor."""
    part = results.parts.get("postfix", {})
    seconds = median(figures(results.postfix, "seconds", contender=WITHOUT))
    idle = median(figures(results.postfix, "idle", contender=WITHOUT))
    floor = median(figures(results.postfix, "cpu_us", contender=FLOOR.key))
    if not seconds or idle is None or not floor:
        return None
    return 1e6 * seconds * (1 - idle) * float(part["machine"]["cores"]) / float(part["mails"]) / floor


def _sizes(measurements: Iterable[dict[str, Any]], field: str) -> list[int]:
    return sorted({one[field] for one in measurements})


def _growth_table(results: Results, measurements: Sequence[dict[str, Any]], field: str) -> str:
    sizes = _sizes(measurements, field)
    rows = [
        [one.name, *(number(median(results.decision(measurements, one, **{field: size}))) for size in sizes)]
        for one in (*OURS, VERSION_1_2_0)
    ]
    return table(["", *(f"{size:,}" for size in sizes)], rows)


def _start_table(results: Results) -> str:
    rows = []
    for one in (*OURS, VERSION_1_2_0):
        for size in _sizes(results.ids, "ids"):
            found = {"contender": one.key, "ids": size}
            ready = figures(results.ids, "ready_seconds", **found)
            if ready:
                resident = figures(results.ids, "resident_mb", **found)
                rows.append([one.name, f"{size:,}", number(median(ready)), number(median(resident))])
    return table(["", "ids", "ready after, s", "resident, MB"], rows)


def _clean_table(clean: dict[str, Any]) -> str:
    rows = [
        [name, *(number(clean.get(key, {}).get(field)) for field in ("per_second", "p50", "p99", "p99.9", "max"))]
        for name, key in (("before", "before"), ("beside it", "beside"))
    ]
    return table(["", "requests/s", "p50, ms", "p99, ms", "p99.9, ms", "longest, ms"], rows)


def _noise_table(results: Results) -> str:
    rows = []
    for part, result in results.parts.items():
        for when, probe in zip(("before", "after"), result["noise"], strict=True):
            loop, sync = probe["loop_ms"], probe["fdatasync_ms"]
            rows.append(
                [
                    f"{part}, {when}",
                    *(number(loop[name]) for name in ("min", "median", "p90", "max")),
                    *(number(sync[name]) for name in ("min", "median", "p90", "max")),
                    f"{probe['stolen']:.1%}",
                ]
            )
    heads = ["", "loop, ms: least", "median", "p90", "most", "fdatasync, ms: least", "median", "p90", "most", "stolen"]
    return table(heads, rows)


def _failures(results: Results) -> str:
    lines = [
        f"- {NAMES[one['contender']]}, {one.get('load') or one.get('mails') or 'at the start'}: {one['why'].strip()}"
        for result in results.parts.values()
        for one in result.get("failed", ())
    ]
    return "\n".join(lines) or "Nothing."


def write(results_directory: pathlib.Path, docs: pathlib.Path) -> None:
    """Write the page and its plots into ``docs``; what is not measured is shown as such."""
    results = Results(results_directory)
    machine: dict[str, Any] = next((result["machine"] for result in results.parts.values()), {})
    about = {
        "machine": ", ".join(
            (
                f"{machine.get('cpu', NOTHING)}, {machine.get('cores', NOTHING)} cores",
                f"{machine.get('memory_gb', NOTHING)} GB",
                f"Linux {machine.get('kernel', NOTHING)}",
                f"Python {machine.get('python', NOTHING)}",
                f"SQLite {machine.get('sqlite', NOTHING)}",
            )
        ),
        "date": machine.get("date", NOTHING),
        "version": machine.get("version", NOTHING),
        "rounds": str(results.parts.get("loads", {}).get("rounds", NOTHING)),
        "seconds": number(results.parts.get("loads", {}).get("seconds")),
        "base_seconds": number(2 * results.parts.get("loads", {}).get("seconds", 0.0)),
        "targets": table(["", "wanted", "measured", "", "stretch"], [one.row() for one in targets(results)]),
        "base": _base_table(results),
        "loads": _loads_table(results, "per_second"),
        "loads_p99": _loads_table(results, "p99"),
        "generator_cpu": number(median(results.load(FLOOR_C, "generator_cpu_us"))),
        "floor_c_cpu": number(median(results.load(FLOOR_C, "cpu_us"))),
        "floor_cpu": number(median(results.load(FLOOR, "cpu_us"))),
        "sqlite_cpu": number(median(results.load(SQLITE, "cpu_us"))),
        "generator_share": number(100 * (median(results.load(SQLITE, "generator_cpu")) or 0.0), " %"),
        "rules": _rules_table(results),
        "situations": _situations_table(results),
        "situation_users": number(situations.USERS),
        "domains": number(DOMAINS),
        "rules_date": results.parts.get("rules", {}).get("machine", {}).get("date", NOTHING),
        "rules_version": results.parts.get("rules", {}).get("machine", {}).get("version", NOTHING),
        "postfix": _postfix_table(results),
        "idle": percent(median(figures(results.postfix, "idle", contender=FLOOR.key))),
        "times_the_floor": number(_times_the_floor(results)),
        "mails": number(results.parts.get("postfix", {}).get("mails")),
        "sessions": number(results.parts.get("postfix", {}).get("sessions")),
        "old_rows": number(results.parts.get("postfix", {}).get("old_rows")),
        "rehearsed": rehearsed.section(results),
        "windows": _growth_table(results, results.windows, "mails"),
        "ids": _growth_table(results, results.ids, "ids"),
        "start": _start_table(results),
        "clean": _clean_table(results.clean),
        "clean_rows": number(results.clean.get("rows")),
        "clean_seconds": number(results.clean.get("took_seconds")),
        "clean_watched": number(results.clean.get("watched_seconds")),
        "cores": str(machine.get("cores", NOTHING)),
        "limits": " and ".join(f"{mails:,} mails in {seconds:,} s" for mails, seconds in LIMITS),
        "noise": _noise_table(results),
        "failures": _failures(results),
        "memory_ours": number(median(results.load(SQLITE, "memory_mb"))),
        "memory_1_2_0": number(median(results.load(VERSION_1_2_0, "memory_mb"))),
        "memory_postfwd": number(median(results.load(POSTFWD, "memory_mb"))),
        "ready_ours": _ready(results, SQLITE),
        "ready_1_2_0": _ready(results, VERSION_1_2_0),
    }
    template = string.Template((HERE / "benchmark.md.in").read_text(encoding="utf-8"))
    (docs / "benchmark.md").write_text(template.substitute(about), encoding="utf-8")
    plots.draw(results, docs / "benchmark")


def _ready(results: Results, contender: Contender) -> str:
    return number(median(figures(results.ids, "ready_seconds", contender=contender.key, ids=BASE.ids)))
