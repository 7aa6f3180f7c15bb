"""The names of counters: ``[rule[/unit]|]kind:id``. What a client has chosen comes last, and imitates nothing.

The unit is in the name so that what was counted in one unit is never taken for another: whoever changes what a rule
counts has it begin anew.
"""

from __future__ import annotations

from typing import Final

from policyd_rate_limit.domain.counting import DISTINCT, RECIPIENTS

DEFAULT: Final = "default"
"""The rule that the settings of version 1 are. Its counters are named ``kind:id``, as they have always been."""


_DISTINCT: Final = f"{DISTINCT} "
_OF_VALUES: Final = f"/{DISTINCT}-"


def counter_prefix(rule: str, unit: str = RECIPIENTS) -> str:
    """What the counters of ``rule`` begin with, which counts in ``unit``; no two rules and units have the same.

    The name of the rule has none of ``|``, ``/`` and ``:``. Recipients are what is counted where no unit is written.
    """
    if rule == DEFAULT:
        return ""
    return f"{rule}|" if unit == RECIPIENTS else f"{rule}/{unit.replace(' ', '-')}|"


def prefix_and_key(counter: str) -> tuple[str, str]:
    """What :func:`counter_prefix` has put before the key in ``counter``, and the key (``kind:id``) that it counts."""
    before, colon, name = counter.partition(":")
    prefix, bar, kind = before.partition("|")
    return (prefix + bar, f"{kind}{colon}{name}") if bar else ("", counter)


def rule_and_key(counter: str) -> tuple[str, str]:
    """The name of the rule that ``counter`` belongs to, and the key that it counts."""
    prefix, key = prefix_and_key(counter)
    return (prefix[:-1].partition("/")[0] if prefix else DEFAULT, key)


def unit_of(counter: str) -> str:
    """In what ``counter`` counts: see :data:`policyd_rate_limit.domain.counting.UNITS`, and ``distinct ATTRIBUTE``."""
    unit = prefix_and_key(counter)[0][:-1].partition("/")[2]
    return unit.replace("-", " ") or RECIPIENTS


def is_distinct(counter: str) -> bool:
    """Whether ``counter`` counts different values, each once."""
    before = counter.partition(":")[0]
    return _OF_VALUES in before and unit_of(counter).startswith(_DISTINCT)


def kind_of(counter: str) -> str:
    """What ``counter`` counts: ``user``, for instance; empty where it is nobody's."""
    return counter.partition(":")[0].rpartition("|")[2]
