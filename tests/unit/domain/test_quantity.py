"""Numbers of things."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.quantity import quantity


@pytest.mark.parametrize(("number", "said"), [(0, "0 errors"), (1, "1 error"), (2, "2 errors")])
def test_one_and_several(number: int, said: str) -> None:
    assert quantity(number, "error") == said


@pytest.mark.parametrize(("number", "said"), [(0, "0 batches"), (1, "1 batch"), (2, "2 batches")])
def test_a_plural_of_its_own(number: int, said: str) -> None:
    assert quantity(number, "batch", "batches") == said
