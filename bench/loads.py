"""The contenders under every load: all of them run, one at a time is asked while the others have nothing to do."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import servers
from contenders import CONTENDERS, Contender, Contestant, Fill, Load, measure, prepared, spend

BASE = Load("base", "50 connections, every mail admitted, full-size requests")
LOADS = (
    BASE,
    BASE._replace(key="connections-1", name="1 connection", connections=1),
    BASE._replace(key="connections-10", name="10 connections", connections=10),
    BASE._replace(key="connections-200", name="200 connections", connections=200),
    BASE._replace(key="connections-1000", name="1,000 connections", connections=1_000),
    BASE._replace(key="ids-1000", name="1,000 ids", ids=1_000),
    BASE._replace(key="ids-100000", name="100,000 ids", ids=100_000),
    BASE._replace(key="refused", name="19 of 20 refused", spent=0.95),
    BASE._replace(key="mixed", name="as mail is: Zipf over ids, 1 of 50 refused", zipf=1.0, spent=0.02),
    BASE._replace(key="small", name="small requests", small=True),
)
FILL = Fill(ids=BASE.ids)
WARM_UP = 0.3  # seconds
BASE_FACTOR = 2  # the base is measured for so much longer, since it is what most is said about


def say(text: str) -> None:
    """Tell the operator how far it is."""
    print(text, file=sys.stderr, flush=True)


def run(
    directory: pathlib.Path,
    places: dict[str, str],
    *,
    seconds: float,
    rounds: int,
    contenders: Sequence[Contender] = CONTENDERS,
    loads: Sequence[Load] = LOADS,
    fill: Fill = FILL,
) -> dict[str, Any]:
    """The measurements, each with its load, contender and round; ``failed``: what did not work, and why."""
    measurements: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        running: list[Contestant] = []
        for contender in contenders:
            say(f"filling {contender.name}")
            try:
                contestant = stack.enter_context(prepared(contender, directory / contender.key, places))
            except servers.NotInstalled as reason:
                failed.append({"contender": contender.key, "load": "", "why": str(reason)})
                say(f"without {contender.name}: {reason}")
                continue
            contestant.fill(fill)
            contestant.start()
            contestant.ask()
            spend(contestant, places)
            running.append(contestant)
        for load in loads:
            able = list(running)
            for number in range(1, rounds + 1):
                for contestant in list(able):
                    found = {"load": load.key, "contender": contestant.contender.key, "round": number}
                    length = seconds * (BASE_FACTOR if load is BASE else 1)
                    try:
                        found |= _insist(contestant, load, places, length, number)
                    except RuntimeError as error:
                        failed.append({**found, "why": str(error)})
                        able.remove(contestant)
                    else:
                        measurements.append(found)
                        say(f"{load.key}, round {number}: {found['per_second']:,.0f}/s {contestant.contender.name}")
    return {"measurements": measurements, "failed": failed}


def _insist(contestant: Contestant, load: Load, places: dict[str, str], seconds: float, number: int) -> dict[str, Any]:
    """:func:`contenders.measure`; what fails is restarted, and asked once more."""
    for attempt in (1, 2):
        try:
            return measure(contestant, load, places, seconds, WARM_UP, number)
        except RuntimeError as error:
            say(f"{load.key}, round {number}: {contestant.contender.name}: {error}")
            contestant.stop()
            contestant.start()
            contestant.ask()
            spend(contestant, places)
            if attempt == 2:
                raise
    raise AssertionError
