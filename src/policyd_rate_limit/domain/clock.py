"""The clock of what is counted: in which second something is judged, which it is dated, and what steps back mean.

**Time** is whole Unix seconds. A charge made at time t is dated ``ceil(t)`` and judged at ``floor(t)``, and it
leaves a window of S seconds when ``date + S <= now``. So nothing leaves a window before S seconds have passed,
and what was charged in the middle of a second leaves less than a second late.

**A clock that steps back.** A date that lies in the future when the step is noticed becomes that moment: the
charge goes on counting, for at most one window from then. Whoever keeps dates marks them with the steps that they have
seen, and mends them when they are next touched.
"""

from __future__ import annotations

import math
from typing import Final

MOST_STEPS: Final = 64
KEPT_BITS: Final = 32
"""A mark holds, below the steps of the clock, for how many seconds what it marks is kept; 0: that is not known."""
KEPT: Final = (1 << KEPT_BITS) - 1


class Clock:
    """``now`` is the second at which charges are judged, ``date`` the one that a charge made now is given.

    ``seen`` is the mark of what has seen all steps back. Until the first :meth:`advance` the clock shows 0.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self.now = 0
        self.date = 0
        self.seen = 0
        self._steps: list[tuple[int, int]] = []  # back, as (the first mark that has seen it, the moment)

    def advance(self, time: float) -> bool:
        """The clock shows ``time`` (Unix seconds); whether it has stepped back since the last call."""
        now = math.floor(time)
        date = math.ceil(time)
        stepped_back = now < self.now
        self.time = time
        self.now = now
        self.date = date
        if stepped_back:
            # A later step to an earlier moment makes the earlier ones pointless.
            while self._steps and self._steps[-1][1] >= date:
                self._steps.pop()
            del self._steps[: max(0, len(self._steps) - MOST_STEPS + 1)]
            self.seen += 1 << KEPT_BITS
            self._steps.append((self.seen, date))
        return stepped_back

    def moment_after(self, mark: int) -> int:
        """No date that bears ``mark``, which has not seen all steps, is later than this any more."""
        return next(moment for since, moment in self._steps if since > mark)
