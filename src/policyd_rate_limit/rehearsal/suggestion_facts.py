"""A suggestion as JSON, for programs."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TypedDict

from policyd_rate_limit.domain.limits import spell_limit, spell_period
from policyd_rate_limit.rehearsal.stolen import Suspect
from policyd_rate_limit.rehearsal.suggestion import SuggestedRule, Suggestion


class Facts(TypedDict):
    """Moments are RFC 3339, in the zone that was asked for."""

    mails: int
    recipients: int
    began: str | None
    ended: str | None
    spare: float
    room: float
    rules: dict[str, dict[str, object]]
    stolen: list[dict[str, object]]
    log: dict[str, int]
    damaged: dict[str, str]
    configuration: str


def facts(
    suggestion: Suggestion, zone: tzinfo, configuration: str, log: dict[str, int], damaged: dict[str, str]
) -> Facts:
    """All that is known of ``suggestion``; ``log``: figures of what was read, by name."""
    return {
        "mails": suggestion.mails,
        "recipients": suggestion.recipients,
        "began": _moment(suggestion.began, zone),
        "ended": _moment(suggestion.ended, zone),
        "spare": float(suggestion.spare),
        "room": float(suggestion.room),
        "rules": {rule.subject.name: _rule(rule, zone) for rule in suggestion.rules},
        "stolen": [_suspect(suspect) for suspect in suggestion.suspects],
        "log": log,
        "damaged": damaged,
        "configuration": configuration,
    }


def _rule(rule: SuggestedRule, zone: tzinfo) -> dict[str, object]:
    return {
        "key": rule.subject.key,
        "ids": rule.ids,
        "mails": rule.mails,
        "limits": [spell_limit(window.limit) for window in rule.windows],
        "windows": {
            spell_period(window.seconds): {
                "spared": window.spared,
                "maximum": window.maximum,
                "peaks": [{"from": one.low, "to": one.high - 1, "ids": one.number} for one in window.bins],
                "curve": [
                    {"maximum": maximum, "ids": ids, "mails_at_most": mails} for maximum, ids, mails in window.curve
                ],
            }
            for window in rule.windows
        },
        "overrides": [
            {
                "id": outlier.name,
                "limits": list(map(spell_limit, outlier.limits)),
                "peaks": {
                    spell_period(window.seconds): {"used": peak, "at": _moment(when, zone)}
                    for window, peak, when in zip(rule.windows, outlier.peaks, outlier.times, strict=True)
                },
                "why": outlier.why,
            }
            for outlier in rule.outliers
        ],
        "left_out": list(rule.left_out),
        "forgotten": rule.forgotten,
        "too_many_at_once": rule.is_crowded,
    }


def _suspect(suspect: Suspect) -> dict[str, object]:
    return {
        "id": suspect.name,
        "day": suspect.day.isoformat(),
        "recipients": suspect.recipients,
        "mails": suspect.mails,
        "usual_recipients": suspect.usual,
        "reasons": list(suspect.reasons),
    }


def _moment(time: float | None, zone: tzinfo) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, zone).isoformat(timespec="seconds")
