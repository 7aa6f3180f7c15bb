"""What is counted of decisions, and how much of it there can be."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, refusal
from policyd_rate_limit.domain.decision import KINDS, NOT_COUNTED, VERDICTS
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.outcome import ACCEPT, AWAY, FULL, NO_ANSWER, REFUSE, Outcome
from policyd_rate_limit.domain.request import RCPT, Request
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.observe.decisions import Decisions
from policyd_rate_limit.observe.health import LOOP_SECONDS, Health, health
from policyd_rate_limit.observe.metrics import MOST_LABELS, MOST_LIMITS, OTHER, SECONDS, Metrics
from policyd_rate_limit.system.throttle import Throttle
from support.policies import default_rule

RULES = (default_rule(),)
REQUEST = Request(RCPT, "", "", "", "", "", "", 0)
LIMIT = Limit(10, 60)


def counted(metrics: Metrics) -> dict[tuple[str, str], int]:
    return {
        (kind, verdict): count
        for kind, verdicts in metrics.decisions.items()
        for verdict, count in verdicts.items()
        if count
    }


def test_each_decision_is_counted_once() -> None:
    metrics = Metrics()
    decisions = Decisions(
        lambda demand, done: done(()),
        refused=Throttle(60, lambda: 0.0),
        warned=Throttle(60, lambda: 0.0),
        metrics=metrics,
    )
    results: list[tuple[Verdict | Exception, Outcome]] = [
        (Verdict((1,)), Outcome(ACCEPT, "ok")),
        (Verdict((0,)), Outcome(ACCEPT, "ok")),
        (refusal(LIMIT), Outcome(REFUSE, "no")),
        (StoreFull("full"), Outcome(FULL, "later")),
        (StoreUnavailable("away"), Outcome(AWAY, "later")),
        (ValueError("ours"), NO_ANSWER),
    ]
    demand = Demand((Charge("sender:a", 1, (LIMIT,)),))
    for result, outcome in results:
        decisions.decided(REQUEST, demand, RULES, result, outcome, 0.0)
    for key in ("", "client:192.0.2.1", "user:\udcff"):
        decisions.passed(REQUEST, key, NOT_COUNTED, 0.0)
    assert counted(metrics) == {
        ("sender", "admitted"): 2,
        ("sender", "refused"): 1,
        ("sender", "full"): 1,
        ("sender", "away"): 1,
        ("sender", "none"): 1,
        ("none", "not-counted"): 1,
        ("client", "not-counted"): 1,
        ("user", "not-counted"): 1,
    }
    assert sum(metrics.answers) == 9
    assert metrics.refusals == {"10/1m": 1}


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(SECONDS))))
def test_answers_are_counted_by_how_long_they_took(times: list[float]) -> None:
    metrics = Metrics()
    for seconds in times:
        metrics.decided("user:a", "admitted", seconds)
    for index, bound in enumerate(SECONDS):
        assert sum(metrics.answers[: index + 1]) == sum(seconds <= bound for seconds in times)
    assert sum(metrics.answers) == len(times)
    assert metrics.answer_seconds == pytest.approx(sum(times))


@given(st.lists(st.tuples(st.sampled_from(["user:", "sender:", "client:", ""]), st.text(), st.sampled_from(VERDICTS))))
def test_no_id_makes_a_series(decisions: list[tuple[str, str, str]]) -> None:
    metrics = Metrics()
    for kind, name, verdict in decisions:
        metrics.decided(kind and kind + name, verdict, 0.0)
    assert set(metrics.decisions) == set(KINDS)
    assert all(set(verdicts) == set(VERDICTS) for verdicts in metrics.decisions.values())


def test_the_limits_with_a_series_are_bounded() -> None:
    """A query, or overrides, may give each id limits of its own."""
    metrics = Metrics()
    for _ in range(2):
        for number in range(3 * MOST_LIMITS):
            metrics.refused(Limit(number, 60))
    assert len(metrics.refusals) == MOST_LIMITS + 1
    assert metrics.refusals[OTHER] == 4 * MOST_LIMITS
    assert metrics.refusals["0/1m"] == 2
    assert len(metrics._labels) == MOST_LIMITS


def test_the_rules_with_a_series_of_warnings_and_blocks_are_bounded() -> None:
    metrics = Metrics()
    for _ in range(2):
        for number in range(2 * MOST_LABELS):
            metrics.warned(f"rule{number}|user:{number}")
            metrics.blocked(f"rule{number}/bytes|user:{number}")
    metrics.warned("user:alice")
    assert len(metrics.warnings) == len(metrics.blocks) == MOST_LABELS + 1
    assert (metrics.warnings["rule0"], metrics.warnings[OTHER]) == (2, 2 * MOST_LABELS + 1)
    assert (metrics.blocks["rule0"], metrics.blocks[OTHER]) == (2, 2 * MOST_LABELS)


def test_who_would_be_blocked_is_not_counted_as_blocked() -> None:
    metrics = Metrics()
    throttle = Throttle(60, lambda: 0.0)
    decisions = Decisions(lambda demand, done: done(()), refused=throttle, warned=throttle, metrics=metrics)
    for shadow in (True, False):
        decisions.blocks(REQUEST, "person|user:a", LIMIT, 60, shadow=shadow)
    assert metrics.blocks == {"person": 1}


@pytest.mark.parametrize(
    ("turned", "alive", "away", "expected"),
    [
        (0, True, None, Health(True, "ok")),
        (LOOP_SECONDS, True, None, Health(True, "ok")),
        (LOOP_SECONDS + 1, True, None, Health(False, "the event loop has been stuck for 6 s")),
        (0, False, None, Health(False, "the store's thread is stuck")),
        (9, False, 9, Health(False, "the event loop has been stuck for 9 s; the store's thread is stuck")),
        (0, True, 12, Health(True, "ok, but the database has been away for 12 s")),
    ],
)
def test_health(turned: float, alive: bool, away: float | None, expected: Health) -> None:
    """``turned`` and ``away`` in seconds ago."""
    now = 1000.0
    since = None if away is None else now - away
    assert health(now, loop_turned=now - turned, store_alive=alive, away_since=since) == expected


def test_without_metrics_nobody_pays_for_their_package() -> None:
    script = "import sys, policyd_rate_limit.daemon.start; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
