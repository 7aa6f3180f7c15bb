"""Reading configurations, and what is told of wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import ConfigError, Problem

USUAL = (Limit(10, 60), Limit(150, 86400))
"""The default of ``limits``."""

Load = Callable[[str], config.Configuration]


def problems(load: Callable[..., object], *arguments: object) -> tuple[Problem, ...]:
    """What is wrong, by ``load`` with ``arguments``, which fails."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    assert caught.value.problems
    return caught.value.problems
