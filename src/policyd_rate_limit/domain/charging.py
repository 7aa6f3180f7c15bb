"""Whom a rule charges: what a rule asks of its subjects, whatever they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.rules.facts import NO_FACTS, Facts

if TYPE_CHECKING:
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Charged:
    """The ``key`` of the counter that is charged, and the ``limits`` of that key; none: unlimited."""

    key: str
    limits: Limits

    def __init__(self, key: str, limits: Limits) -> None:
        self.key = key
        self.limits = limits


class Charging(ABC):
    """Whom a rule charges, and within which limits."""

    @abstractmethod
    def charged(self, request: Request) -> Charged | None:
        """Whom ``request`` charges, None when nobody is to be charged."""

    @abstractmethod
    def limits_of_key(self, key: str, facts: Facts = NO_FACTS) -> Limits:
        """The limits that the configuration has for a key, as far as ``facts`` tell."""

    @abstractmethod
    def keys_of_id(self, name: str) -> tuple[str, ...]:
        """The keys that ``name`` stands for, as an administrator writes it; none, or ValueError: it stands for none."""

    @property
    def key_text(self) -> str:
        """The key by which it charges, as it is written; empty where there is none that could be."""
        return ""

    @property
    def asks_facts(self) -> bool:
        """Whether more than Postfix's attributes, and what is in memory, is looked at."""
        return False

    @property
    def limits_may_change(self) -> bool:
        """Whether a table says limits, so that those of a key may be others while the configuration is the same."""
        return False

    @property
    def keep_seconds(self) -> int:
        """For so long what is counted may be asked for, whatever limits a key has now."""
        return 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the ids that a rule of its own charges; none: those of version 1."""
        return ()

    @abstractmethod
    def may_look_back_further(self, before: Charging) -> bool:
        """Whether somebody may have a longer window than under ``before``, which were the same rule's."""

    def ids_for_query(self, request: Request, charged: Charged) -> tuple[str, ...]:  # noqa: ARG002 - others need it
        """The ids by which a table may know who ``request`` has charged; the first that it knows counts."""
        return (id_of_key(charged.key),)
