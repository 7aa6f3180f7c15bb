"""What unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd_rate_limit import config
from support.configuration import Load


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the text of a YAML file."""

    def load(text: str) -> config.Configuration:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path)

    return load
