"""What every test shares."""

from __future__ import annotations

import hypothesis
import pytest

from support.programs import require_root

# A busy machine is no fault of the code.
hypothesis.settings.register_profile("policyd", deadline=None)
hypothesis.settings.load_profile("policyd")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs root is skipped without it; in CI it fails."""
    if item.get_closest_marker("needs_root"):
        require_root()
