"""A suggestion as JSON, for programs: members are added in later versions, never renamed or removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.rehearsal.moment import moment_members

if TYPE_CHECKING:
    from policyd_rate_limit.rehearsal.stolen import Suspect
    from policyd_rate_limit.rehearsal.suggestion import Outlier, SuggestedRule, Suggestion


def of_suggestion(
    suggestion: Suggestion, configuration: str, log: Mapping[str, int], damaged: Mapping[str, str]
) -> dict[str, Any]:
    """All of it. Times are Unix seconds and RFC 3339, periods are seconds, limits pairs as in the configuration.

    ``configuration``: the same as a file. ``log``: figures of what was read; ``damaged``: files, and what is wrong.
    """
    return {
        "mails": suggestion.mails,
        "recipients": suggestion.recipients,
        **moment_members("began", suggestion.began),
        **moment_members("ended", suggestion.ended),
        "spare": float(suggestion.spare),
        "room": float(suggestion.room),
        "rules": {rule.subject.name: _of_rule(rule) for rule in suggestion.rules},
        "stolen": [_of_suspect(suspect) for suspect in suggestion.suspects],
        "log": {**log, "damaged": [{"file": name, "what": what} for name, what in damaged.items()]},
        "remarks": list(suggestion.remarks),
        "configuration": configuration,
    }


def _of_rule(rule: SuggestedRule) -> dict[str, Any]:
    return {
        "key": rule.subject.key,
        "ids": rule.ids,
        "mails": rule.mails,
        "limits": [list(window.limit) for window in rule.windows],
        "windows": [
            {
                "seconds": window.seconds,
                "spared": window.spared,
                "maximum": window.maximum,
                "peaks": [{"from": one.low, "to": one.high - 1, "ids": one.number} for one in window.bins],
                "curve": [
                    {"maximum": maximum, "ids": ids, "mails_at_most": mails} for maximum, ids, mails in window.curve
                ],
            }
            for window in rule.windows
        ],
        "overrides": [_of_outlier(outlier, rule) for outlier in rule.outliers],
        "left_out": list(rule.left_out),
        "forgotten": rule.forgotten,
        "crowded": rule.is_crowded,
    }


def _of_outlier(outlier: Outlier, rule: SuggestedRule) -> dict[str, Any]:
    return {
        "id": outlier.name,
        "limits": [list(limit) for limit in outlier.limits],
        "peaks": [
            {"seconds": window.seconds, "used": peak, **moment_members("at", when)}
            for window, peak, when in zip(rule.windows, outlier.peaks, outlier.times, strict=True)
        ],
        "why": outlier.why,
    }


def _of_suspect(suspect: Suspect) -> dict[str, Any]:
    return {
        "id": suspect.name,
        "day": suspect.day.isoformat(),
        "recipients": suspect.recipients,
        "mails": suspect.mails,
        "usual_recipients": suspect.usual,
        "reasons": list(suspect.reasons),
    }
