"""Who is told of refusals."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.listener import Listener


def test_a_listener_says_what_it_wants_and_takes_it() -> None:
    """Half of one is refused where it is made, not at the first refusal; beside compiled modules any is, but ours."""

    class Half(Listener):
        def wants(self, key: str, exceeded: Limit) -> bool:
            return True

    with pytest.raises(TypeError, match=r"tell|cannot inherit from compiled"):
        Half()  # type: ignore[abstract]  # that is what is tested
