"""Reads the lists of Postfix's ``smtpd_*_restrictions``: postconf(5), SMTPD_ACCESS_README, SMTPD_POLICY_README."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEEPEST = 20
"""How many restriction classes may lie inside each other."""

_SEPARATORS = ", \t\r\n"


class Restriction(NamedTuple):
    """One restriction with what belongs to it."""

    name: str
    argument: str = ""
    only_warns: bool = False
    """Whether ``warn_if_reject`` stands before it."""

    def __str__(self) -> str:
        words = ("warn_if_reject" if self.only_warns else "", self.name, self.argument)
        return " ".join(word for word in words if word)


class PolicyService(NamedTuple):
    """The argument of ``check_policy_service``."""

    endpoint: str
    """``inet:host:port`` or ``unix:path``."""
    options: Mapping[str, str]
    """Such as ``timeout``, by their names without ``smtpd_policy_service_``."""

    def __str__(self) -> str:
        options = (f"{name}={value}" for name, value in self.options.items())
        # In braces of its own where a value holds what separates options.
        words = (
            self.endpoint,
            *(f"{{ {option} }}" if set(option) & set(_SEPARATORS) else option for option in options),
        )
        return f"{{ {', '.join(words)} }}" if self.options else self.endpoint


def split(text: str) -> list[str]:
    """The words of a list; what stands in braces is one word."""
    words: list[str] = []
    word = ""
    depth = 0
    for character in text:
        if not depth and character in _SEPARATORS:
            if word:
                words.append(word)
            word = ""
            continue
        depth += (character == "{") - (character == "}" and depth > 0)
        word += character
    return [*words, word] if word else words


def parse(text: str, classes: Mapping[str, str], depth: int = 0) -> Iterator[Restriction]:
    """The restrictions of a list, those of ``classes`` (restriction classes, by their names) in their places."""
    words = iter(split(text))
    only_warns = False
    for word in words:
        name = word.lower() if word not in classes else word
        if name == "warn_if_reject":
            only_warns = True
            continue
        if name in classes and depth < DEEPEST:
            yield from parse(classes[name], classes, depth + 1)
        else:
            yield Restriction(name, next(words, "") if _takes_an_argument(name) else "", only_warns)
        only_warns = False


def _takes_an_argument(name: str) -> bool:
    return name.startswith("check_") or name == "sleep" or name.split("_")[1:2] in _LISTS


# reject_rbl_client, reject_rhsbl_sender, permit_dnswl_client, permit_rhswl_client
_LISTS = (["rbl"], ["rhsbl"], ["dnswl"], ["rhswl"])


def policy_service(argument: str) -> PolicyService:
    """What ``check_policy_service`` asks, and how."""
    if not argument.startswith("{"):
        return PolicyService(argument, {})
    endpoint, *options = split(_without_braces(argument)) or [""]
    pairs = (_without_braces(option).partition("=") for option in options)
    return PolicyService(endpoint, {name.strip(): value.strip() for name, _, value in pairs})


def _without_braces(text: str) -> str:
    return text.strip().removeprefix("{").removesuffix("}").strip() if text.startswith("{") else text
