"""What every test shares."""

from __future__ import annotations

import pytest

from support.examples import load_profile
from support import reruns
from support.programs import require_root

load_profile()

pytest_addoption = reruns.pytest_addoption
pytest_configure = reruns.pytest_configure
pytest_terminal_summary = reruns.pytest_terminal_summary


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long begins first, so that all processes that run tests end at about the same time."""

    def seconds(item: pytest.Item) -> int:
        marker = item.get_closest_marker("long")
        return int(marker.args[0]) if marker else 0

    reruns.pytest_collection_modifyitems(config, items)
    items.sort(key=seconds, reverse=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs root is skipped without it; in CI it fails."""
    if item.get_closest_marker("needs_root"):
        require_root()
