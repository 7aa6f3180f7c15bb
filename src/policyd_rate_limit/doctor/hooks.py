"""Where smtpd asks the daemon, by the restrictions of main.cf and master.cf, and the lines that would have it ask."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.services import Services
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.endpoint import Address, address, endpoint, is_same
from policyd_rate_limit.postfix.hooks import ClassHook, Hook, class_hooks, hooks, listed
from policyd_rate_limit.postfix.lists import LIST_AT, asking
from policyd_rate_limit.postfix.names import RestrictionNames, cleaned
from policyd_rate_limit.postfix.restrictions import PolicyService, Restriction
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.postfix.postconf import Postfix, Service

BEST_FIRST = (DATA, RCPT, END_OF_MESSAGE)
"""One request for each mail, and before its text is transferred."""

_ENDS = ("permit", "reject", "defer")


class Hooks:
    """Where this Postfix asks the daemon of ``settings``."""

    def __init__(self, postfix: Postfix, settings: Settings) -> None:
        self._postfix = postfix
        self._settings = settings
        self.rules = make_rules(settings, make_subjects(settings), None)
        counted = {stage for rule in self.rules for stage in rule.stages}
        self.counted = [stage for stage in LIST_AT if stage in counted]
        self.services = Services(postfix, settings)
        self.all = [hook for service in postfix.smtpd for hook in hooks(postfix, service)]
        self.ours = [hook for hook in self.all if self._is_meant(hook)]
        self.counting = [hook for hook in self.ours if hook.stage in self.counted]
        self.names = RestrictionNames(postfix)
        self.by_class = [
            hook
            for service in postfix.smtpd
            for hook in class_hooks(postfix, service, self.counted)
            if self._is_meant(hook)
        ]

    @property
    def earliest_list(self) -> str:
        """The first list in which a request counts."""
        return LIST_AT[self.counted[0]]

    @property
    def proposed_list(self) -> str:
        """Where one line of main.cf hooks all services whose mail is charged: no service has its own."""
        possible = [LIST_AT[stage] for stage in BEST_FIRST if stage in self.counted]
        charged = [service for service in self._postfix.smtpd if self.services.may_carry(service)]
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
        if not self.has_default_action(hook):
            options["default_action"] = "DUNNO"
        asked = PolicyService(asked_at, options)
        as_it_is = asked == hook.asked and not hook.restriction.stray
        restriction = Restriction(hook.restriction.name, hook.restriction.argument if as_it_is else str(asked))
        before = cleaned(hook.before, self.names)
        after = cleaned(hook.restrictions[hook.position + 1 :], self.names)
        if any(self.ends(passed, hook) for passed in before):
            value = listed(restriction, *before, *after)
        else:
            value = listed(*before, restriction, *after)
        return self._postfix.line(hook.parameter, value, hook.service)

    def _is_meant(self, hook: Hook | ClassHook) -> bool:
        """Whether ``hook`` means the daemon, even where it cannot reach it: seen from inside or outside the chroot."""
        queue = self._postfix.queue_directory
        return any(is_same(address(hook.asked.endpoint, root, queue), self._settings.SOCKET) for root in (queue, None))

    def ends(self, restriction: Restriction, hook: Hook) -> str:
        """For whom ``restriction`` ends the list of ``hook``; empty: for nobody who is limited, that is known of."""
        name = restriction.name
        if restriction.only_warns:
            return ""
        if name in _ENDS:
            return "everybody"
        if name == "permit_sasl_authenticated" and self.services.has_users(hook.service):
            return "everybody who has authenticated"
        if name == "permit_mynetworks" and self._postfix.value("mynetworks", hook.service):
            return "the clients in mynetworks"
        return ""

    def hooking(self, parameter: str, service: Service | None) -> str:
        """The line with which ``parameter`` asks the daemon."""
        value = self._postfix.value(parameter, service)
        return self._postfix.line(parameter, self.with_line(value, service), service)

    def with_line(self, value: str, service: Service | None) -> str:
        """The list ``value`` of ``service`` with the daemon before all else."""
        classes = self._postfix.classes(service) if service else {}
        return listed(self.line, *cleaned(restrictions.parse(value, classes, expand=False), self.names, classes))

    def has_default_action(self, hook: Hook) -> bool:
        """Whether something says what smtpd does without an answer of the service of ``hook``."""
        given = self._postfix.is_given("smtpd_policy_service_default_action", hook.service)
        return given or "default_action" in hook.asked.options
