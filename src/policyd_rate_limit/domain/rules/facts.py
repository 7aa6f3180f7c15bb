"""What is known of a request beside its attributes."""

from __future__ import annotations

from time import localtime, strftime
from typing import Final

from policyd_rate_limit.compiling import mypyc_attr


@mypyc_attr(acyclic=True)
class Facts:
    """What rules look at besides what Postfix sent: when the request came.

    ``now``: that moment, in Unix seconds.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self._time_of_day = ""

    @property
    def time_of_day(self) -> str:
        """``22:05``, by the clock of this host."""
        if not self._time_of_day:
            self._time_of_day = strftime("%H:%M", localtime(self.now))
        return self._time_of_day


NO_FACTS: Final = Facts(0.0)
"""Those of a request of which nobody asks for any."""
