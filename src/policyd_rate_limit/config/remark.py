"""A remark about settings that are each right by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.limits import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.config.kind import Place

MOST_NAMED = 3
"""The most entries that one remark names."""


class Remark(NamedTuple):
    """``text`` about the value at ``place``, which begins with the name of a setting."""

    place: Place
    text: str
    limits_nobody: bool = False
    """Whether nothing is limited for that reason; ``doctor`` says so in a finding of its own."""


def named(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(shown, names[:MOST_NAMED])) + more
