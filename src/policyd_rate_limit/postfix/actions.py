"""What Postfix does with the action of an answer: access(5), "ACCEPT ACTIONS", "REJECT ACTIONS", "OTHER ACTIONS"."""

from __future__ import annotations

from typing import Final

_REFUSING: Final = frozenset({"reject", "defer", "defer_if_permit", "discard"})


def refuses(action: str) -> bool:
    """Whether a mail does not go on its way by ``action``.

    DISCARD takes it and throws it away. DEFER_IF_REJECT refuses only what is refused anyway.
    """
    word = action.split(maxsplit=1)[0].lower() if action.strip() else ""
    return word in _REFUSING or (len(word) == 3 and word.isascii() and word.isdigit() and word[0] in "45")


def holds(action: str) -> bool:
    """Whether a mail waits in the hold queue by ``action``."""
    return action.split(maxsplit=1)[:1] != [] and action.split(maxsplit=1)[0].lower() == "hold"
