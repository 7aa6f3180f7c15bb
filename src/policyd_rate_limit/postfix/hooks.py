"""The places where smtpd asks policy services: its lists of restrictions, as main.cf and master.cf have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.lists import stages_of_lists

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from policyd_rate_limit.postfix.postconf import Postfix, Service
    from policyd_rate_limit.postfix.restrictions import PolicyService, Restriction


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
    return stages_of_lists(delayed=postfix.is_on("smtpd_delay_reject", service))
