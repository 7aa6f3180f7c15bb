"""Waiting for what comes by itself, with an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 20.0  # seconds, for a machine that is very busy
STEP_SECONDS = 0.02


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = PATIENCE, *, step: float = STEP_SECONDS
) -> None:
    """Return as soon as ``condition`` holds; an error naming ``what`` after ``seconds`` without.

    ``step``: so many seconds pass between two looks; more where a look costs much.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(step)


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until ``condition`` holds; TimeoutError after PATIENCE without."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
