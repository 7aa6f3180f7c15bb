"""The site that tests of pages and API reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.web_site import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A site at https://limits.example.org without accounts, on an empty SQLite database."""
    made = World(tmp_path)
    yield made
    made.close()
