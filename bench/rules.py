"""What several rules for one mail cost: requests per second and CPU with 1, 3 and 10 of them, on each store.

The daemons of one store run side by side and take turns, each with a database of its own.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import loads
from contenders import OURS, Contender

NUMBERS = (1, 3, 10)
DOMAINS = 10_000
LOAD = loads.BASE._replace(key="rules", name=f"1,000,000 users of {DOMAINS:,} domains", domains=DOMAINS)


def with_rules(contender: Contender, number: int) -> Contender:
    """This daemon on the store of ``contender``, with so many rules."""
    command = ("{our_python}", "{here}/several.py", str(number), "-f", "{config}")
    return contender._replace(
        key=f"{contender.key}-{number}", name=f"{contender.name}, {number} rule{'s' * (number > 1)}", command=command
    )


def run(
    directory: pathlib.Path,
    places: dict[str, str],
    *,
    seconds: float,
    rounds: int,
    contenders: Sequence[Contender] = OURS,
) -> dict[str, Any]:
    """As :func:`loads.run`, with the ``store`` and the number of ``rules`` of each measurement."""
    found: dict[str, Any] = {"measurements": [], "failed": []}
    for store in contenders:
        several = {one.key: one for one in (with_rules(store, number) for number in NUMBERS)}
        result = loads.run(
            directory / store.key,
            places,
            seconds=seconds,
            rounds=rounds,
            contenders=list(several.values()),
            loads=[LOAD],
        )
        for one in result["measurements"]:
            one |= {"store": store.key, "rules": NUMBERS[list(several).index(one["contender"])]}
        found["measurements"] += result["measurements"]
        found["failed"] += [{**one, "contender": store.key} for one in result["failed"]]
    return found
