"""A batch of demands between its beginning and its verdicts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from policyd_rate_limit.compiling import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.charge import Verdict


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests
class Batch(ABC):
    """Demands that a store has in hand, and what is left to do until the verdicts on them hold.

    It ends by :meth:`finish`, or by a :meth:`poll` that gives the verdicts. Until then no other method of the store may
    be called, unless the batch is in flight.

    ``verdicts``: as it was decided; empty: that is left to be done, too. The refusals hold at once, since nothing of
    them has to be kept. Should the batch fail, they may have been too strict.
    ``is_done``: all ``verdicts`` hold, and nothing is left to do, not even :meth:`finish`.

    ``descriptors``: it is in flight, sent to the database, and answered while the event loop does something else. They
    can be read from when :meth:`poll` may have something to tell. At ``deadline``, by the monotonic clock, it is to
    end by :meth:`finish`. Meanwhile ``prepare`` may be called, for ``most_in_flight`` batches in all. They end in the
    order in which they were sent, and once one ends by :meth:`finish` so have those behind it.
    """

    verdicts: Sequence[Verdict] = ()
    is_done: bool = False
    descriptors: Sequence[int] = ()
    deadline: float = math.inf
    most_in_flight: int = 1

    @abstractmethod
    def finish(self) -> list[Verdict]:
        """Do what is left; the verdicts, which hold from then on. Blocks.

        Raises as :meth:`policyd_rate_limit.storage.contract.Store.admit`.
        """

    def poll(self) -> list[Verdict] | None:
        """Of a batch in flight, without waiting: the verdicts, which hold, or None as long as they are not there.

        :raises StoreError: that takes :meth:`finish`.
        """
        return None
