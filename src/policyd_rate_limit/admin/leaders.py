"""Who sends most, and who has used most of a limit, of all that a memory knows: rankings that are kept up with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.admin.ranking import NOTHING, Ranking
from policyd_rate_limit.domain.limits import LARGEST, Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.limits import Limits

HOUR: Final = 3_600
DAY: Final = 86_400

MOST_WINDOWS: Final = 4
"""The most windows, beside the hour and the day, by whose mails is ranked: those that were asked for last."""


class Leaders:
    """The rankings: by share, and by the mails in some windows. For one thread at a time."""

    def __init__(self) -> None:
        self._by_share = Ranking()
        self._by_mails = {HOUR: Ranking(), DAY: Ranking()}
        self.windows: Limits = (Limit(LARGEST, HOUR), Limit(LARGEST, DAY))
        """Those whose mails :meth:`note` is told, the hour first."""

    def note(self, key: str, mails: Sequence[int], share: float) -> None:
        """``key`` has used that ``share`` of a limit at the most, and sent so many ``mails`` in each of the windows."""
        self._by_share.note(key, (share, mails[0]))
        for ranking, amount in zip(self._by_mails.values(), mails, strict=True):
            ranking.note(key, (amount, share) if amount else NOTHING)

    def begin_pass(self) -> None:
        """All have been noted since the last call."""
        for ranking in (self._by_share, *self._by_mails.values()):
            ranking.begin_pass()

    def kept(self) -> set[str]:
        """All that some ranking keeps."""
        return {key for ranking in (self._by_share, *self._by_mails.values()) for key in ranking.kept()}

    def ranking(self, window: int, *, by_share: bool) -> Ranking | None:
        """That by share, or by the mails in ``window`` (seconds); None: it is not kept up."""
        if by_share:
            return self._by_share
        ranking = self._by_mails.get(window)
        if ranking is not None and window not in (HOUR, DAY):  # it is the one that was asked for last
            self._by_mails[window] = self._by_mails.pop(window)
            self._told()
        return ranking

    def begin(self, window: int) -> Ranking:
        """Rank by the mails in ``window`` from now on; all that there are have yet to be noted there."""
        if len(self._by_mails) >= MOST_WINDOWS + len((HOUR, DAY)):
            del self._by_mails[list(self._by_mails)[2]]
        ranking = self._by_mails[window] = Ranking()
        self._told()
        return ranking

    def _told(self) -> None:
        self.windows = tuple(Limit(LARGEST, window) for window in self._by_mails)
