"""What every test shares."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
from collections.abc import Callable, Generator, Mapping

import pytest
import uvloop

from support import reruns
from support.dealing import deal
from support.examples import load_profile
from support.programs import require_root

load_profile()

pytest_addoption = reruns.pytest_addoption
pytest_configure = reruns.pytest_configure
pytest_terminal_summary = reruns.pytest_terminal_summary


@pytest.hookimpl(trylast=True)  # when what is not to run has been left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long begins first, so that all processes that run tests end at about the same time."""

    def seconds(item: pytest.Item) -> int:
        marker = item.get_closest_marker("long")
        return int(marker.args[0]) if marker else 0

    reruns.pytest_collection_modifyitems(config, items)
    items[:] = deal(items, seconds, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """While tests are looked for nothing becomes garbage; to look for it takes a sixth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What was found stays to the end: to look for garbage in it again and again took a twentieth of the time."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart() -> None:
    """With ``POLICYD_TEST_COMPILED=1`` the modules that the tests import must be the compiled ones."""
    if os.environ.get("POLICYD_TEST_COMPILED") != "1":
        return
    for name in ("domain.windows", "protocol.codec", "storage.replica", "storage.engine.pacing", "storage.record"):
        module = importlib.import_module(f"policyd_rate_limit.{name}")
        if not str(module.__file__).endswith(".so"):
            status = pytest.ExitCode.USAGE_ERROR if os.environ.get("CI") == "true" else pytest.ExitCode.OK
            pytest.exit(f"{module.__file__} is not compiled: is there a C compiler?", status)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs root is skipped without it; in CI it fails."""
    if item.get_closest_marker("needs_root"):
        require_root()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test that is a coroutine runs in the event loop of the daemon and in Python's own."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
