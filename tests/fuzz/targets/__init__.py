"""One module for each reader that is fuzzed.

A target has ``one_input(data: bytes) -> None``, which raises (an assertion, or whatever the reader should not raise)
when the reader is wrong, and ``SEEDS``, inputs that the fuzzer begins with; ``tests/unit/test_fuzz_targets.py`` runs
them all.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast


class Target(Protocol):
    """What a module of this package holds."""

    SEEDS: Sequence[bytes]

    def one_input(self, data: bytes) -> None:
        """Read ``data`` as the program would."""


def names() -> list[str]:
    """The names of all targets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Target:
    """The target of that name."""
    return cast("Target", importlib.import_module(f"{__name__}.{name}"))
