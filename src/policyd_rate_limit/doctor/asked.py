"""Whether smtpd asks the daemon about all mail that is to be limited, at a stage at which that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.counted import asked_twice, counted_twice, too_many_recipients
from policyd_rate_limit.doctor.finding import Finding, error, note, ok, warning
from policyd_rate_limit.doctor.hooks import BEST_FIRST, Hooks
from policyd_rate_limit.doctor.options import default_action, time_limits
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.postfix.lists import LIST_AT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.postfix.hooks import ClassHook, Hook
    from policyd_rate_limit.postfix.postconf import Postfix, Service


def examine(postfix: Postfix, settings: Settings, hooks: Hooks) -> Iterator[Finding]:
    """All that is wrong with how ``postfix`` asks the daemon."""
    yield from _Examination(postfix, settings, hooks).findings()


class _Examination:
    def __init__(self, postfix: Postfix, settings: Settings, hooks: Hooks) -> None:
        self._postfix = postfix
        self._settings = settings
        self._hooks = hooks

    def findings(self) -> Iterator[Finding]:
        hooks = self._hooks
        if not hooks.ours and not hooks.by_class:
            yield self._not_hooked()
            yield from self._rules_not_asked()
            return
        for service in self._postfix.smtpd:
            ours = [hook for hook in hooks.ours if hook.service == service]
            counting = [hook for hook in ours if hook in hooks.counting]
            if counting:
                yield from self._about(counting)
            elif ours:
                yield self._stage_not_counted(ours[0])
            elif by_class := [hook for hook in hooks.by_class if hook.service == service]:
                yield self._perhaps_asked(by_class)
            elif hooks.services.may_carry(service):
                yield self._service_not_limited(service)
        yield from self._rules_not_asked()
        yield from counted_twice(self._postfix, hooks)
        yield from too_many_recipients(self._postfix, self._settings, hooks)
        if hooks.counting:
            where = sorted({f"{hook.service.key} at {hook.stage}" for hook in hooks.counting})
            yield ok("hooked", "Postfix", f"asks at {', '.join(where)}")

    def _about(self, hooks_of_service: list[Hook]) -> Iterator[Finding]:
        for hook in hooks_of_service:
            yield from self._unreachable(hook)
            yield from default_action(self._postfix, self._hooks, hook)
            yield from time_limits(self._postfix, self._settings, hook)
        default = next((rule for rule in self._hooks.rules if rule.name == DEFAULT), None)
        if default is not None and self._settings.count_mode is not None:
            stage = [hook for hook in hooks_of_service if hook.stage in default.stages]
            if len(stage) > 1:
                yield asked_twice(self._postfix, self._settings, stage)

    def _not_hooked(self) -> Finding:
        # Where mail comes in: a service may have a list of its own in place of main.cf's.
        carrying = [service for service in self._postfix.smtpd if self._hooks.services.may_carry(service)]
        service = next(iter(carrying or self._postfix.smtpd), None)
        parameter = self._hooks.proposed_list
        found = f"no list of restrictions asks {self._hooks.endpoint}, which is SOCKET"
        others = sorted({hook.asked.endpoint for hook in self._hooks.all})
        if others:
            found += f"; they ask {', '.join(others)}"
        return error(
            "not-hooked",
            self._postfix.place(parameter, service),
            found,
            "Nobody asks the daemon: nothing is limited.",
            self._hooks.hooking(parameter, service),
        )

    def _perhaps_asked(self, found: list[ClassHook]) -> Finding:
        names = ", ".join(dict.fromkeys(hook.name for hook in found))
        return note(
            "asked-by-class",
            self._postfix.place(found[0].name, found[0].service),
            f"{found[0].service.key} asks {self._hooks.endpoint} in the restriction class {names}, for whom an access"
            f" table in {' or '.join(found[0].lists)} names it",
            "What the table says is not looked at: whoever it does not lead to the class is not limited.",
            "postmap -q user@example.org hash:/etc/postfix/table   # with your table: says whether the class is named",
        )

    def _stage_not_counted(self, hook: Hook) -> Finding:
        place = self._postfix.place(hook.parameter, hook.service)
        mode = self._settings.count_mode
        whose = "rules count" if self._settings.rules else f"count_mode {'unset' if mode is None else mode} counts"
        found = f"asks at {hook.stage}; {whose} at {', '.join(self._hooks.counted)}"
        why = "A mail passes uncounted: nothing is limited."
        return error(
            "stage-not-counted", place, found, why, self._hooks.hooking(self._hooks.proposed_list, hook.service)
        )

    def _rules_not_asked(self) -> Iterator[Finding]:
        """Rules that count at none of the stages at which the daemon is asked, or is asked as a line above mends it."""
        asked = {hook.stage for hook in self._hooks.ours}
        asked.update(stage for stage, name in LIST_AT.items() for hook in self._hooks.by_class if name in hook.lists)
        if not self._hooks.counting and not self._hooks.by_class:
            asked.add(next(stage for stage, name in LIST_AT.items() if name == self._hooks.proposed_list))
        carrying = [service for service in self._postfix.smtpd if self._hooks.services.may_carry(service)]
        hooked = [hook.service for hook in self._hooks.ours]
        service = next(iter(hooked or carrying or self._postfix.smtpd), None)
        for rule in self._hooks.rules:
            if asked.isdisjoint(rule.stages):
                yield self._rule_not_asked(rule, service)

    def _rule_not_asked(self, rule: Rule, service: Service | None) -> Finding:
        parameter = LIST_AT[next(stage for stage in BEST_FIRST if stage in rule.stages)]
        stages = ", ".join(stage for stage in LIST_AT if stage in rule.stages)
        make = warning if rule.shadow else error
        return make(
            "rule-not-asked",
            self._postfix.place(parameter, service),
            f"the rule {rule.name} counts at {stages} alone, and no list of restrictions asks {self._hooks.endpoint}"
            " there",
            "The rule is never looked at: it counts nothing, and limits nobody.",
            self._hooks.hooking(parameter, service),
        )

    def _service_not_limited(self, service: Service) -> Finding:
        dropped = [
            hook.parameter
            for hook in self._hooks.counting
            if self._postfix.override(hook.parameter, service) is not None
        ]
        parameter = dropped[0] if dropped else self._hooks.proposed_list
        value = self._postfix.override(parameter, service)
        if value is None:
            value = self._postfix.value(parameter)
        place = f"master.cf, {service.key}"
        if dropped:
            found = f"{parameter} of master.cf takes the place of main.cf's, and does not ask {self._hooks.endpoint}"
        else:
            found = f"does not ask {self._hooks.endpoint}, and users authenticate there"
        mend = f"  -o {{ {parameter} = {self._hooks.with_line(value, service)} }}"
        return error("service-not-limited", place, found, "Whoever sends mail through it is not limited.", mend)

    def _unreachable(self, hook: Hook) -> Iterator[Finding]:
        """What ends the list before the daemon is asked."""
        place = self._postfix.place(hook.parameter, hook.service)
        for before in hook.before:
            passed = self._hooks.ends(before, hook)
            if not passed:
                continue
            make = warning if before.name == "permit_mynetworks" else error
            found = f"{before.name} stands before check_policy_service {hook.asked.endpoint}"
            why = f"It ends the list for {passed}: the daemon is not asked, and they are not limited."
            yield make("after-permit", place, found, why, self._hooks.mended(hook))
        if hook.restriction.only_warns:
            why = "smtpd counts and logs, and refuses nothing."
            found = "warn_if_reject stands before check_policy_service"
            yield warning("warn-if-reject", place, found, why, self._hooks.mended(hook))
