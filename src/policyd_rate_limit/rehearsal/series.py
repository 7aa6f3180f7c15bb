"""Mails and refusals over time, in a bounded number of steps."""

from __future__ import annotations

from typing import Final

from policyd_rate_limit.rehearsal.result import Series

MOST_STEPS: Final = 400
"""The most steps; where the log goes on beyond them they become longer."""

_LENGTHS: Final = (60, 300, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400, 604_800)
"""Seconds of a step; beyond the last each is twice the one before. Each is a multiple of the one before."""


class Steps:
    """Counts as time goes on; the first step begins with a whole number of its length, counted from 1970."""

    def __init__(self, most_steps: int = MOST_STEPS) -> None:
        self._most_steps = most_steps
        self._seconds = _LENGTHS[0]
        self._first = 0  # the number of the first step, counted from 1970
        self._end = 0  # Unix seconds: of the last step
        self._mails: list[int] = []
        self._refused: list[int] = []
        self._before: list[int] = []

    def add(self, time: float, *, refused: bool, refused_before: bool) -> None:
        """One mail at ``time`` (Unix seconds), which is no earlier than the one before."""
        if time >= self._end:
            self._go_on(time)
        self._mails[-1] += 1
        if refused:
            self._refused[-1] += 1
        if refused_before:
            self._before[-1] += 1

    def _go_on(self, time: float) -> None:
        if not self._mails:
            self._first = int(time) // self._seconds
        while int(time) // self._seconds - self._first >= self._most_steps:
            self._lengthen()
        missing = int(time) // self._seconds - self._first + 1 - len(self._mails)
        for counts in (self._mails, self._refused, self._before):
            counts += [0] * missing
        self._end = (self._first + len(self._mails)) * self._seconds

    def _lengthen(self) -> None:
        longer = next((one for one in _LENGTHS if one > self._seconds), 2 * self._seconds)
        times = longer // self._seconds
        offset = self._first % times
        for counts in (self._mails, self._refused, self._before):
            padded = [0] * offset + counts
            counts[:] = [sum(padded[at : at + times]) for at in range(0, len(padded), times)]
        self._first //= times
        self._seconds = longer

    def series(self) -> Series:
        """All of it."""
        begin = self._first * self._seconds
        return Series(begin, self._seconds, tuple(self._mails), tuple(self._refused), tuple(self._before))
