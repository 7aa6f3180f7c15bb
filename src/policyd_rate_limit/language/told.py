"""What this program has said in English, in another language: errors, and what the audit trail keeps.

Those sentences are made, and kept in databases, where nobody knows who will read them. English texts are their forms:
what has one of these is said by the text of the same name in another language.
"""

from __future__ import annotations

import string
from functools import cache
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.language.catalogue import ENGLISH, texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.language.wording import Wording

LONGEST_SENTENCE: Final = 4_000
"""Characters; a longer one is none of ours."""

ERRORS: Final = "told"
"""The texts that are the forms of errors."""

ENTRIES: Final = "entry"
"""Those of what the audit trail, and the notes of rules that block, are kept with."""

_PARTS: Final = "part"
_WITH_PARTS: Final = frozenset({"what", "list", "domains"})
"""What these names stand for is told as well, each part of it by a text of ``part``."""


def retold(sentence: str, words: Wording, section: str = ERRORS) -> str | None:
    """``sentence`` as ``words`` say it; None where it has none of the forms of ``section``."""
    if words.language == ENGLISH:
        return sentence
    if len(sentence) > LONGEST_SENTENCE:
        return None
    for name, form in _forms(section):
        values = _values(form, sentence)
        if values is not None:
            return words.say(name, **{key: _value(key, value, words) for key, value in values.items()})
    return None


def _value(key: str, value: str, words: Wording) -> str:
    if key == "date":
        return words.date(value)
    if key == "count" and value.isdecimal():
        return words.number(int(value))
    if key in _WITH_PARTS:
        return ", ".join(retold(part, words, _PARTS) or part for part in value.split(", "))
    return value


_Form = tuple[tuple[str, str | None], ...]
"""Text that is there as it stands, each with the name of what follows it; None: nothing does."""


@cache
def _forms(section: str) -> Sequence[tuple[str, _Form]]:
    """Each by its name; those of which more is said come first."""
    found = [
        (name, tuple((literal, key) for literal, key, _, _ in string.Formatter().parse(text)))
        for name, text in texts_of(ENGLISH).items()
        if name.startswith(f"{section}.") and isinstance(text, str)
    ]
    return sorted(found, key=lambda item: -sum(len(literal) for literal, _ in item[1]))


def _values(form: _Form, sentence: str) -> Mapping[str, str] | None:
    """What stands in ``sentence`` for each name; None where it has another form."""
    found: dict[str, str] = {}
    at, pending = 0, None
    for literal, key in form:
        is_last = key is None
        if pending is None:
            where = at if sentence.startswith(literal, at) else -1
        elif is_last:
            where = len(sentence) - len(literal) if sentence.endswith(literal) else -1
        else:
            where = sentence.find(literal, at + 1)
        if where < at + (pending is not None):
            return None
        if pending is not None:
            found[pending] = sentence[at:where]
        at, pending = where + len(literal), key
    if pending is not None:
        found[pending] = sentence[at:]
        return found if found[pending] else None
    return found if at == len(sentence) else None
