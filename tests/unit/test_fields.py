"""Fields: what a client sends comes back from the line as it was, and forges nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd_rate_limit.system.fields import MOST_CHARACTERS, Line, quote, unicode, written
from support.logfmt import parse

# Bytes that are not UTF-8 are among it: half of the surrogates stand for them, the others come from nowhere.
TEXT = st.one_of(st.text(), st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))


@given(TEXT.filter(bool), TEXT.filter(bool))
@example('a" verdict=admitted id="b', "\\")
@example("\r\nNov 22 17:00:00 host policyd: verdict=admitted", "\u2028")
@example("\x00\x1b[2J\x7f\x80\x9f", "\udcff\udc80é")
@example("\u202egpj.exe\U000e0001", "=")
def test_what_is_written_is_read_back(one: str, two: str) -> None:
    one, two = one[: MOST_CHARACTERS // 10], two[: MOST_CHARACTERS // 10]  # the longest escape has ten characters
    assert parse(str(Line(one=one, number=5, two=two))) == {"one": one, "number": "5", "two": two}


@given(TEXT)
def test_two_values_are_never_written_alike(text: str) -> None:
    text = text[: MOST_CHARACTERS // 10]
    assert quote(text).isprintable()
    assert quote(text) != quote(text + " ")
    assert quote(text) != quote(f'"{text}"')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("alice@example.org", "alice@example.org"),
        ("2001:db8::/64", "2001:db8::/64"),
        ("é☃漢字", "é☃漢字"),
        ("a b", '"a b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("a=b", '"a=b"'),
        ("a\\b", r'"a\\b"'),
        ("a\r\nb\t", r'"a\r\nb\t"'),
        ("\x00\x1b\x7f", r'"\x00\x1b\x7f"'),
        ("\x85\u2028\u202e\U000e0001", r'"\u0085\u2028\u202e\U000e0001"'),
        ("\udce9t\udcff", r'"\xe9t\xff"'),
        ("\ud800", r'"\ud800"'),
        ("", '""'),
    ],
)
def test_how_a_value_is_written(value: str, text: str) -> None:
    assert quote(value) == text


def test_empty_values_are_left_out_and_numbers_are_not() -> None:
    assert str(Line(a="", b=0, c=0.0, d="x", e=1.23456)) == "b=0 c=0.000 d=x e=1.235"
    assert list(Line(a="", b=0).fields) == ["b"]


def test_a_long_value_is_cut() -> None:
    longest = "x" * MOST_CHARACTERS
    assert written(longest) == longest
    assert written(longest + "x") == longest[:-1] + "…"
    for text in ("\udcff" * 100_000, '"' * 100_000, "a b" * 100_000):
        line = str(Line(id=text))
        assert len(line) <= len('id=""…') + MOST_CHARACTERS
        value = parse(line)["id"]
        assert text.startswith(value[:-1])
        assert value.endswith("…")


@given(TEXT)
def test_json_holds_what_is_not_utf_8(text: str) -> None:
    held = unicode(text)
    held.encode("utf-8")
    assert json.loads(json.dumps(held)) == held
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert held == text


def test_bytes_that_are_not_utf_8_can_be_read_in_json() -> None:
    assert unicode("caf\udce9") == r"caf\xe9"
