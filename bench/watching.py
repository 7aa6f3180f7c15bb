"""What it takes to know who is limited at a million ids: the first reading, a look, a page's worth of it, the memory.

    python bench/watching.py --ids 1000000 --store redis

A database is filled as others would have; what a page asks is timed beside the thread that follows the store.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

import yaml

import servers
from fill import decide, first_mails, other_mails, replay
from policyd_rate_limit import config
from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.admin.heaviest import Heaviest
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.admin.overview import overview_by
from policyd_rate_limit.admin.remembering import Memory
from policyd_rate_limit.admin.senders import Sender
from policyd_rate_limit.admin.watching import Watcher

SETTINGS = """
user: {user}
group: {group}
limits: [[50, 60], [100, 86400]]
"""
HOUR, DAY = 3_600, 86_400
TOPS = 30  # times
SPENT = 1_000  # ids that have used up a limit
STORES = {"sqlite": servers.sqlite, "postgresql": servers.postgresql, "redis": servers.redis}
ASKED = 1_000  # times


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as opened:
        name = opened.enter_context(tempfile.TemporaryDirectory())
        directory = pathlib.Path(name)
        directory.chmod(0o755)  # servers run as accounts of their own
        server = opened.enter_context(STORES[options.store](directory / "server"))
        path = directory / "policyd-rate-limit.yaml"
        of_store = server.settings or {"sqlite_config": {"database": f"{name}/db.sqlite3"}}
        own = SETTINGS.format(user=directory.owner(), group=directory.group())
        path.write_text(own + yaml.safe_dump(of_store))
        settings = config.load(path).settings
        now = int(time.time())
        window = settings.limits[-1].seconds * 0.9
        first = first_mails(options.ids, (), now, window)
        others = other_mails(SPENT, {}, now, window, settings.limits[-1].maximum)
        if options.store == "redis":
            decide(settings, first)
        replay(settings, first, others, now)
        gc.collect()
        before = _megabytes()
        watcher = Watcher(lambda: open_desk(settings), recounts=options.store == "redis")
        began = time.monotonic()
        watcher.start()
        while not watcher.picture().is_complete:
            time.sleep(0.1)
        print(f"first reading: {time.monotonic() - began:.1f} s, {_megabytes() - before:.0f} MB")
        names = itertools.cycle(f"user:user{number:07d}" for number in range(0, options.ids, 997))
        _timed("one id", lambda: watcher.seen(next(names), settings.limits))
        _timed("a part of a name", lambda: watcher.matching("zebra", 5, lambda _: True))
        _timed("the list", lambda: [one.key for one in watcher.picture().limited[:100]])
        _timed("what was changed", lambda: watcher.refresh(30), 20)
        memory = watcher.memory()
        assert memory is not None
        with open_desk(settings) as desk:
            _timed("the whole", lambda: overview_by(settings, desk, memory), 100)
            for window in (HOUR, HOUR, DAY, DAY):
                _timed(f"top by share, {window} s", partial(_top, desk, memory, window, by_share=True), TOPS)
                _timed(f"top by mails, {window} s", partial(_top, desk, memory, window, by_share=False), TOPS)
            _timed("top 10,000", lambda: _top(desk, memory, HOUR, by_share=True, most=10_000), 5)
        picture = watcher.picture()
        print(f"{picture.ids} ids, {len(picture.limited)} limited, {len(picture.close)} close")
        watcher.stop()


def _top(desk: Desk, memory: Memory, window: int, *, by_share: bool, most: int = 20) -> list[Sender]:
    return Heaviest(desk, memory, window).best(most, by_share=by_share)


def _timed(what: str, ask: Callable[[], object], times: int = ASKED) -> None:
    took, used = [], []
    for _ in range(times):
        began, spent = time.perf_counter(), time.thread_time()
        ask()
        took.append(1e3 * (time.perf_counter() - began))
        used.append(1e3 * (time.thread_time() - spent))
        time.sleep(0.005)
    median = statistics.median
    print(f"{what}: {median(took):.2f} ms, at worst {max(took):.1f} ms; of a processor {median(used):.2f} ms")


def _megabytes() -> float:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
