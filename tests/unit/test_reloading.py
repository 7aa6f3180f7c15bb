"""One reload at a time, wholly or not at all."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import Changes
from policyd_rate_limit.daemon.reloading import Reloader
from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.system.service_manager import ServiceManager, Supervision
from support.wait import PATIENCE, until

# Reading the files takes most of the time, and does not depend on the loop: once is enough.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


class Told(Supervision):
    """What the service manager is told, as a list."""

    def __init__(self) -> None:
        super().__init__(ServiceManager({}), str, lambda: True)
        self.told: list[str] = []

    def reloading(self) -> None:
        self.told.append("reloading")

    def ready(self, note: str = "") -> None:
        self.told.append(f"ready {note.partition(' at ')[0]}")


class Reloading:
    """A configuration file, and what has become of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "policyd-rate-limit.yaml"
        self.write(max_ids=5)
        self.supervision = Told()
        self.in_force: list[Settings] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self.reads = 0
        self.error: Exception | None = None
        self.reloader = Reloader(config.load(self.path).settings, self.prepare, self.supervision)

    def write(self, **settings: object) -> None:
        self.path.write_text(yaml.safe_dump(settings))

    def prepare(self, change: Changes) -> Callable[[], None]:
        assert threading.current_thread() is not threading.main_thread()
        self.reads += 1
        assert self.may_read.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return lambda: self.in_force.append(change.settings)

    async def idle(self) -> None:
        await until(lambda: self.reloader._task is None)


@pytest.fixture
def reloading(tmp_path: Path) -> Reloading:
    return Reloading(tmp_path)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def test_a_reload(reloading: Reloading, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    reloading.reloader.start()
    reloading.write(max_ids=6, limits=[[1, 60]], ipv6_prefix=128, limts=1)
    reloading.reloader.request()
    await reloading.idle()
    [settings] = reloading.in_force
    assert reloading.reloader.settings is settings
    assert (settings.max_ids, settings.limits, settings.ipv6_prefix) == (5, ((1, 60),), 128)
    assert reloading.supervision.told == ["reloading", "ready "]
    unknown, fixed = lines(caplog)
    assert "unknown setting limts; did you mean limits?" in unknown
    assert fixed.startswith("max_ids cannot change")
    assert lines(caplog, logging.INFO) == ["configuration reloaded; changed: ipv6_prefix, limits"]


async def test_a_request_meanwhile_reads_once_more(reloading: Reloading) -> None:
    reloading.reloader.start()
    reloading.may_read.clear()
    reloading.reloader.request()
    await until(lambda: reloading.reads == 1)
    reloading.write(ipv6_prefix=128)
    for _ in range(3):
        reloading.reloader.request()
    reloading.may_read.set()
    await reloading.idle()
    assert [settings.ipv6_prefix for settings in reloading.in_force] == [64, 128]
    assert reloading.supervision.told == ["reloading", "ready "] * 2


async def test_a_request_before_the_daemon_serves_waits(reloading: Reloading) -> None:
    reloading.reloader.request()
    await asyncio.sleep(0.01)
    assert not reloading.supervision.told
    reloading.reloader.start()
    await reloading.idle()
    assert len(reloading.in_force) == 1


async def test_nothing_changes_once_it_stops(reloading: Reloading) -> None:
    reloading.reloader.start()
    reloading.may_read.clear()
    reloading.reloader.request()
    await until(lambda: reloading.reads == 1)
    reloading.reloader.stop()
    reloading.may_read.set()
    reloading.reloader.request()
    await asyncio.sleep(0.05)
    assert not reloading.in_force
    assert reloading.reads == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, ["ipv6_prefix: expected", "limits: expected", "reload failed: the configuration stays as it was"]),
        (
            ConfigError([Problem("f", 1, "s", "a", "b"), Problem("f", 2, "s", "a", "b")]),
            ["f:1: s: expected a", "f:2: s: expected a", "reload failed: the configuration stays as it was"],
        ),
        (ImportError("no driver"), ["reload failed: the configuration stays as it was"]),
    ],
)
async def test_a_file_with_mistakes_changes_nothing(
    reloading: Reloading, error: Exception | None, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = reloading.reloader.settings
    reloading.reloader.start()
    if error is None:
        reloading.write(limits="many", ipv6_prefix=1000, fail_action="reject")
    reloading.error = error
    reloading.reloader.request()
    await reloading.idle()
    reloading.error = None
    reloading.write(ipv6_prefix=128)
    reloading.reloader.request()
    await reloading.idle()
    assert reloading.supervision.told == [
        "reloading",
        "ready reload failed",
        "reloading",
        "ready ",
    ]
    assert len(lines(caplog, logging.ERROR)) == len(told)
    for line, part in zip(lines(caplog, logging.ERROR), told, strict=True):
        assert part in line
    assert [settings.ipv6_prefix for settings in reloading.in_force] == [128]
    assert reloading.in_force[0].limits == before.limits


async def test_a_file_that_is_gone(reloading: Reloading, caplog: pytest.LogCaptureFixture) -> None:
    reloading.reloader.start()
    reloading.path.unlink()
    reloading.reloader.request()
    await reloading.idle()
    missing, stays = lines(caplog, logging.ERROR)
    assert "No such file" in missing
    assert stays == "reload failed: the configuration stays as it was"
    assert not reloading.in_force


async def test_a_daemon_on_the_defaults_finds_a_file_at_last(
    reloading: Reloading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(reloading.path.parent))
    reloading.path = reloading.path.parent / ".config" / reloading.path.name
    reloading.path.parent.mkdir()
    reloading.reloader.settings = Settings()

    reloading.reloader.start()
    reloading.write(ipv6_prefix=128)
    reloading.reloader.request()
    await reloading.idle()
    assert reloading.reloader.settings == Settings(ipv6_prefix=128, config_file=str(reloading.path))
