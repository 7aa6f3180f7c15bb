"""Whether, and how, smtpd asks the daemon: the lists of restrictions in main.cf and master.cf."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.doctor import restrictions
from policyd_rate_limit.doctor.finding import Finding, error, ok, warning
from policyd_rate_limit.doctor.postfix import seconds
from policyd_rate_limit.doctor.restrictions import PolicyService, Restriction
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.identity import parse_address
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.doctor.postfix import Postfix, Service

Address = str | tuple[str, int]

RECIPIENT = "smtpd_recipient_restrictions"
DATA_LIST = "smtpd_data_restrictions"
END_OF_DATA = "smtpd_end_of_data_restrictions"

# When a list is looked at, as protocol_state says it; with smtpd_delay_reject, the first three at RCPT.
_STAGES = {
    "smtpd_client_restrictions": "CONNECT",
    "smtpd_helo_restrictions": "EHLO",
    "smtpd_sender_restrictions": "MAIL",
    "smtpd_relay_restrictions": RCPT,
    RECIPIENT: RCPT,
    DATA_LIST: DATA,
    END_OF_DATA: END_OF_MESSAGE,
}
_DELAYED = ("CONNECT", "EHLO", "MAIL")
_LISTS = {RCPT: RECIPIENT, DATA: DATA_LIST, END_OF_MESSAGE: END_OF_DATA}

_ENDS = ("permit", "reject", "defer")
_ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - nothing is bound
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Hook(NamedTuple):
    """A place where smtpd asks a policy service."""

    service: Service
    parameter: str
    stage: str
    restrictions: tuple[Restriction, ...]
    """The whole list."""
    position: int
    """Where in it the policy service is asked, from 0."""
    asked: PolicyService

    @property
    def restriction(self) -> Restriction:
        """The check_policy_service itself."""
        return self.restrictions[self.position]

    @property
    def before(self) -> tuple[Restriction, ...]:
        """What smtpd does before."""
        return self.restrictions[: self.position]

    @property
    def others(self) -> str:
        """The list without the policy service."""
        return _text(*self.before, *self.restrictions[self.position + 1 :])

    def changed(self, restriction: Restriction | str) -> str:
        """The list with ``restriction`` in place of the policy service."""
        return _text(*self.before, restriction, *self.restrictions[self.position + 1 :])


def _text(*restrictions: Restriction | str) -> str:
    return ", ".join(map(str, restrictions))


def address(endpoint: str, root: Path | None, directory: Path) -> Address | None:
    """Where an endpoint leads on this host, from a process in ``directory`` that is chrooted to ``root``.

    None: it is not understood.
    """
    kind, _, where = endpoint.partition(":")
    if kind == "unix":
        if not where.startswith("/"):
            return os.path.normpath(directory / where)
        return os.path.normpath(f"{root or ''}{where}")
    host, _, port = where.rpartition(":")
    if kind != "inet" or not port:
        return None
    try:
        return host.strip("[]"), int(port) if port.isdigit() else socket.getservbyname(port, "tcp")
    except OSError:
        return None


def is_same(one: Address | None, other: Address) -> bool:
    """Whether two addresses are one: ``one`` as smtpd has it, ``other`` as the daemon listens."""
    if one is None or isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and os.path.realpath(one) == os.path.realpath(other)
    if one[1] != other[1]:
        return False
    if other[0] in _ANYWHERE or (one[0] in _LOOPBACK and other[0] in _LOOPBACK and "localhost" in (one[0], other[0])):
        return True
    return (parse_address(one[0]) or one[0]) == (parse_address(other[0]) or other[0])


def hooks(postfix: Postfix, service: Service) -> Iterator[Hook]:
    """Where ``service`` asks any policy service."""
    classes = postfix.classes(service)
    delayed = postfix.is_on("smtpd_delay_reject", service)
    for parameter, stage in _STAGES.items():
        found = tuple(restrictions.parse(postfix.value(parameter, service), classes))
        for index, restriction in enumerate(found):
            if restriction.name == "check_policy_service":
                asked_at = RCPT if delayed and stage in _DELAYED else stage
                asked = restrictions.policy_service(restriction.argument)
                yield Hook(service, parameter, asked_at, found, index, asked)


class Hooks:
    """Where this Postfix asks the daemon of ``settings``."""

    def __init__(self, postfix: Postfix, settings: Settings) -> None:
        self._postfix = postfix
        self._settings = settings
        self._counted = stages(settings.count_mode)
        self.all = [hook for service in postfix.smtpd for hook in hooks(postfix, service)]
        self.ours = [hook for hook in self.all if self._is_meant(hook)]
        self.counting = [hook for hook in self.ours if hook.stage in self._counted]

    @property
    def parameter(self) -> str:
        """The list in which a request counts: the first one."""
        return _LISTS[next(iter(self._counted))]

    @property
    def line(self) -> str:
        """What to write into a list."""
        return f"check_policy_service {{ {self.endpoint}, default_action=DUNNO }}"

    @property
    def endpoint(self) -> str:
        """How main.cf names SOCKET."""
        where = self._settings.SOCKET
        if isinstance(where, str):
            path = Path(os.path.abspath(where))  # noqa: PTH100 - Path.absolute() keeps ..
            queue = self._postfix.queue_directory
            return f"unix:{path.relative_to(queue) if path.is_relative_to(queue) else path}"
        host, port = where
        host = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host  # noqa: S104 - nothing is bound
        return f"inet:[{host}]:{port}" if ":" in host else f"inet:{host}:{port}"

    def reached(self, hook: Hook) -> Address | None:
        """Where ``hook`` leads."""
        queue = self._postfix.queue_directory
        return address(hook.asked.endpoint, queue if hook.service.chroot else None, queue)

    def mended(self, hook: Hook) -> str:
        """The line of the list of ``hook`` without anything that is wrong with it: whatever is told, it mends all."""
        endpoint = hook.asked.endpoint
        if isinstance(self._settings.SOCKET, str) and not is_same(self.reached(hook), self._settings.SOCKET):
            endpoint = self.endpoint
        options = dict(hook.asked.options)
        if not self._has_default_action(hook):
            options["default_action"] = "DUNNO"
        asked = PolicyService(endpoint, options)
        argument = hook.restriction.argument if asked == hook.asked else str(asked)
        restriction = Restriction(hook.restriction.name, argument)
        if any(self._ends(before, hook) for before in hook.before):
            value = f"{restriction}, {hook.others}"
        else:
            value = hook.changed(restriction)
        return self._postfix.line(hook.parameter, value, hook.service)

    def _is_meant(self, hook: Hook) -> bool:
        """Whether ``hook`` means the daemon, even where it cannot reach it: seen from inside or outside the chroot."""
        queue = self._postfix.queue_directory
        return any(is_same(address(hook.asked.endpoint, root, queue), self._settings.SOCKET) for root in (queue, None))

    def examine(self) -> Iterator[Finding]:
        """All that is wrong with the lists."""
        if not self.ours:
            yield self._not_hooked()
            return
        for service in self._postfix.smtpd:
            ours = [hook for hook in self.ours if hook.service == service]
            counting = [hook for hook in ours if hook in self.counting]
            if counting:
                yield from self._about(counting)
            elif ours:
                yield self._stage_not_counted(ours[0])
            elif self._may_carry(service):
                yield self._service_not_limited(service)
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
        if self._settings.count_mode is not None:
            stage = [hook for hook in hooks_of_service if hook.stage in self._counted]
            if len(stage) > 1:
                yield self._asked_twice(stage)

    # The list

    def _not_hooked(self) -> Finding:
        # Where mail comes in: a service may have a list of its own in place of main.cf's.
        service = next(iter(sorted(self._postfix.smtpd, key=lambda service: service.is_local)), None)
        value = self._postfix.value(self.parameter, service)
        found = f"no list of restrictions asks {self.endpoint}, which is SOCKET"
        classes = self._postfix.classes(service) if service else {}
        in_classes = [name for name, text in classes.items() if "check_policy_service" in text]
        if in_classes:
            found += f"; {', '.join(in_classes)} may, where an access table says so"
        others = sorted({hook.asked.endpoint for hook in self.all})
        if others:
            found += f"; they ask {', '.join(others)}"
        return error(
            "not-hooked",
            self._postfix.place(self.parameter, service),
            found,
            "Nobody asks the daemon: nothing is limited.",
            self._postfix.line(self.parameter, self._with_line(value), service),
        )

    def _stage_not_counted(self, hook: Hook) -> Finding:
        place = self._postfix.place(hook.parameter, hook.service)
        right = self.parameter
        value = self._with_line(self._postfix.value(right, hook.service))
        mode = self._settings.count_mode
        found = (
            f"asks at {hook.stage}; count_mode {'unset' if mode is None else mode} counts at {', '.join(self._counted)}"
        )
        why = "A mail passes uncounted: nothing is limited."
        return error("stage-not-counted", place, found, why, self._postfix.line(right, value, hook.service))

    def _service_not_limited(self, service: Service) -> Finding:
        dropped = [
            hook.parameter for hook in self.counting if self._postfix.override(hook.parameter, service) is not None
        ]
        parameter = dropped[0] if dropped else self.parameter
        value = self._postfix.override(parameter, service)
        if value is None:
            value = self._postfix.value(parameter)
        place = f"master.cf, {service.key}"
        if dropped:
            found = f"{parameter} of master.cf takes the place of main.cf's, and does not ask {self.endpoint}"
        else:
            found = f"does not ask {self.endpoint}, and users authenticate there"
        mend = f"  -o {{ {parameter} = {self._with_line(value)} }}"
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
        settings = self._settings
        name = restriction.name
        if restriction.only_warns:
            return ""
        if name in _ENDS:
            return "everybody"
        if (
            name == "permit_sasl_authenticated"
            and settings.limit_by_sasl
            and self._postfix.is_on("smtpd_sasl_auth_enable", hook.service)
        ):
            return "everybody who has authenticated"
        if name == "permit_mynetworks" and self._postfix.value("mynetworks", hook.service):
            return "the clients in mynetworks"
        return ""

    def _with_line(self, value: str) -> str:
        return f"{self.line}, {value}" if value else self.line

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
                "smtpd connects anew after so many requests, which takes longer than the daemon's answer.",
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
        filters = [
            (service, name)
            for service in postfix.smtpd
            for name in ("content_filter", "smtpd_proxy_filter")
            if not service.is_local and postfix.value(name, service)
        ]
        again = [hook for hook in self.counting if hook.service.is_local]
        first = [hook for hook in self.counting if any(hook.service == service for service, _ in filters)]
        if not again or not first or not (self._settings.limit_by_sender or self._settings.limit_by_ip):
            return
        hook = again[0]
        through = next(postfix.value(name, service) for service, name in filters if service == first[0].service)
        yield warning(
            "counted-twice",
            f"master.cf, {hook.service.key}",
            f"asks the daemon, as does {first[0].service.key}, whose mail goes through {through}",
            "If the filter hands mail back to this service, each mail counts twice.",
            f"  -o {{ {hook.parameter} = {hook.others} }}",
        )

    def _too_many_recipients(self) -> Iterator[Finding]:
        """Mails that can never pass as a whole, where all recipients are counted at once."""
        settings, postfix = self._settings, self._postfix
        smallest = min((limit.maximum for limit in settings.limits), default=0)
        if settings.count_mode == 2 or not smallest:
            return
        for service in dict.fromkeys(hook.service for hook in self.counting):
            most = int(postfix.value("smtpd_recipient_limit", service) or 0)
            if RCPT in {hook.stage for hook in self.counting if hook.service == service} or most <= smallest:
                continue
            yield warning(
                "recipient-limit",
                postfix.place("smtpd_recipient_limit", service),
                f"takes {most} recipients a mail, of which limits admit {smallest}",
                "A mail to more of them is refused as a whole, however often it is tried. With the line below smtpd"
                " tells the client at the first recipient too many to send the rest by itself (RFC 5321, 4.5.3.1.10).",
                postfix.line("smtpd_recipient_limit", str(smallest), service),
            )

    # Who sends

    def _may_carry(self, service: Service) -> bool:
        """Whether users whom the daemon should limit send through ``service``, which does not ask it."""
        if service.is_local:
            return False  # where content filters hand mail back
        return self._settings.limit_by_sasl and self._postfix.is_on("smtpd_sasl_auth_enable", service)
