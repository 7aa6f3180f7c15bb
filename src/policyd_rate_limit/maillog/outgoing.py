"""What was read and is not handed out yet, in the order of time.

A mail waits here where a later line may tell more about it: its recipients, or that it is one that was handed back.
What comes behind it waits as well.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.maillog.mail import Mail

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.mail import Decided
    from policyd_rate_limit.maillog.tally import Tally

MOST_HELD: Final = 50_000
"""Mails, refusals and decisions that wait; then the oldest is handed out as it is."""


@mypyc_attr(acyclic=True)
@final
class Held:
    """``item``, which waits until ``due``, in Unix seconds, or until ``is_done``.

    ``recipients``: what deliveries have told so far, None where nobody wants to know. ``is_suspect``: a filter may
    have handed it back. ``is_gone``: it was handed out. ``is_void``: it has turned out not to be, and is left out.
    """

    def __init__(self, item: Mail | Decided, due: float) -> None:
        self.item = item
        self.due = due
        self.recipients: dict[str, None] | None = None
        self.is_suspect = False
        self.is_done = False
        self.is_gone = False
        self.is_void = False


@final
class Outgoing:
    """Takes what is read in the order of time, and hands it out in that order; ``tally`` counts it then."""

    def __init__(self, tally: Tally) -> None:
        self._ready: list[Mail | Decided] = []
        self._held: deque[Held] = deque()
        self._tally = tally

    def __len__(self) -> int:
        return len(self._held)

    def put(self, item: Mail | Decided) -> None:
        """``item`` is complete."""
        if not self._held:
            self._hand_out(item)
            return
        held = Held(item, item.time)
        held.is_done = True
        self.hold(held)

    def hold(self, held: Held) -> None:
        """``held`` is not complete; its time is the latest of all."""
        self._held.append(held)
        self.release(held.item.time)

    def release(self, time: float) -> None:
        """Hand out what is complete by now, at ``time``, and has nothing in front of it that is not."""
        waiting = self._held
        while waiting and (waiting[0].is_done or waiting[0].due <= time or len(waiting) > MOST_HELD):
            held = waiting.popleft()
            held.is_gone = True
            if held.is_void:
                continue
            item = held.item
            if held.recipients is not None and isinstance(item, Mail):
                item.recipients = tuple(held.recipients)
            self._hand_out(item)

    def take(self) -> list[Mail | Decided]:
        """What was handed out since this was called last."""
        ready, self._ready = self._ready, []
        return ready

    def end(self) -> None:
        """Nothing more will come."""
        self.release(float("inf"))

    def _hand_out(self, item: Mail | Decided) -> None:
        if isinstance(item, Mail):
            self._tally.mails[item.origin] += 1
        else:
            self._tally.decisions += 1
        self._ready.append(item)
