"""What smtpd cannot make sense of in its lists of restrictions: it then answers 451 4.3.5, or does not start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, error
from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.lists import LISTS, WITH_A_TABLE
from policyd_rate_limit.postfix.names import cleaned
from policyd_rate_limit.postfix.restrictions import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from policyd_rate_limit.postfix.names import RestrictionNames
    from policyd_rate_limit.postfix.postconf import Postfix, Service
    from policyd_rate_limit.postfix.restrictions import Restriction

_REFUSED = "smtpd answers 451 4.3.5 Server configuration error to every client whose mail gets there."
_NOT_STARTED = "smtpd ends with a fatal error when it reads it: no mail is taken."


def examine(postfix: Postfix, names: RestrictionNames) -> Iterator[Finding]:
    """What each smtpd does not understand in its lists and restriction classes."""
    for service in postfix.smtpd:
        classes = postfix.classes(service)
        for parameter in (*LISTS, *classes):
            found = list(restrictions.parse(postfix.value(parameter, service), classes, expand=False))
            tables = parameter not in LISTS or parameter in WITH_A_TABLE
            mended = ", ".join(map(str, cleaned(found, names, classes, tables=tables)))
            for restriction in found:
                for problem, why in _problems(restriction, names, classes, tables=tables):
                    yield _finding(postfix, parameter, service, problem, why, mended)


def _finding(postfix: Postfix, parameter: str, service: Service, problem: str, why: str, mended: str) -> Finding:
    place, line = postfix.place(parameter, service), postfix.line(parameter, mended, service)
    return error("unknown-restriction", place, problem, why, line)


def _problems(
    restriction: Restriction, names: RestrictionNames, classes: Container[str], *, tables: bool
) -> Iterator[tuple[str, str]]:
    """What is wrong with ``restriction``, and what comes of it."""
    name = restriction.name
    if restriction.stray:
        yield f"{' '.join(restriction.stray)} stands outside of the braces of check_policy_service", _REFUSED
    if restrictions.takes_an_argument(name) and not restriction.argument:
        yield f"{name} has no argument", _REFUSED
    elif name == "check_policy_service":
        service = restrictions.policy_service(restriction.argument)
        for option in service.options:
            if option not in OPTIONS:
                yield f"{option or '='} is no option of check_policy_service", _NOT_STARTED
    if name in classes or names.knows(name) or (":" in name and tables):
        return
    nearest = names.nearest(name)
    yield f"{name} is no restriction that {names.version} knows{f'; {nearest} is' if nearest else ''}", _REFUSED
