"""Reads the lists of Postfix's ``smtpd_*_restrictions``: postconf(5), SMTPD_ACCESS_README, SMTPD_POLICY_README."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEEPEST = 20
"""How many restriction classes may lie inside each other."""

OPTIONS = frozenset(
    (
        *("default_action", "max_idle", "max_ttl", "policy_context", "request_limit", "retry_delay", "timeout"),
        "try_limit",
    )
)
"""What may stand in the braces of ``check_policy_service``: "Advanced policy client configuration" of
SMTPD_POLICY_README."""

_SEPARATORS = ", \t\r\n"
_RESTRICTION = re.compile(r"[a-z]+_\w+|permit|reject|defer|sleep", re.IGNORECASE)


class Restriction(NamedTuple):
    """One restriction with what belongs to it."""

    name: str
    argument: str = ""
    only_warns: bool = False
    """Whether ``warn_if_reject`` stands before it."""
    stray: tuple[str, ...] = ()
    """Options of ``check_policy_service`` that stand behind it without braces; Postfix takes them for restrictions."""

    def __str__(self) -> str:
        words = ("warn_if_reject" if self.only_warns else "", self.name, self.argument, *self.stray)
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


def parse(text: str, classes: Mapping[str, str], depth: int = 0, *, expand: bool = True) -> Iterator[Restriction]:
    """The restrictions of a list, those of ``classes`` (restriction classes, by their names) in their places.

    ``expand=False``: the list as it stands, with the names of classes.
    """
    words = _Words(split(text))
    only_warns = False
    for word in words:
        name = word.lower() if word not in classes else word
        if name == "warn_if_reject":
            only_warns = True
            continue
        if expand and name in classes and depth < DEEPEST:
            yield from parse(classes[name], classes, depth + 1)
        else:
            argument = next(words, "") if takes_an_argument(name) and name not in classes else ""
            stray = tuple(words.options(classes)) if name == "check_policy_service" else ()
            yield Restriction(name, argument, only_warns, stray)
        only_warns = False


class _Words:
    """The words of a list, one after the other."""

    def __init__(self, words: list[str]) -> None:
        self._words = words[::-1]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._words:
            raise StopIteration
        return self._words.pop()

    def options(self, classes: Mapping[str, str]) -> Iterator[str]:
        """The options of a policy service that come next; of one whose value is a text, all its words."""
        is_text = False
        while self._words:
            word = self._words[-1]
            name = _without_braces(word).partition("=")[0].strip() if "=" in word else ""
            if name in OPTIONS:
                is_text = name in ("default_action", "policy_context")
            elif not is_text or word in classes or ":" in word or _RESTRICTION.fullmatch(word):
                return
            yield self._words.pop()


def takes_an_argument(name: str) -> bool:
    """Whether the word behind the restriction ``name`` belongs to it."""
    return name.startswith("check_") or name == "sleep" or name.split("_")[1:2] in _LISTS


# reject_rbl_client, reject_rhsbl_sender, permit_dnswl_client, permit_rhswl_client
_LISTS = (["rbl"], ["rhsbl"], ["dnswl"], ["rhswl"])


def policy_service(argument: str, stray: Sequence[str] = ()) -> PolicyService:
    """What ``check_policy_service`` asks, and how; ``stray``: as if those options stood in its braces."""
    endpoint, *options = split(_without_braces(argument)) or [""]
    pairs = (_without_braces(option).partition("=") for option in options)
    values = {name.strip(): value.strip() for name, _, value in pairs}
    name = ""
    for word in stray:
        before, equals, after = _without_braces(word).partition("=")
        if equals:
            name = before.strip()
        values[name] = after.strip() if equals else f"{values[name]} {word}"
    return PolicyService(endpoint, values)


def _without_braces(text: str) -> str:
    return text.strip().removeprefix("{").removesuffix("}").strip() if text.startswith("{") else text
