"""What programs read of all this: values that JSON can say, under names that stay. docs/commands.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.admin.explanation import Skipped
from policyd_rate_limit.admin.shadow import IN_SHADOW
from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.charge import free_in
from policyd_rate_limit.domain.counter import rule_and_key
from policyd_rate_limit.domain.ids import id_of_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.admin.audit import Audit
    from policyd_rate_limit.admin.buckets import Step
    from policyd_rate_limit.admin.daemons import Daemon
    from policyd_rate_limit.admin.desk import InForce
    from policyd_rate_limit.admin.explanation import Applied, Explanation
    from policyd_rate_limit.admin.history import History
    from policyd_rate_limit.admin.overrides import Overridden
    from policyd_rate_limit.admin.overview import Overview
    from policyd_rate_limit.admin.senders import Sender
    from policyd_rate_limit.admin.shadow import Shadow
    from policyd_rate_limit.admin.standing import Standing
    from policyd_rate_limit.admin.strangers import Stranger
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Override

Facts = dict[str, object]


def of_standings(name: str, standings: Sequence[Standing], stranger: Stranger | None, now: int) -> Facts:
    """How ``name`` stands, as of ``now`` (Unix second)."""
    return {"id": name, "time": now, "keys": list(map(_of_standing, standings)), **_of_stranger(stranger)}


def of_overview(whole: Overview) -> Facts:
    """How the whole stands."""
    contents = whole.contents
    counted = contents.counted if contents else None
    refusal = contents.refusal if contents else None
    return {
        "daemon": {"running": whole.process is not None, "process": whole.process},
        "daemons": None if whole.daemons is None else list(map(_of_daemon, whole.daemons)),
        "store": {
            "place": whole.place,
            "reachable": contents is not None,
            "error": str(whole.failure) if whole.failure else refusal,
            "time": contents.now if contents else None,
            "seconds": counted.seconds if counted else None,
            "entries": counted.entries if counted else None,
            "ids": counted.ids if counted else None,
        },
        "journals": [spool_file._asdict() for spool_file in whole.spool_files],
        "overrides": list(map(_of_override, contents.overrides)) if contents else None,
        "heaviest": list(map(_of_sender, contents.heaviest)) if contents else None,
    }


def _of_daemon(daemon: Daemon) -> Facts:
    beat = daemon.heartbeat
    return {
        "host": beat.host,
        "socket": beat.socket,
        "process": beat.process,
        "version": beat.version,
        "state": daemon.state,
        "since": beat.since,
        "heard": beat.heard,
        "waiting": beat.waiting,
    }


def of_senders(senders: Sequence[Sender], window: int, now: int) -> Facts:
    """Who sends most in ``window`` (seconds), as of ``now`` (Unix second)."""
    return {"time": now, "window": window, "senders": list(map(_of_sender, senders))}


def of_history(name: str, step: Step, history: History) -> Facts:
    """What ``name`` has sent, by ``step``."""
    return {
        "id": name,
        "by": step,
        "keys": list(history.keys),
        "buckets": [{"begin": begin, "mails": mails} for begin, mails in history.buckets],
        "last": [
            {"date": event.date, "key": event.key, "mails": event.amount, "instance": event.instance or None}
            for event in history.last
        ],
    }


def of_overridden(name: str, overridden: Overridden) -> Facts:
    """Which overrides are in force now for ``name``."""
    overrides = list(map(_of_override, overridden.overrides))
    return {"id": name, "time": overridden.now, "overrides": overrides, **_of_stranger(overridden.stranger)}


def of_revoked(name: str, ended: Mapping[str, bool]) -> Facts:
    """Which keys of ``name`` had an override that was ``ended``."""
    return {"id": name, "revoked": [key for key, had_one in ended.items() if had_one]}


def of_reset(name: str, taken: Mapping[str, int]) -> Facts:
    """How many mails were ``taken`` back of the keys of ``name``."""
    return {"id": name, "reset": [{"key": key, "mails": mails} for key, mails in taken.items()]}


def of_shadow(found: Shadow, most: int) -> Facts:
    """What rules in shadow would have refused; of each ``most`` ids."""
    return {
        "since": found.since,
        "time": found.now,
        "rules": {
            rule.name: {
                "shadow": rule.state == IN_SHADOW,
                "state": rule.state,
                "refused": rule.refused,
                "blocks": rule.blocked,
                "ids": [
                    {
                        "id": id_of_key(rule_and_key(one.key)[1]),
                        "key": one.key,
                        "limit": list(one.limit),
                        "refused": one.refused,
                        "blocks": one.blocked,
                        "since": one.first,
                        "last": one.last,
                    }
                    for one in rule.ids[:most]
                ],
                "other_ids": {
                    "ids": len(rule.ids[most:]),
                    "refused": sum(one.refused for one in rule.ids[most:]) + rule.others,
                },
            }
            for rule in found.rules
        },
    }


def of_audit(found: Audit) -> Facts:
    """Who has changed what."""
    return {"time": found.now, "entries": [entry._asdict() for entry in found.entries]}


def of_explanation(stage: str, explanation: Explanation) -> Facts:
    """What the rules make of a request at ``stage``."""
    outcome = explanation.outcome
    return {
        "stage": stage,
        "country": explanation.country,
        "rules": list(map(_of_rule, explanation.rules)),
        "outcome": outcome.kind if outcome else None,
        "action": outcome.action if outcome else None,
        "error": str(explanation.failure) if explanation.failure else None,
        "unasked": list(explanation.unasked),
    }


def _of_rule(one: Applied | Skipped) -> Facts:
    if isinstance(one, Skipped):
        return {
            "rule": one.rule.name,
            "applies": False,
            "stages": list(one.stages),
            "failing": [{"attribute": condition.attribute, "value": value} for condition, value in one.failing],
            "exempting": [{"attribute": condition.attribute, "value": value} for condition, value in one.exempting],
            "empty": list(one.empty),
        }
    return {
        "applies": True,
        **_of_key(one.counter, one.in_force, one.usages or ()),
        "cost": one.cost,
        "unit": one.rule.unit,
        "pattern": one.pattern or None,
        "blocked": one.blocked,
        **({"windows": None, "free_in": None} if one.usages is None else {}),
    }


def _of_standing(standing: Standing) -> Facts:
    hits = [{"seconds": one.seconds, "hits": one.hits, "last": one.last or None} for one in standing.hits]
    return {**_of_key(standing.key, standing.in_force, standing.usages), "hits": hits}


def _of_sender(sender: Sender) -> Facts:
    tightest = sender.tightest
    return {
        **_of_key(sender.key, sender.in_force, sender.usages),
        "mails": sender.mails,
        "share": round(share(tightest.used, tightest.limit), 4) if tightest else 0.0,
    }


def _of_key(key: str, in_force: InForce, usages: Sequence[Usage]) -> Facts:
    return {
        "key": key,
        "rule": rule_and_key(key)[0],
        "shadow": in_force.shadow,
        "limits": _of_limits(in_force.limits),
        "source": in_force.source,
        "override": _of_override(in_force.override) if in_force.override else None,
        "windows": [
            {
                "maximum": usage.limit.maximum,
                "seconds": usage.limit.seconds,
                "used": usage.used,
                "free_in": usage.free_in,
            }
            for usage in usages
        ],
        "free_in": free_in(usages),
    }


def _of_override(override: Override) -> Facts:
    return {
        "key": override.key,
        "limits": _of_limits(override.limits),
        "until": override.until,
        "note": override.note,
    }


def _of_limits(limits: Limits) -> list[list[int]]:
    return [list(limit) for limit in limits]


def _of_stranger(stranger: Stranger | None) -> Facts:
    """Whether an id is on record, and what is much like it."""
    return {"on_record": stranger is None, "nearest": list(stranger.nearest) if stranger else []}
