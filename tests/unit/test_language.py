"""Texts are the same in each language, and what the program says in English has its sentence in the others."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import pytest

from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.language.catalogue import ENGLISH, LANGUAGES, Text, texts_of
from policyd_rate_limit.language.told import ENTRIES, ERRORS, LONGEST_SENTENCE, retold
from policyd_rate_limit.language.wording import Wording, english
from policyd_rate_limit.storage.administration import Actor, Override
from policyd_rate_limit.storage.audit_entries import entry_of_override, entry_of_reset, entry_of_revocation
from policyd_rate_limit.storage.copying import Copied

OTHERS = LANGUAGES[1:]
BY = Actor("root", "shell on mx1")
SOURCE = Path(str(files("policyd_rate_limit")))

SAID_TO_VISITORS: Mapping[str, tuple[str, ...]] = {
    "web": ("Forbidden", "Busy", "BadRequest", "ForeignOrigin", "StoreFull", "HTTPException", "ChangedMeanwhile"),
    "web/pages": ("Forbidden", "HTTPException"),
    "admin": ("NotAnId", "ChangedMeanwhile"),
    "domain": ("ValueError",),
}
"""Errors that a page tells of, by the room that raises them. Of the domain's those of ids: the others are of files."""

OF_IDS = ("identity.py", "networks.py")

ALIKE = {
    *("date.time", "date.minute", "date.plot_month", "date.plot_moment", "list.comma", "list.row", "of.nothing"),
    *(
        "login.name",
        "health.daemon",
        "now.daemons",
        "column.socket",
        "column.version",
        "column.limit",
        "column.client",
        "change.limits",
        "confirm.counter",
    ),
    *("amount.bytes_short", "duration.s", "limit.one", "whom.in_networks", "condition.one", "rule.sentence"),
}
"""Texts that are the same in English and German."""


def forms(text: Text) -> Mapping[str, str]:
    return {"": text} if isinstance(text, str) else text


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def german() -> Wording:
    return Wording("de", texts_of("de"))


@pytest.mark.parametrize("language", OTHERS)
def test_each_language_has_the_same_texts_with_the_same_placeholders(language: str) -> None:
    first, other = texts_of(ENGLISH), texts_of(language)
    assert list(first) == list(other), "in the same order, so that files can be read side by side"
    for name, text in first.items():
        translated = other[name]
        assert set(forms(text)) == set(forms(translated)), name
        for form, of_form in forms(text).items():
            # One may be told without its number: in any hour.
            free = {"count"} if form == "one" else set()
            assert placeholders(of_form) - free == placeholders(forms(translated)[form]) - free, (name, form)
        if not isinstance(text, str):
            assert {"one", "other"} <= set(text) <= {"one", "other", "any"}, name
            assert "count" in placeholders(text["other"]) & placeholders(forms(translated)["other"]), name


def test_texts_are_plain() -> None:
    for language in LANGUAGES:
        for name, text in texts_of(language).items():
            for one in forms(text).values():
                assert not set(one) & set("<>&"), f"{language}: {name}"
                assert one == one.strip() or name == "list.comma", f"{language}: {name}"


def test_what_is_the_same_in_german_is_known_to_be() -> None:
    """A text that was forgotten would be English."""
    en, de = texts_of(ENGLISH), texts_of("de")
    assert {name for name in en if en[name] == de[name]} == ALIKE


def raised(room: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What errors of ``kinds`` say in the modules of ``room``: where, and a sentence with X in place of each value."""
    for path in sorted((SOURCE / room).glob("*.py")):
        if room == "domain" and path.name not in OF_IDS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in kinds:
                for one in node.args:
                    for said in sentences(one):
                        yield f"{room}/{path.name}:{node.lineno}", said


def sentences(node: ast.expr) -> Iterator[str]:
    """The sentences that ``node`` may be, where it is text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.BoolOp):
        for one in node.values:
            yield from sentences(one)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)


@pytest.mark.parametrize("language", OTHERS)
def test_every_error_that_a_page_may_tell_of_has_its_sentence(language: str) -> None:
    words = Wording(language, texts_of(language))
    said = [one for room, kinds in SAID_TO_VISITORS.items() for one in raised(room, kinds)]
    assert len(said) > 25, "they are found in the source"
    # What follows a sentence may be left out.
    assert [one for one in said if not (retold(one[1], words) or retold(one[1].removesuffix("X"), words))] == []


def test_every_error_that_has_its_sentence_is_one_of_the_program() -> None:
    said = {sentence for room, kinds in SAID_TO_VISITORS.items() for _, sentence in raised(room, kinds)}
    every = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    every = re.sub(r'"\s*f?"', "", every)  # a text that goes on in the next line
    # Those of Python's http and ipaddress, and of Starlette.
    of_others = ("not_found", "not_allowed", "no_network", "host_bits", "too_many_fields")
    for name, text in texts_of(ENGLISH).items():
        section, _, short = name.partition(".")
        if section == ERRORS and short not in of_others:
            longest = max((literal for literal, *_ in string.Formatter().parse(str(text))), key=len)
            for part in longest.strip(" ;:").split("; "):
                assert part in every or any(part in one for one in said), f"nobody says {name}"


@pytest.mark.parametrize(
    ("said", "in_german"),
    [
        ("this account may look, and change nothing", "Dieses Konto darf nachsehen und nichts ändern."),
        (
            "the list of rules is for accounts that are bound to no domain",
            "Die Liste der Regeln ist nur für Konten, die an keine Domain gebunden sind.",
        ),
        (
            "a is the key of no rule is the key of no rule; keyed are usual by sender, net by client_address/24/48",
            "Nach a is the key of no rule zählt keine Regel; gezählt wird so:"
            " usual nach sender, net nach client_address/24/48.",
        ),
        (
            "the tables of hit history and audit trail cannot be made, and nothing is changed without a trail: denied;"
            " policyd-rate-limit doctor prints the CREATE TABLE that whoever owns the database has to run",
            "Die Tabellen des Verlaufs der Ablehnungen und der Änderungen lassen sich nicht anlegen, und ohne sie wird"
            " nichts geändert (denied). Wem die Datenbank gehört, der führt aus, was policyd-rate-limit doctor"
            " ausgibt.",
        ),
        ("x is the key of no rule; keyed are none", "Nach x zählt keine Regel; gezählt wird so: gar nicht."),
        (" is the key of no rule", None),
        ("database disk image is malformed", None),
        ("terminated by signal", None),
        (f"{'x' * LONGEST_SENTENCE} is the key of no rule", None),
        ("", None),
    ],
)
def test_errors_in_german(said: str, in_german: str | None) -> None:
    assert retold(said, german()) == in_german
    assert retold(said, english()) == said


@pytest.mark.parametrize(
    ("kept", "in_german"),
    [
        (entry_of_override(BY, 0, Override("user:a", (Limit(30, 60),), 1_795_861_200, "")).detail,
         "30/1m bis 28.11.2026 10:20:00 UTC"),
        (entry_of_override(BY, 0, Override("user:a", (), 1_795_861_200, "")).detail,
         "unbegrenzt bis 28.11.2026 10:20:00 UTC"),
        (entry_of_override(BY, 0, Override("user:a", (BLOCKED,), 1_795_861_200, "")).detail,
         "bis 28.11.2026 10:20:00 UTC"),
        (entry_of_revocation(BY, 0, "user:a", had_one=False).detail, "nichts war in Kraft"),
        (entry_of_reset(BY, 0, "user:a", 1).detail, "1 Mail zurückgenommen"),
        (entry_of_reset(BY, 0, "user:a", 7).detail, "7 Mails zurückgenommen"),
        (entry_of_reset(BY, 0, "r/bytes|user:a", 1).detail, "1 Byte zurückgenommen"),
        (entry_of_reset(BY, 0, "r/bytes|user:a", 7_000).detail, "7.000 Bytes zurückgenommen"),
        (entry_of_reset(BY, 0, "r/distinct-sender|user:a", 1).detail, "1 Wert zurückgenommen"),
        (entry_of_reset(BY, 0, "r/distinct-sender|user:a", 7).detail, "7 Werte zurückgenommen"),
        (", ".join(f"{name} {number}" for name, number in Copied(1, 2, 3, 4, 5, 6).amounts().items()),
         "Zählungen 1, Sperren und andere Limits 2, beendete 3, Treffer 4, Verlauf 5, Änderungen 6"),
        (BY.from_where, "Shell auf mx1"),
        ("operate for all", "Rolle operate für alle"),
        ("view for a.example, b.example", "Rolle view für a.example, b.example"),
        ("from SQLite /var/lib/x", "aus SQLite /var/lib/x"),
        ("rule usual: 30/1h exceeded", "Regel usual: 30/1h überschritten"),
        ("until tomorrow UTC", "bis tomorrow UTC"),
        ("moved to Berlin", None),
    ],
)  # fmt: skip
def test_what_the_audit_trail_keeps_in_german(kept: str, in_german: str | None) -> None:
    assert retold(kept, german(), ENTRIES) == in_german


def test_periods_and_lists_in_words() -> None:
    de = german()
    assert [de.period(seconds) for seconds in (1, 90, 5_400, 3_600, 172_800, 604_800)] == [
        "1 Sekunde", "90 Sekunden", "90 Minuten", "1 Stunde", "2 Tage", "1 Woche",
    ]  # fmt: skip
    assert [de.each(seconds) for seconds in (3_600, 7_200)] == ["Stunde", "2 Stunden"]
    lists: list[list[str]] = [[], ["a"], ["a", "b"], ["a", "b", "c"]]
    assert [de.listed(words, "or") for words in lists] == ["", "a", "a oder b", "a, b oder c"]
    assert de.listed(["a", "b"], "nor") == "a noch b"
