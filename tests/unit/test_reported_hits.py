"""Which refusals the report tells of."""

from __future__ import annotations

from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.observe.hits import ReportedHits


def test_refusals_of_reported_windows_are_hits_and_nothing_more_is_wanted() -> None:
    hits: list[tuple[str, Limit]] = []
    reported = ReportedHits([60], lambda counter, limit: hits.append((counter, limit)))
    assert not reported.refused("user:a", Limit(10, 60))
    assert not reported.refused("user:a", Limit(10, 3600))
    reported.reconfigure(Settings(report=True, report_to="a@example.org", report_limits=(3600,)))
    assert not reported.refused("user:b", Limit(10, 60))
    assert not reported.refused("user:b", Limit(10, 3600))
    reported.reconfigure(Settings(report=False, report_limits=(60, 3600)))
    assert not reported.refused("user:c", Limit(10, 3600))
    assert hits == [("user:a", Limit(10, 60)), ("user:b", Limit(10, 3600))]
