"""What the page says of the part ``rehearse``; nothing where that was not measured."""

from __future__ import annotations

import pathlib
import string
from typing import Any

from measured import Results, Rounds, figures, median, ratio
from policyd_rate_limit.domain.quantity import quantity
from rehearse import PEERS, READERS, SUGGEST, THREE, Reader
from tables import NOTHING, Target, number, spread, table

TEMPLATE = pathlib.Path(__file__).resolve().parent / "rehearsed.md.in"
GIGABYTE = 10**9
MOST_SECONDS = 60
MOST_MEGABYTES = 300


def _part(results: Results) -> dict[str, Any]:
    return results.parts.get("rehearse", {})


def _figures(results: Results, reader: Reader, field: str) -> Rounds:
    return figures(_part(results).get("measurements", ()), field, reader=reader.key)


def _for_a_gigabyte(results: Results, reader: Reader) -> Rounds:
    """Seconds, by round."""
    seconds = _figures(results, reader, "seconds")
    return {number: one * GIGABYTE / _part(results)["log"]["bytes"] for number, one in seconds.items()}


def targets(results: Results) -> list[Target]:
    """What rehearsing was to reach; none where it was not measured."""
    if not _part(results):
        return []
    found = []
    for reader in (THREE, SUGGEST):
        memory = _figures(results, reader, "memory_mb")
        found += [
            Target(
                f"{reader.name}, a gigabyte of mail log on one core",
                median(_for_a_gigabyte(results, reader)),
                MOST_SECONDS,
                " s",
                at_most=True,
            ),
            Target("… its memory", max(memory.values(), default=None), MOST_MEGABYTES, " MB", at_most=True),
        ]
    return found


def _table(results: Results) -> str:
    log = _part(results)["log"]
    rows = []
    for reader in READERS:
        seconds = _figures(results, reader, "seconds")
        middle = median(seconds)
        rows.append(
            [
                reader.name,
                spread(seconds),
                number(median(_figures(results, reader, "cpu_seconds"))),
                number(None if middle is None else round(log["lines"] / middle)),
                number(None if middle is None else log["bytes"] / 1e6 / middle),
                number(max(_figures(results, reader, "memory_mb").values(), default=None)),
                *(number(ratio(seconds, _figures(results, peer, "seconds"))) for peer in PEERS),
            ]
        )
    heads = ["", "s", "CPU, s", "lines/s", "MB/s", "memory, MB"]
    return table([*heads, "of pflogsumm's time", "of lnav's", "of zgrep's"], rows)


def section(results: Results) -> str:
    """The section of the page, with an empty line behind it; nothing where there are no measurements."""
    part = _part(results)
    if not part:
        return ""
    log, machine = part["log"], part.get("machine", {})
    about = {
        "table": _table(results),
        "megabytes": number(round(log["bytes"] / 1e6)),
        "lines": number(log["lines"]),
        "mails": number(log["mails"]),
        "people": number(log["people"]),
        "length": number(log["bytes"] / log["lines"]),
        "rounds": quantity(part["rounds"], "round") if "rounds" in part else NOTHING,
        "date": machine.get("date", NOTHING),
        "version": machine.get("version", NOTHING),
    }
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(about) + "\n"
