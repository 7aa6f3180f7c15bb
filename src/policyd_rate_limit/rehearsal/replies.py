"""Which refusals of the past were those of rate limits: by the text that the client was told.

What Postfix makes of the action of a policy server is in access(5): ``<bob@example.net>: Recipient address rejected:``
and the text of the action; without one it is ``Access denied``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.postfix.actions import refuses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policyd_rate_limit.config import Settings

_VARIABLE: Final = re.compile(r"\{[^{}]*\}")
_CODES: Final = re.compile(r"(?:[45][0-9]{2}\s+)?(?:[245]\.[0-9]{1,3}\.[0-9]{1,3}(?:\s+|\Z))?")
_WITHOUT_TEXT: Final = "Access denied"
_BEFORE: Final = " rejected: "
REMEMBERED: Final = 4096
"""The most replies of which it is remembered whether they are a rate limit's."""


class Replies:
    """The texts of all actions of some configurations that refuse. A variable in one stands for anything."""

    def __init__(self, configurations: Iterable[Settings]) -> None:
        texts = dict.fromkeys(text for settings in configurations for text in _texts(settings))
        self._texts = [[_plain(part) for part in _VARIABLE.split(text)] for text in texts]
        self._known: dict[str, bool] = {}

    def match(self, reply: str) -> bool:
        """Whether ``reply``, as the log has it behind the status codes, is that of a rate limit."""
        known = self._known.get(reply)
        if known is None:
            known = self._match(_plain(reply).strip())
            if len(self._known) < REMEMBERED:
                self._known[reply] = known
        return known

    def _match(self, reply: str) -> bool:
        # Whoever sends the mail chooses the address that stands before, and may write these words into it.
        told = {reply, reply.partition(_BEFORE)[2], reply.rpartition(_BEFORE)[2]}
        return any(_is_like(one, parts) for one in told if one for parts in self._texts)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _is_like(text: str, parts: list[str]) -> bool:
    """Whether ``text`` is these ``parts``, with anything between them. It takes no longer than to read it once."""
    first, *others = parts
    if not others:
        return text == first
    *between, last = others
    if not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in between:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return at <= end


def _texts(settings: Settings) -> Iterator[str]:
    actions = [settings.fail_action, settings.block_action, *(rule.action or "" for rule in settings.rules)]
    for action in actions:
        if refuses(action):
            word, *text = action.split(maxsplit=1)
            whole = action if word.isdigit() else "".join(text)
            yield whole[len(_CODES.match(whole)[0]) :].strip() or _WITHOUT_TEXT  # type: ignore[index]  # matches any
