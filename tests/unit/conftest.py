"""What unit tests share."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from policyd_rate_limit import config
from policyd_rate_limit import server as server_module
from support.configuration import Load
from support.serving import Run


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the text of a YAML file."""

    def load(text: str) -> config.Configuration:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path)

    return load


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a scenario in a loop of each kind, in which time passes only when the scenario says so."""
    monkeypatch.setattr(server_module, "TICK_SECONDS", 3600.0)
    monkeypatch.setattr(server_module, "SETTLE_SECONDS", 0.0)
    return asyncio.run if request.param == "asyncio" else uvloop.run
