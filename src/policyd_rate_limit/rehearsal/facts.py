"""A rehearsal as JSON: members are added in later versions, never renamed or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.rehearsal.ids import MOST_IDS
from policyd_rate_limit.rehearsal.moment import moment_members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.rehearsal.result import Counts, IdResult, Rehearsal, RuleResult, ShadowComparison, Side


def of_rehearsal(result: Rehearsal) -> dict[str, Any]:
    """All of it. Times are Unix seconds and RFC 3339, periods are seconds, limits pairs as in the configuration."""
    old, shadow = result.old, result.shadow
    return {
        "file": result.new.file,
        "against": shadow.file if shadow is not None else None if old is None else old.file,
        "compared_with": "shadow" if shadow is not None else "past" if old is None else "configuration",
        "shadow": None if shadow is None else _of_shadow(shadow),
        "stages": list(result.stages),
        "stages_from": result.stages_from,
        **moment_members("began", result.began),
        **moment_members("ended", result.ended),
        "mails": result.mails,
        "recipients": result.recipients,
        **_of_side(result.new),
        "before": None if old is None else _of_side(old),
        "refused_before": result.refused_before,
        "newly_refused": result.newly_refused,
        "no_longer_refused": result.no_longer_refused,
        "newly_hit": _ids_by_rule(result.newly_hit),
        "no_longer_hit": _ids_by_rule(result.no_longer_hit),
        "incomparable": result.incomparable,
        "cannot_be_rehearsed": {rule.name: list(rule.cannot) for rule in result.new.rules if rule.cannot},
        "series": {
            "begin": result.series.begin,
            "seconds": result.series.seconds,
            "mails": list(result.series.mails),
            "refused": list(result.series.refused),
            "refused_before": list(result.series.refused_before),
        },
        "log": {**result.log, "damaged": [{"file": name, "what": what} for name, what in result.damaged]},
        "remarks": list(result.remarks),
    }


def _of_shadow(shadow: ShadowComparison) -> dict[str, Any]:
    return {
        **moment_members("since", shadow.since),
        **moment_members("until", shadow.until),
        **moment_members("began", shadow.began),
        **moment_members("ended", shadow.ended),
        "rules": {
            rule.name: {
                "shadow": rule.told,
                "rehearsed": rule.rehearsed,
                "differing": [
                    {
                        "id": id_of_key(one.key) or one.key.partition(":")[0],
                        "key": one.key,
                        "shadow": one.told,
                        "rehearsed": one.rehearsed,
                    }
                    for one in rule.differing[:MOST_IDS]
                ],
                "differing_ids": len(rule.differing),
                "unnamed_ids": rule.unnamed,
                "outside_ids": rule.outside,
            }
            for rule in shadow.rules
        },
    }


def _of_side(side: Side) -> dict[str, Any]:
    return {
        "refused": side.refused,
        "refused_recipients": side.refused_recipients,
        "unlimited": side.unlimited,
        "rules": {rule.name: _of_rule(rule) for rule in side.rules},
    }


def _of_rule(rule: RuleResult) -> dict[str, Any]:
    return {
        **_of_counts(rule.counts),
        "ids": [_of_id(one) for one in rule.ids],
        "other_ids": {"ids": rule.other_ids, **_of_counts(rule.others)},
        "heaviest": [_of_id(one) for one in rule.heaviest],
        "count": rule.unit,
        "shadow": rule.shadow,
        "action": rule.action,
    }


def _of_counts(counts: Counts) -> dict[str, int]:
    return {
        "mails": counts.mails,
        "refused": counts.refused,
        "held": counts.held,
        "warned": counts.warned,
        "refused_recipients": counts.refused_recipients,
        "partly_refused": counts.partly,
        "marked": counts.marked,
        "blocks": counts.blocks,
    }


def _of_id(one: IdResult) -> dict[str, Any]:
    return {
        "id": one.id,
        "key": one.key,
        **_of_counts(one.counts),
        **moment_members("since", one.since),
        **moment_members("last", one.last),
        "limit": None if one.limit is None else list(one.limit),
        "longest_wait": one.longest_wait,
        **moment_members("free_at", one.free_at),
        "peaks": [{"limit": list(peak.limit), "used": peak.used} for peak in one.peaks],
    }


def _ids_by_rule(by_rule: Mapping[str, Sequence[IdResult]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {"id": one.id, "key": one.key, **_of_counts(one.counts), **moment_members("since", one.since)}
            for one in ids
        ]
        for name, ids in by_rule.items()
    }
