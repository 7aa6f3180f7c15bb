"""Waiting for what comes by itself, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable

STEP_SECONDS = 0.02


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Return as soon as ``condition`` holds; an error naming ``what`` after ``seconds`` without."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(STEP_SECONDS)
