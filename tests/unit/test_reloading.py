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
from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.reloading import Reloader
from policyd_rate_limit.system.notify import ServiceManager, Supervision

PATIENCE = 20.0


class Told(Supervision):
    """What the service manager is told, as a list."""

    def __init__(self) -> None:
        super().__init__(ServiceManager({}), str, lambda: True)
        self.told: list[str] = []

    def reloading(self) -> None:
        self.told.append("reloading")

    def ready(self, note: str = "") -> None:
        self.told.append(f"ready {note.partition(' at ')[0]}")


class World:
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
        async with asyncio.timeout(PATIENCE):
            while self.reloader._task is not None:
                await asyncio.sleep(0.001)

    async def reading(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.reads < number:
                await asyncio.sleep(0.001)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_reload(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        world.reloader.start()
        world.write(max_ids=6, limits=[[1, 60]], ipv6_prefix=128, limts=1)
        world.reloader.request()
        await world.idle()

    asyncio.run(scenario())
    [settings] = world.in_force
    assert world.reloader.settings is settings
    assert (settings.max_ids, settings.limits, settings.ipv6_prefix) == (5, ((1, 60),), 128)
    assert world.supervision.told == ["reloading", "ready "]
    unknown, fixed = lines(caplog)
    assert "unknown setting limts; did you mean limits?" in unknown
    assert fixed.startswith("max_ids cannot change")
    assert lines(caplog, logging.INFO) == ["the configuration has been read anew; changed: ipv6_prefix, limits"]


def test_a_request_meanwhile_reads_once_more(world: World) -> None:
    async def scenario() -> None:
        world.reloader.start()
        world.may_read.clear()
        world.reloader.request()
        await world.reading(1)
        world.write(ipv6_prefix=128)
        for _ in range(3):
            world.reloader.request()
        world.may_read.set()
        await world.idle()

    asyncio.run(scenario())
    assert [settings.ipv6_prefix for settings in world.in_force] == [64, 128]
    assert world.supervision.told == ["reloading", "ready "] * 2


def test_a_request_before_the_daemon_serves_waits(world: World) -> None:
    async def scenario() -> None:
        world.reloader.request()
        await asyncio.sleep(0.01)
        assert not world.supervision.told
        world.reloader.start()
        await world.idle()

    asyncio.run(scenario())
    assert len(world.in_force) == 1


def test_nothing_changes_once_it_stops(world: World) -> None:
    async def scenario() -> None:
        world.reloader.start()
        world.may_read.clear()
        world.reloader.request()
        await world.reading(1)
        world.reloader.stop()
        world.may_read.set()
        world.reloader.request()
        await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert not world.in_force
    assert world.reads == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, ["ipv6_prefix: expected", "limits: expected", "the configuration stays as it was"]),
        (
            ConfigError([Problem("f", 1, "s", "a", "b"), Problem("f", 2, "s", "a", "b")]),
            ["f:1: s: expected a", "f:2: s: expected a", "the configuration stays as it was"],
        ),
        (ImportError("no driver"), ["the configuration stays as it was"]),
    ],
)
def test_a_file_with_mistakes_changes_nothing(
    world: World, error: Exception | None, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        world.reloader.start()
        if error is None:
            world.write(limits="many", ipv6_prefix=1000, fail_action="reject")
        world.error = error
        world.reloader.request()
        await world.idle()
        world.error = None
        world.write(ipv6_prefix=128)
        world.reloader.request()
        await world.idle()

    before = world.reloader.settings
    asyncio.run(scenario())
    assert world.supervision.told == [
        "reloading",
        "ready the configuration could not be read anew",
        "reloading",
        "ready ",
    ]
    assert len(lines(caplog, logging.ERROR)) == len(told)
    for line, part in zip(lines(caplog, logging.ERROR), told, strict=True):
        assert part in line
    assert [settings.ipv6_prefix for settings in world.in_force] == [128]
    assert world.in_force[0].limits == before.limits


def test_a_file_that_is_gone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world.reloader.start()
        world.path.unlink()
        world.reloader.request()
        await world.idle()

    asyncio.run(scenario())
    missing, stays = lines(caplog, logging.ERROR)
    assert "No such file" in missing
    assert stays == "the configuration stays as it was"
    assert not world.in_force


def test_a_daemon_on_the_defaults_finds_a_file_at_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(world.path.parent))
    world.path = world.path.parent / ".config" / world.path.name
    world.path.parent.mkdir()
    world.reloader.settings = Settings()

    async def scenario() -> None:
        world.reloader.start()
        world.write(ipv6_prefix=128)
        world.reloader.request()
        await world.idle()

    asyncio.run(scenario())
    assert world.reloader.settings == Settings(ipv6_prefix=128, config_file=str(world.path))
