"""Whether, and how, smtpd asks the daemon: the lists of restrictions in main.cf and master.cf."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, error, note, ok, warning
from policyd_rate_limit.doctor.whom import charges_others, charges_users
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import RECIPIENTS
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.endpoint import Address, address, endpoint, is_same
from policyd_rate_limit.postfix.hooks import ClassHook, Hook, class_hooks, hooks, listed
from policyd_rate_limit.postfix.lists import LIST_AT, RECIPIENT_LIST, asking
from policyd_rate_limit.postfix.names import RestrictionNames, cleaned
from policyd_rate_limit.postfix.postconf import seconds
from policyd_rate_limit.postfix.restrictions import PolicyService, Restriction
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.postfix.postconf import Postfix, Service

_BEST_FIRST = (DATA, RCPT, END_OF_MESSAGE)
"""One request for each mail, and before its text is transferred."""

_ENDS = ("permit", "reject", "defer")
_SUBMISSION = ("submission", "submissions", "smtps", "587", "465")


class Hooks:
    """Where this Postfix asks the daemon of ``settings``."""

    def __init__(self, postfix: Postfix, settings: Settings) -> None:
        self._postfix = postfix
        self._settings = settings
        self._rules = make_rules(settings, make_subjects(settings), None)
        counted = {stage for rule in self._rules for stage in rule.stages}
        self._counted = [stage for stage in LIST_AT if stage in counted]
        self._charges_users, self._charges_others = charges_users(settings), charges_others(settings)
        self.all = [hook for service in postfix.smtpd for hook in hooks(postfix, service)]
        self.ours = [hook for hook in self.all if self._is_meant(hook)]
        self.counting = [hook for hook in self.ours if hook.stage in self._counted]
        self.names = RestrictionNames(postfix)
        self._by_class = [
            hook
            for service in postfix.smtpd
            for hook in class_hooks(postfix, service, self._counted)
            if self._is_meant(hook)
        ]

    @property
    def earliest_list(self) -> str:
        """The first list in which a request counts."""
        return LIST_AT[self._counted[0]]

    @property
    def proposed_list(self) -> str:
        """Where one line of main.cf hooks all services whose mail is charged: no service has its own."""
        possible = [LIST_AT[stage] for stage in _BEST_FIRST if stage in self._counted]
        charged = [service for service in self._postfix.smtpd if self._may_carry(service)]
        shared = (
            parameter
            for parameter in possible
            if not any(self._postfix.override(parameter, service) is not None for service in charged)
        )
        return next(shared, possible[0])

    @property
    def line(self) -> str:
        """What to write into a list."""
        return asking(self.endpoint)

    @property
    def endpoint(self) -> str:
        """How main.cf names SOCKET."""
        where = self._settings.SOCKET
        if isinstance(where, str):
            where = os.path.abspath(where)  # noqa: PTH100 - Path.absolute() keeps ..
        return endpoint(where, self._postfix.queue_directory)

    def reached(self, hook: Hook) -> Address | None:
        """Where ``hook`` leads."""
        queue = self._postfix.queue_directory
        return address(hook.asked.endpoint, queue if hook.service.chroot else None, queue)

    def mended(self, hook: Hook) -> str:
        """The line of the list of ``hook`` without anything that is wrong with it: whatever is told, it mends all."""
        asked_at = hook.asked.endpoint
        if isinstance(self._settings.SOCKET, str) and not is_same(self.reached(hook), self._settings.SOCKET):
            asked_at = self.endpoint
        options = dict(hook.asked.options)
        if not self._has_default_action(hook):
            options["default_action"] = "DUNNO"
        asked = PolicyService(asked_at, options)
        as_it_is = asked == hook.asked and not hook.restriction.stray
        restriction = Restriction(hook.restriction.name, hook.restriction.argument if as_it_is else str(asked))
        before = cleaned(hook.before, self.names)
        after = cleaned(hook.restrictions[hook.position + 1 :], self.names)
        if any(self._ends(passed, hook) for passed in before):
            value = listed(restriction, *before, *after)
        else:
            value = listed(*before, restriction, *after)
        return self._postfix.line(hook.parameter, value, hook.service)

    def _is_meant(self, hook: Hook | ClassHook) -> bool:
        """Whether ``hook`` means the daemon, even where it cannot reach it: seen from inside or outside the chroot."""
        queue = self._postfix.queue_directory
        return any(is_same(address(hook.asked.endpoint, root, queue), self._settings.SOCKET) for root in (queue, None))

    def examine(self) -> Iterator[Finding]:
        """All that is wrong with the lists."""
        if not self.ours and not self._by_class:
            yield self._not_hooked()
            yield from self._rules_not_asked()
            return
        for service in self._postfix.smtpd:
            ours = [hook for hook in self.ours if hook.service == service]
            counting = [hook for hook in ours if hook in self.counting]
            if counting:
                yield from self._about(counting)
            elif ours:
                yield self._stage_not_counted(ours[0])
            elif by_class := [hook for hook in self._by_class if hook.service == service]:
                yield self._perhaps_asked(by_class)
            elif self._may_carry(service):
                yield self._service_not_limited(service)
        yield from self._rules_not_asked()
        yield from self._counted_twice()
        yield from self._too_many_recipients()
        if self.counting:
            where = sorted({f"{hook.service.key} at {hook.stage}" for hook in self.counting})
            yield ok("hooked", "Postfix", f"asks at {', '.join(where)}")

    def _about(self, hooks_of_service: list[Hook]) -> Iterator[Finding]:
        for hook in hooks_of_service:
            yield from self._unreachable(hook)
            yield from self._default_action(hook)
            yield from self._time_limits(hook)
        default = next((rule for rule in self._rules if rule.name == DEFAULT), None)
        if default is not None and self._settings.count_mode is not None:
            stage = [hook for hook in hooks_of_service if hook.stage in default.stages]
            if len(stage) > 1:
                yield self._asked_twice(stage)

    # The list

    def _not_hooked(self) -> Finding:
        # Where mail comes in: a service may have a list of its own in place of main.cf's.
        carrying = [service for service in self._postfix.smtpd if self._may_carry(service)]
        service = next(iter(carrying or self._postfix.smtpd), None)
        parameter = self.proposed_list
        found = f"no list of restrictions asks {self.endpoint}, which is SOCKET"
        others = sorted({hook.asked.endpoint for hook in self.all})
        if others:
            found += f"; they ask {', '.join(others)}"
        return error(
            "not-hooked",
            self._postfix.place(parameter, service),
            found,
            "Nobody asks the daemon: nothing is limited.",
            self._hooking(parameter, service),
        )

    def _perhaps_asked(self, found: list[ClassHook]) -> Finding:
        names = ", ".join(dict.fromkeys(hook.name for hook in found))
        return note(
            "asked-by-class",
            self._postfix.place(found[0].name, found[0].service),
            f"{found[0].service.key} asks {self.endpoint} in the restriction class {names}, for whom an access table in"
            f" {' or '.join(found[0].lists)} names it",
            "What the table says is not looked at: whoever it does not lead to the class is not limited.",
            "postmap -q user@example.org hash:/etc/postfix/table   # with your table: says whether the class is named",
        )

    def _stage_not_counted(self, hook: Hook) -> Finding:
        place = self._postfix.place(hook.parameter, hook.service)
        mode = self._settings.count_mode
        whose = "rules count" if self._settings.rules else f"count_mode {'unset' if mode is None else mode} counts"
        found = f"asks at {hook.stage}; {whose} at {', '.join(self._counted)}"
        why = "A mail passes uncounted: nothing is limited."
        return error("stage-not-counted", place, found, why, self._hooking(self.proposed_list, hook.service))

    def _rules_not_asked(self) -> Iterator[Finding]:
        """Rules that count at none of the stages at which the daemon is asked, or is asked as a line above mends it."""
        asked = {hook.stage for hook in self.ours}
        asked.update(stage for stage, name in LIST_AT.items() for hook in self._by_class if name in hook.lists)
        if not self.counting and not self._by_class:
            asked.add(next(stage for stage, name in LIST_AT.items() if name == self.proposed_list))
        carrying = [service for service in self._postfix.smtpd if self._may_carry(service)]
        hooked = [hook.service for hook in self.ours]
        service = next(iter(hooked or carrying or self._postfix.smtpd), None)
        for rule in self._rules:
            if asked.isdisjoint(rule.stages):
                yield self._rule_not_asked(rule, service)

    def _rule_not_asked(self, rule: Rule, service: Service | None) -> Finding:
        parameter = LIST_AT[next(stage for stage in _BEST_FIRST if stage in rule.stages)]
        stages = ", ".join(stage for stage in LIST_AT if stage in rule.stages)
        make = warning if rule.shadow else error
        return make(
            "rule-not-asked",
            self._postfix.place(parameter, service),
            f"the rule {rule.name} counts at {stages} alone, and no list of restrictions asks {self.endpoint} there",
            "The rule is never looked at: it counts nothing, and limits nobody.",
            self._hooking(parameter, service),
        )

    def _service_not_limited(self, service: Service) -> Finding:
        dropped = [
            hook.parameter for hook in self.counting if self._postfix.override(hook.parameter, service) is not None
        ]
        parameter = dropped[0] if dropped else self.proposed_list
        value = self._postfix.override(parameter, service)
        if value is None:
            value = self._postfix.value(parameter)
        place = f"master.cf, {service.key}"
        if dropped:
            found = f"{parameter} of master.cf takes the place of main.cf's, and does not ask {self.endpoint}"
        else:
            found = f"does not ask {self.endpoint}, and users authenticate there"
        mend = f"  -o {{ {parameter} = {self._with_line(value, service)} }}"
        return error("service-not-limited", place, found, "Whoever sends mail through it is not limited.", mend)

    def _unreachable(self, hook: Hook) -> Iterator[Finding]:
        """What ends the list before the daemon is asked."""
        place = self._postfix.place(hook.parameter, hook.service)
        for before in hook.before:
            passed = self._ends(before, hook)
            if not passed:
                continue
            make = warning if before.name == "permit_mynetworks" else error
            found = f"{before.name} stands before check_policy_service {hook.asked.endpoint}"
            why = f"It ends the list for {passed}: the daemon is not asked, and they are not limited."
            yield make("after-permit", place, found, why, self.mended(hook))
        if hook.restriction.only_warns:
            why = "smtpd counts and logs, and refuses nothing."
            found = "warn_if_reject stands before check_policy_service"
            yield warning("warn-if-reject", place, found, why, self.mended(hook))

    def _ends(self, restriction: Restriction, hook: Hook) -> str:
        """For whom ``restriction`` ends the list of ``hook``; empty: for nobody who is limited, that is known of."""
        name = restriction.name
        if restriction.only_warns:
            return ""
        if name in _ENDS:
            return "everybody"
        if (
            name == "permit_sasl_authenticated"
            and self._charges_users
            and self._postfix.is_on("smtpd_sasl_auth_enable", hook.service)
        ):
            return "everybody who has authenticated"
        if name == "permit_mynetworks" and self._postfix.value("mynetworks", hook.service):
            return "the clients in mynetworks"
        return ""

    def _hooking(self, parameter: str, service: Service | None) -> str:
        """The line with which ``parameter`` asks the daemon."""
        value = self._postfix.value(parameter, service)
        return self._postfix.line(parameter, self._with_line(value, service), service)

    def _with_line(self, value: str, service: Service | None) -> str:
        classes = self._postfix.classes(service) if service else {}
        return listed(self.line, *cleaned(restrictions.parse(value, classes, expand=False), self.names, classes))

    # How it asks

    def _default_action(self, hook: Hook) -> Iterator[Finding]:
        if not self._has_default_action(hook):
            yield warning(
                "default-action",
                self._postfix.place(hook.parameter, hook.service),
                f"no default_action for {hook.asked.endpoint}",
                "While the daemon is stopped Postfix refuses all mail: 451 4.3.5 Server configuration problem.",
                self.mended(hook),
            )

    def _has_default_action(self, hook: Hook) -> bool:
        given = self._postfix.is_given("smtpd_policy_service_default_action", hook.service)
        return given or "default_action" in hook.asked.options

    def _time_limits(self, hook: Hook) -> Iterator[Finding]:
        postfix, settings, service = self._postfix, self._settings, hook.service

        def option(name: str) -> str:
            return hook.asked.options.get(name) or postfix.value(f"smtpd_policy_service_{name}", service)

        def place(name: str) -> str:
            full = f"smtpd_policy_service_{name}"
            return postfix.place(hook.parameter if name in hook.asked.options else full, service)

        timeout = seconds(option("timeout"))
        if timeout <= settings.db_timeout:
            yield error(
                "timeout",
                place("timeout"),
                f"smtpd waits for {timeout:g} s, the daemon for its database {settings.db_timeout:g} s (db_timeout)",
                "When the database is slow smtpd gives up, and does as default_action says.",
                f"smtpd_policy_service_timeout = {max(10, round(5 * settings.db_timeout))}s",
            )
        idle = seconds(option("max_idle"))
        if settings.delay_to_close < idle:
            yield warning(
                "max-idle",
                settings.config_file or "configuration",
                f"delay_to_close is {settings.delay_to_close:g} s, smtpd keeps connections for max_idle = {idle:g} s",
                "The daemon closes them first, and then smtpd waits a second before it asks again: mail is slow.",
                f"delay_to_close: {idle:g}",
            )
        if option("request_limit") not in ("", "0"):
            yield warning(
                "request-limit",
                place("request_limit"),
                f"request_limit = {option('request_limit')}",
                "smtpd connects again after so many requests, which takes longer than the daemon's answer.",
                "smtpd_policy_service_request_limit = 0",
            )

    # What is counted

    def _asked_twice(self, stage: list[Hook]) -> Finding:
        lists = [hook.parameter for hook in stage]
        hook = stage[-1]
        return error(
            "asked-twice",
            self._postfix.place(hook.parameter, hook.service),
            f"asks {len(stage)} times at {hook.stage}: in {', '.join(lists)}",
            f"With count_mode {self._settings.count_mode} each request counts: a mail counts {len(stage)} times.",
            self._postfix.line(hook.parameter, hook.others, hook.service),
        )

    def _counted_twice(self) -> Iterator[Finding]:
        """Mail that comes back from a content filter."""
        postfix = self._postfix
        filters = {
            service: postfix.value(name, service)
            for service in postfix.smtpd
            for name in ("content_filter", "smtpd_proxy_filter")
            if postfix.value(name, service) and not service.is_local
        }
        first = [hook for hook in self.counting if hook.service in filters]
        again = [hook for hook in self.counting if hook.service not in filters and self._takes_back(hook.service)]
        if not again or not first or not self._charges_others:
            return
        hook = again[0]
        yield warning(
            "counted-twice",
            f"master.cf, {hook.service.key}",
            f"asks the daemon, as does {first[0].service.key}, whose mail goes through {filters[first[0].service]}",
            "If the filter hands mail back to this service, each mail counts twice.",
            f"  -o {{ {hook.parameter} = {hook.others} }}",
        )

    def _takes_back(self, service: Service) -> bool:
        """Whether ``service`` looks like one to which a content filter hands mail back.

        FILTER_README and SMTPD_PROXY_README have it switch off in master.cf what was done before the filter, and
        believe what the filter says of the client. It may listen anywhere.
        """
        postfix = self._postfix
        if self._is_for_users(service) or service in postfix.behind_pickup:
            return False
        options = postfix.override("receive_override_options", service) or ""
        return (
            service.is_local
            or postfix.override("content_filter", service) == ""
            or postfix.override("smtpd_proxy_filter", service) == ""
            or bool(postfix.override("smtpd_authorized_xforward_hosts", service))
            or "no_header_body_checks" in options
            or "no_unknown_recipient_checks" in options
        )

    def _too_many_recipients(self) -> Iterator[Finding]:
        """Mails that can never pass as a whole, where all recipients are counted at once."""
        settings, postfix = self._settings, self._postfix
        smallest = min(self._most_at_once(), default=0)
        if not smallest:
            return
        for service in dict.fromkeys(hook.service for hook in self.counting):
            most = int(postfix.value("smtpd_recipient_limit", service) or 0)
            at_rcpt = RCPT in {hook.stage for hook in self.counting if hook.service == service}
            if at_rcpt or most <= smallest or not self._may_charge(service):
                continue
            why = "A mail to more of them is refused as a whole, however often it is tried."
            if self._is_for_users(service):
                place = f"master.cf, {service.key}"
                why += (
                    " With the line below smtpd tells the client at the first recipient too many to send the rest by"
                    " itself (RFC 5321, 4.5.3.1.10)."
                )
                mend = f"  -o {{ smtpd_recipient_limit = {smallest} }}"
            else:
                # A lower smtpd_recipient_limit would hold for mail from other servers, too, which may have a hundred.
                place = postfix.place(RECIPIENT_LIST, service)
                why += " Asked at RCPT, the daemon decides on each of them: those within the limits pass."
                mend = self._hooking(RECIPIENT_LIST, service)
                if settings.count_mode is not None:
                    mend = (
                        f"# in {settings.config_file or 'the configuration'}, count_mode left out; in main.cf:\n{mend}"
                    )
            found = f"takes {most} recipients a mail, of which limits admit {smallest}"
            yield warning("recipient-limit", place, found, why, mend)

    def _most_at_once(self) -> Iterator[int]:
        """How many recipients each limit admits that holds for all mail, and counts all recipients of one at once.

        What is meant to bound one mail does so.
        """
        for rule in self._rules:
            whole = DATA in rule.stages or END_OF_MESSAGE in rule.stages
            if rule.unit != RECIPIENTS or not rule.refuses or rule.match is not None or not whole:
                continue
            subjects = rule.subjects
            limits = subjects.limits if isinstance(subjects, KeyedSubjects) else self._settings.limits
            yield from (limit.maximum for limit in limits if not limit.is_per_mail)

    # Who sends

    def _may_carry(self, service: Service) -> bool:
        """Whether users whom the daemon should limit send through ``service``."""
        if not self._is_for_users(service) and self._takes_back(service):
            return False
        return self._charges_users and self._postfix.is_on("smtpd_sasl_auth_enable", service)

    def _may_charge(self, service: Service) -> bool:
        """Whether anybody is charged for what comes through ``service``."""
        by_user = self._charges_users and self._postfix.is_on("smtpd_sasl_auth_enable", service)
        return by_user or self._charges_others

    def _is_for_users(self, service: Service) -> bool:
        """Whether only users send through ``service``: it has them authenticate, where others need not."""
        return (
            self._postfix.override("smtpd_sasl_auth_enable", service) or ""
        ).lower() == "yes" or service.name in _SUBMISSION
