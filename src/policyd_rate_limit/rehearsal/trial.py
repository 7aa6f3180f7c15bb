"""One configuration, tried on mails of the past: the service that daemons have, by the clock of the log, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.mails import Mails
from policyd_rate_limit.domain.outcome import BLOCK, REFUSE
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.rehearsal.asking import only_recipient, recipients, request
from policyd_rate_limit.rehearsal.counting import Counting
from policyd_rate_limit.service import Asking, Service
from policyd_rate_limit.storage.administration import MOST_BLOCKS
from policyd_rate_limit.system.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from policyd_rate_limit.domain.charge import Demand, Waiting
    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.domain.outcome import Outcome
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.policy import Policy
    from policyd_rate_limit.rehearsal.past import Past
    from policyd_rate_limit.storage.administration import Override

_REFUSING: Final = frozenset({REFUSE, BLOCK})
_ENTRIES_OF_MAILS: Final = 1_000
"""Entries of mails that are remembered: all that is asked about one comes at once."""
_SWEEPS: Final = 256
"""The most sweeps at once, however long nothing came."""


class Trial(Asking):
    """What ``policy`` does with each mail. ``stages``: at which Postfix asks. ``max_ids``: bounds the memory.

    ``longest``: the longest window, in seconds.
    """

    def __init__(self, policy: Policy, stages: Collection[str], *, max_ids: int, longest: int) -> None:
        self._ledger = Ledger(max_ids)
        self._ledger.mails = Mails(_ENTRIES_OF_MAILS)
        self._longest = longest
        self._stages = tuple(stage for stage in (RCPT, DATA, END_OF_MESSAGE) if stage in stages)
        self.counting = Counting(policy, self._ledger)
        self.now = 0.0
        self._swept = 0
        self._mails = 0
        self._is_refused = False
        self._entries: list[Entry] = []
        self._blocks: list[Override] = []
        self._first_end = 0  # of those, Unix seconds
        self._blocked = 0
        self.refused = 0
        self.refused_recipients = 0
        self._service = Service(
            policy,
            self._submit,
            observer=self.counting,
            uncounted=_silent(),
            policy_service="",
            keep_blocks=self._keep_blocks,
            clock=self._clock,
        )

    def rehearse(self, past: Past) -> int:
        """Have it decided about ``past``; how many of its recipients are refused."""
        self._advance(past.time)
        self._mails += 1
        instance = f"{self._mails:x}"
        counting = self.counting
        counting.begin(self.now, past.recipient_count, refused_then=past.refused > 0)
        passed, last_passed = past.recipient_count, ""
        for stage in self._stages:
            if stage == RCPT:
                passed = 0
                for recipient in recipients(past, instance):
                    if self._passes(request(past, RCPT, instance, recipient, 0)):
                        passed += 1
                        last_passed = recipient
            elif not self._passes(request(past, stage, instance, only_recipient(past, passed, last_passed), passed)):
                passed = 0
            if not passed:
                break
        counting.end(passed)
        refused = past.recipient_count - passed
        if refused > 0:
            self.refused += 1
            self.refused_recipients += refused
        return refused

    def _passes(self, asked: Request) -> bool:
        self._is_refused = False
        self._service.ask(asked, self)
        return not self._is_refused

    def answer(self, outcome: Outcome) -> None:
        self._is_refused = outcome.kind in _REFUSING

    def _submit(self, demand: Demand, waiting: Waiting) -> None:
        self._entries.clear()
        waiting.conclude(self._ledger.decide(demand, self._entries))

    def _advance(self, time: float) -> None:
        """The clock of the log shows ``time``; it never goes back."""
        if time <= self.now:
            return
        self.now = time
        self._ledger.advance(time)
        second = int(time)
        if second != self._swept:
            for _ in range(min(second - self._swept, _SWEEPS)):
                self._ledger.sweep(self._longest)
            self._swept = second

    def _clock(self) -> float:
        return self.now

    def _keep_blocks(self, blocks: Sequence[Override]) -> int:
        """Keep ``blocks``, as a database would, and have the service forget those that have ended."""
        if len(self._blocks) + len(blocks) > MOST_BLOCKS and self._first_end <= self.now:
            self._blocks = [block for block in self._blocks if block.until > self.now]
            self._first_end = min((block.until for block in self._blocks), default=0)
            self._service.override(self._blocks, self._blocked)
        if len(self._blocks) + len(blocks) > MOST_BLOCKS:
            return 0
        self._first_end = min([self._first_end or blocks[0].until, *(block.until for block in blocks)])
        self._blocks.extend(blocks)
        self._blocked += 1
        return self._blocked


def _silent() -> Throttle:
    """What lets nothing be logged of a stage that no rule counts at."""
    silent = Throttle(float("inf"), lambda: 0.0)
    silent.hit()
    return silent
