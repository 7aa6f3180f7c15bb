"""How many examples each property is held against.

Usually as many as its test asks for, or Hypothesis' 100; with ``CI=true`` the same ones each time. ``make test-random``
sets ``POLICYD_TEST_EXAMPLES``: so many of each, new ones each time, from a seed that is printed.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

_AT_RANDOM: Final = int(os.environ.get("POLICYD_TEST_EXAMPLES", "0"))


def examples(usual: int) -> int:
    """``usual``, for a test whose examples cost more or find less than those of others; all that are asked for."""
    return _AT_RANDOM or usual


def load_profile() -> None:
    """Have Hypothesis look for as many examples as this run is to have. A busy machine is no fault of the code."""
    settings.register_profile("policyd", deadline=None)
    settings.load_profile("policyd")
    if _AT_RANDOM:
        settings.register_profile("random", derandomize=False, max_examples=_AT_RANDOM, print_blob=True)
        settings.load_profile("random")
