"""The measurements in bench/results, by part, contender, load and round."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from contenders import Contender
from loads import BASE

Rounds = dict[int, float]
"""One figure by round."""


def figures(measurements: Iterable[dict[str, Any]], field: str, **wanted: object) -> Rounds:
    """``field`` of the measurements in which all of ``wanted`` holds, by round."""
    return {
        one["round"]: one[field]
        for one in measurements
        if one.get(field) is not None and all(one.get(name) == value for name, value in wanted.items())
    }


def median(rounds: Rounds) -> float | None:
    """None where there are none."""
    return float(statistics.median(rounds.values())) if rounds else None


def ratios(above: Rounds, below: Rounds) -> Rounds:
    """The ratio within each round."""
    return {number: above[number] / below[number] for number in above if below.get(number)}


def ratio(above: Rounds, below: Rounds) -> float | None:
    """The median of the ratios within each round."""
    return median(ratios(above, below))


class Results:
    """The measurements by part; a part that is not there has no measurements."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.parts: dict[str, dict[str, Any]] = {
            path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))
        }
        self.loads: list[dict[str, Any]] = self.parts.get("loads", {}).get("measurements", [])
        self.rules: list[dict[str, Any]] = self.parts.get("rules", {}).get("measurements", [])
        self.situations: list[dict[str, Any]] = self.parts.get("situations", {}).get("measurements", [])
        self.postfix: list[dict[str, Any]] = self.parts.get("postfix", {}).get("measurements", [])
        self.windows: list[dict[str, Any]] = self.parts.get("growth", {}).get("windows", [])
        self.ids: list[dict[str, Any]] = self.parts.get("growth", {}).get("ids", [])
        self.clean: dict[str, Any] = self.parts.get("growth", {}).get("clean", {})

    def load(self, contender: Contender, field: str, load: str = BASE.key) -> Rounds:
        """A figure of the part about loads."""
        return figures(self.loads, field, contender=contender.key, load=load)

    def speed(self, contender: Contender, base: Contender, load: str = BASE.key) -> float | None:
        """How many times as many requests per second as ``base`` answers."""
        return ratio(self.load(contender, "per_second", load), self.load(base, "per_second", load))

    def decision(self, measurements: Iterable[dict[str, Any]], contender: Contender, **wanted: object) -> Rounds:
        """What a decision costs, with the database server, in microseconds of CPU."""
        found = [one for one in measurements if one["contender"] == contender.key]
        own = figures(found, "cpu_us", **wanted)
        database = figures(found, "database_cpu_us", **wanted)
        return {number: own[number] + database.get(number, 0.0) for number in own}
