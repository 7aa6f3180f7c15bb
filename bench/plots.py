"""The plots of docs/benchmark.md, as SVG that is legible on a light and on a dark ground, and the same on every run."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from contenders import CONTENDERS, OURS, VERSION_1_2_0, Contender
from front import IN_FRONT, WITHOUT
from loads import BASE, LOADS
from measured import Results

GROUND = "#7f7f7f"  # text and axes: between black and white
COLOURS = {
    "floor-c": "#9a9a9a",
    "floor": "#8a8a8a",
    "durable-floor": "#b0893a",
    "sqlite": "#2f7ed8",
    "postgresql": "#18a6b8",
    "mariadb": "#3aa655",
    "redis": "#8e5fd0",
    "1.2.0": "#d9453d",
    "postfwd": "#e0822e",
    WITHOUT: "#9a9a9a",
}
MARKERS = {"floor-c": "^", "floor": "v", "durable-floor": "D", "1.2.0": "s", "postfwd": "P"}
STYLE = {
    "svg.hashsalt": "policyd-rate-limit",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": GROUND,
    "axes.labelcolor": GROUND,
    "axes.edgecolor": GROUND,
    "axes.titlecolor": GROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GROUND,
    "grid.alpha": 0.25,
    "xtick.color": GROUND,
    "ytick.color": GROUND,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
PERCENTILES = ("p50", "p99", "p99.9")


def _name(contender: Contender) -> str:
    """What a plot calls ``contender``: of ours, which the tables call by their stores, it says that they are ours."""
    return f"this daemon, {contender.name}" if contender in OURS else contender.name


def draw(results: Results, directory: pathlib.Path) -> None:
    """All plots, into ``directory``."""
    directory.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        _save(_speed(results), directory / "speed.svg")
        _save(_latency(results), directory / "latency.svg")
        _save(_connections(results), directory / "connections.svg")
        _save(_other_loads(results), directory / "loads.svg")
        _save(_cost(results), directory / "cost.svg")
        _save(_postfix(results), directory / "postfix.svg")
        _save(_growth(results, results.windows, "mails", "mails in the window"), directory / "windows.svg")
        _save(_growth(results, results.ids, "ids", "active ids"), directory / "ids.svg")
        _save(_start(results), directory / "start.svg")


def _save(figure: Figure, path: pathlib.Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", transparent=True)
    # Its numbers end in spaces that no editor keeps.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))


def _figure(width: float = 8.0, height: float = 3.4, panels: int = 1) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _spread(values: Iterable[float]) -> tuple[float, float, float]:
    """The median, and how far the least and the most are from it."""
    ranked = sorted(values)
    middle = statistics.median(ranked)
    return middle, middle - ranked[0], ranked[-1] - middle


def _rows(axes: Any, rows: Sequence[tuple[str, str, Sequence[float]]], label: str, *, log: bool = True) -> None:
    """A line for each of (key, label, values), the first on top; a bar only where the axis begins at nothing."""
    rows = [row for row in rows if row[2]][::-1]
    for place, (key, _, values) in enumerate(rows):
        middle, below, above = _spread(values)
        if not log:
            axes.barh(place, middle, color=COLOURS[key], height=0.7)
        axes.errorbar(
            middle,
            place,
            xerr=[[below], [above]],
            color=COLOURS[key] if log else GROUND,
            marker=MARKERS.get(key, "o") if log else None,
            capsize=3,
            linewidth=1.4,
        )
    axes.set_yticks(range(len(rows)), [name for _, name, _ in rows])
    axes.set_xlabel(label)
    if log:
        _logarithmic(axes, "x")


def _logarithmic(axes: Any, *names: str) -> None:
    """Make axes logarithmic, with figures as people write them; short ones where they stand side by side."""
    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _, short=name == "x": _figure_of(value, short=short)))
        axis.set_minor_formatter(NullFormatter())
        least, most = axis.get_view_interval()
        if most < 100 * least:  # with powers of ten alone there would be one figure, or two
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _figure_of(value: float, *, short: bool) -> str:
    """``value`` as it stands beside an axis: ``1,000,000``, or ``short``: ``1 M``."""
    if short:
        for unit, sign in ((1e6, "M"), (1e3, "k")):
            if value >= unit:
                return f"{value / unit:,.9g} {sign}"
    return f"{value:,.9g}"


def _line(axes: Any, contender: Contender, points: Sequence[tuple[float, Sequence[float]]]) -> None:
    """A line through the medians of (x, values), with the spread."""
    points = [point for point in points if point[1]]
    if not points:
        return
    spreads = [_spread(values) for _, values in points]
    axes.errorbar(
        [x for x, _ in points],
        [middle for middle, _, _ in spreads],
        yerr=[[below for _, below, _ in spreads], [above for _, _, above in spreads]],
        label=_name(contender),
        color=COLOURS[contender.key],
        marker=MARKERS.get(contender.key, "o"),
        markersize=4,
        capsize=2,
        linewidth=1.4,
    )


def _legend(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper")


def _speed(results: Results) -> Figure:
    figure, (axes,) = _figure()
    rows = [(one.key, _name(one), [*results.load(one, "per_second").values()]) for one in CONTENDERS]
    _rows(axes, rows, "requests per second (log): median of the rounds, least and most")
    return figure


def _latency(results: Results) -> Figure:
    figure, (axes,) = _figure()
    shown = [one for one in CONTENDERS if results.load(one, "p50")][::-1]
    for place, one in enumerate(shown):
        values = [statistics.median(results.load(one, field).values()) for field in PERCENTILES]
        axes.plot(values, [place] * len(values), color=COLOURS[one.key], linewidth=1.4)
        for value, marker in zip(values, ("o", "s", "D"), strict=True):
            axes.plot(value, place, marker=marker, color=COLOURS[one.key], markersize=5)
    axes.set_yticks(range(len(shown)), [_name(one) for one in shown])
    _logarithmic(axes, "x")
    axes.set_xlabel("milliseconds (log): median (circle), p99 (square), p99.9 (diamond)")
    return figure


def _connections(results: Results) -> Figure:
    figure, (axes,) = _figure(height=4.0)
    for one in CONTENDERS:
        loads = [load for load in LOADS if load == BASE or load.key.startswith("connections-")]
        points = [(load.connections, [*results.load(one, "per_second", load.key).values()]) for load in loads]
        _line(axes, one, sorted(points))
    _logarithmic(axes, "x", "y")
    axes.set_xlabel("connections (log)")
    axes.set_ylabel("requests per second (log)")
    _legend(figure, axes)
    return figure


def _other_loads(results: Results) -> Figure:
    loads = [load for load in LOADS if not load.key.startswith("connections-")]
    figure, (axes,) = _figure(height=4.0)
    for shift, one in enumerate(CONTENDERS):
        for place, load in enumerate(loads):
            values = results.load(one, "per_second", load.key).values()
            if not values:
                continue
            middle, below, above = _spread(values)
            axes.errorbar(
                place + (shift - len(CONTENDERS) / 2) * 0.08,
                middle,
                yerr=[[below], [above]],
                label=_name(one) if load is BASE else None,
                color=COLOURS[one.key],
                marker=MARKERS.get(one.key, "o"),
                markersize=4,
                linestyle="none",
            )
    short = {"base": "all admitted", "refused": "mostly\nrefused", "mixed": "as mail is", "small": "small\nrequests"}
    axes.set_xticks(range(len(loads)), [short.get(load.key, load.name) for load in loads])
    _logarithmic(axes, "y")
    axes.set_ylabel("requests per second (log)")
    _legend(figure, axes)
    return figure


def _cost(results: Results) -> Figure:
    figure, (cpu, memory) = _figure(panels=2)
    for axes, own, database, label in (
        (cpu, "cpu_us", "database_cpu_us", "CPU per request, µs (log)\nwith that of the database server"),
        (memory, "memory_mb", "database_memory_mb", "peak memory, MB (log)\nwith that of the database server"),
    ):
        rows = []
        for one in CONTENDERS:
            beside = results.load(one, database)
            values = [value + beside.get(number, 0.0) for number, value in results.load(one, own).items()]
            rows.append((one.key, _name(one), values))
        _rows(axes, rows, label)
    memory.set_yticklabels([])
    return figure


def _postfix(results: Results) -> Figure:
    figure, (axes,) = _figure(height=2.2)
    names = {WITHOUT: "no policy server", **{one.key: _name(one) for one in CONTENDERS if one.key in IN_FRONT}}
    rows = []
    for key, name in names.items():
        rows.append(
            (key, name, [1e3 * one["seconds"] / one["mails"] for one in results.postfix if one["contender"] == key])
        )
    _rows(axes, rows, "milliseconds per mail", log=False)
    return figure


def _growth(results: Results, measurements: Sequence[dict[str, Any]], field: str, label: str) -> Figure:
    figure, (axes,) = _figure(height=3.8)
    for one in (*OURS, VERSION_1_2_0):
        sizes = sorted({found[field] for found in measurements if found["contender"] == one.key})
        _line(
            axes,
            one,
            [(size, [*results.decision(measurements, one, **{field: size}).values()]) for size in sizes],
        )
    _logarithmic(axes, "x", "y")
    axes.set_xlabel(f"{label} (log)")
    axes.set_ylabel("CPU per decision, µs (log)")
    _legend(figure, axes)
    return figure


def _start(results: Results) -> Figure:
    figure, panels = _figure(panels=2)
    for axes, field, label in (
        (panels[0], "ready_seconds", "ready after, s"),
        (panels[1], "resident_mb", "resident, MB"),
    ):
        for one in (*OURS, VERSION_1_2_0):
            own = [found for found in results.ids if found["contender"] == one.key]
            sizes = sorted({found["ids"] for found in own})
            _line(axes, one, [(size, [found[field] for found in own if found["ids"] == size]) for size in sizes])
        _logarithmic(axes, "x", "y")
        axes.set_xlabel("active ids (log)")
        axes.set_ylabel(f"{label} (log)")
    _legend(figure, panels[0])
    return figure
