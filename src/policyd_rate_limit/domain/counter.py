"""The names of counters: ``[rule|]kind:id``. What a client has chosen comes last, so that it can imitate nothing."""

from __future__ import annotations

from typing import Final

DEFAULT: Final = "default"
"""The rule that the settings of version 1 are. Its counters are named ``kind:id``, as they have always been."""


def counter_name(rule: str, key: str) -> str:
    """The counter of ``key`` (``kind:id``) in ``rule``, whose name has neither ``|`` nor ``:``."""
    return key if rule == DEFAULT else f"{rule}|{key}"


def rule_and_key(counter: str) -> tuple[str, str]:
    """The name of the rule that ``counter`` belongs to, and the key that it counts."""
    before, colon, name = counter.partition(":")
    rule, bar, kind = before.partition("|")
    return (rule, f"{kind}{colon}{name}") if bar else (DEFAULT, counter)


def kind_of(counter: str) -> str:
    """What ``counter`` counts: ``user``, for instance; empty where it is nobody's."""
    return counter.partition(":")[0].rpartition("|")[2]
