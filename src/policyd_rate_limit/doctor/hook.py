"""The places where smtpd asks policy services: its lists of restrictions, as main.cf and master.cf have them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.doctor import restrictions
from policyd_rate_limit.domain.identity import parse_address
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from policyd_rate_limit.doctor.postfix import Postfix, Service
    from policyd_rate_limit.doctor.restrictions import PolicyService, Restriction

Address = str | tuple[str, int]

RECIPIENT = "smtpd_recipient_restrictions"
DATA_LIST = "smtpd_data_restrictions"
END_OF_DATA = "smtpd_end_of_data_restrictions"

LISTS = {RCPT: RECIPIENT, DATA: DATA_LIST, END_OF_MESSAGE: END_OF_DATA}
"""The list that is looked at at each stage that may count."""

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
        return listed(*self.before, *self.restrictions[self.position + 1 :])

    def changed(self, restriction: Restriction | str) -> str:
        """The list with ``restriction`` in place of the policy service."""
        return listed(*self.before, restriction, *self.restrictions[self.position + 1 :])


def listed(*restrictions: Restriction | str) -> str:
    """A list as main.cf has it."""
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


class ClassHook(NamedTuple):
    """A restriction class that asks a policy service, in a service where an access table may name the class.

    Only who knows the table's contents knows for whom.
    """

    service: Service
    name: str
    asked: PolicyService
    lists: tuple[str, ...]
    """The parameters in which an access table is looked up, each at a stage that counts."""


def hooks(postfix: Postfix, service: Service) -> Iterator[Hook]:
    """Where ``service`` asks any policy service."""
    classes = postfix.classes(service)
    for parameter, stage in _stages(postfix, service).items():
        found = tuple(restrictions.parse(postfix.value(parameter, service), classes))
        for index, restriction in enumerate(found):
            if restriction.name == "check_policy_service":
                asked = restrictions.policy_service(restriction.argument, restriction.stray)
                yield Hook(service, parameter, stage, found, index, asked)


def class_hooks(postfix: Postfix, service: Service, counted: Container[str]) -> Iterator[ClassHook]:
    """Which restriction classes of ``service`` may ask a policy service at one of the stages ``counted``."""
    classes = postfix.classes(service)
    lists = tuple(
        parameter
        for parameter, stage in _stages(postfix, service).items()
        if stage in counted
        and any(map(_looks_up_a_table, restrictions.parse(postfix.value(parameter, service), classes)))
    )
    for name, text in classes.items() if lists else ():
        for restriction in restrictions.parse(text, classes):
            if restriction.name == "check_policy_service":
                asked = restrictions.policy_service(restriction.argument, restriction.stray)
                yield ClassHook(service, name, asked, lists)


def _looks_up_a_table(restriction: Restriction) -> bool:
    # hash:/etc/postfix/clients alone is the access table of its list.
    return (restriction.name.startswith("check_") and restriction.name.endswith("_access")) or ":" in restriction.name


def _stages(postfix: Postfix, service: Service) -> dict[str, str]:
    """When ``service`` looks at each of its lists, as protocol_state says it."""
    delayed = postfix.is_on("smtpd_delay_reject", service)
    return {parameter: RCPT if delayed and stage in _DELAYED else stage for parameter, stage in _STAGES.items()}
