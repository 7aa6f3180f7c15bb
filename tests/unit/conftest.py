"""What unit tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyd_rate_limit import config
from support.configuration import Load


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """A command that runs in the process of pytest may change its umask, and whether anything is logged."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
    logging.disable(logging.NOTSET)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the text of a YAML file."""

    def load(text: str) -> config.Configuration:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path)

    return load
