"""The reader of ``.yaml``: YAML 1.1, with lines, within bounds."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.config import yaml_file
from policyd_rate_limit.config.source import MOST_BYTES, Source
from policyd_rate_limit.config.yaml_file import read_yaml
from policyd_rate_limit.errors import ConfigError


def read(text: str) -> Source:
    return read_yaml(text, "x.yaml")


def values(text: str) -> dict[str, object]:
    return read(text).values


def problem(text: str) -> tuple[int, str, str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert problem.file == "x.yaml"
    return problem.line, problem.expected, problem.found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0666", 0o666),
        ("0o666", "0o666"),  # YAML 1.2
        ("yes", True),
        ("Off", False),
        ("", None),
        ("~", None),
        ("1_000", 1000),
        ("0x10", 16),
        ("1:30", 90),
        ("1.5", 1.5),
        ("'0666'", "0666"),
        ("!!str 0666", "0666"),
        ("[a, 1, [2]]", ["a", 1, [2]]),
        ("{a: {b: c}}", {"a": {"b": "c"}}),
        ("|\n  one\n  two\n", "one\ntwo\n"),
    ],
)
def test_values_are_those_of_yaml_1_1(text: str, value: object) -> None:
    assert values(f"x: {text}") == {"x": value}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n...\n", "null\n", "\n\n"])
def test_an_empty_file_sets_nothing(text: str) -> None:
    assert values(text) == {}


def test_keys_are_text_as_it_stands() -> None:
    text = "x: {no: 1, 0123: 2, 1.5: 3, 2001-01-01: 4, 12:30: 5, ~: 6, 192.0.2.1: 7, '::1': 8, 'a b': 9}"
    names = ["no", "0123", "1.5", "2001-01-01", "12:30", "~", "192.0.2.1", "::1", "a b"]
    assert values(text) == {"x": {name: number for number, name in enumerate(names, 1)}}


def test_lines_of_settings_and_of_what_is_inside() -> None:
    source = read(
        """\
# comment
debug: true

limits:
    - [10, 60]
    -
        - 150
        - 86400
limits_by_id:
    alice:
        - [1, 2]
    bob: [[1, 2],
          [3, 4]]
"""
    )
    assert source.line(("debug",)) == 2
    assert source.line(("limits",)) == 4
    assert source.line(("limits", 0)) == 5
    assert source.line(("limits", 1, 1)) == 8
    assert source.line(("limits_by_id",)) == 9
    assert source.line(("limits_by_id", "alice")) == 10
    assert source.line(("limits_by_id", "alice", 0)) == 11
    assert source.line(("limits_by_id", "bob")) == 12
    assert source.line(("limits_by_id", "bob", 1)) == 13
    assert source.line(("limits_by_id", "bob", 7, "x")) == 12
    assert source.line(("other",)) == 0


def test_duplicates_are_warned_of_and_the_last_one_counts() -> None:
    source = read("debug: true\ndebug:\n  [1]\nmysql_config: {hunter2: 1,\n hunter2: 2}\n")
    assert source.values == {"debug": [1], "mysql_config": {"hunter2": 2}}
    assert source.line(("debug",)) == 2
    assert source.line(("debug", 0)) == 3
    assert source.warnings == (
        "x.yaml:2: 'debug' is given before; this one counts",
        "x.yaml:5: a key that is given before; this one counts",
    )


def test_warnings_are_bounded() -> None:
    warnings = read("debug: true\n" * 5000).warnings
    assert len(warnings) == 101
    assert warnings[-1] == "x.yaml: 4899 more warnings"


def test_references_and_merges() -> None:
    text = """\
usual: &usual [[10, 60]]
base: &base {a: 1, b: 2}
more: &more {b: 3, c: 4}
limits: *usual
one: {<<: *base, b: 5}
two:
    <<: [*base, *more]
    d: 6
three: {<<: {x: 1}, <<: {x: 2, y: 3}}
"""
    found = values(text)
    assert found["limits"] == [[10, 60]]
    assert found["one"] == {"a": 1, "b": 5}
    assert found["two"] == {"a": 1, "b": 2, "c": 4, "d": 6}
    assert found["three"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("- 1\n- 2\n", 1, "settings, such as debug: true"),
        ("\n\njust text\n", 3, "settings, such as debug: true"),
        ("a: 1\nb: [1\nc: 2\n", 3, "YAML"),
        ("a: 1\n  b: 2\n", 2, "YAML"),
        ("a: 1\n---\na: 2\n", 2, "YAML"),
        ("a: 1\n\tb: 2\n", 2, "YAML"),
        ("a: @x\n", 1, "YAML"),
        ("a: *nobody\n", 1, "YAML"),
        ("a: \x01\n", 0, "YAML"),
        ("a: 1\nb: 2001-99-99\n", 2, "a plain value, or text in quotes"),
        ("a: !!int x\n", 1, "a plain value, or text in quotes"),
        ("a: !!float x\n", 1, "a plain value, or text in quotes"),
        ("a: !!bool x\n", 1, "a plain value, or text in quotes"),
        ("a: !!timestamp x\n", 1, "a plain value, or text in quotes"),
        ("a: !!binary '\u00e9'\n", 1, "a plain value, or text in quotes"),
        ("a: 0b_\n", 1, "a plain value, or text in quotes"),
        ("a: =\n", 1, "a plain value, or text in quotes"),
        ("a: !unknown x\n", 1, "a plain value, or text in quotes"),
        ("a: !!python/name:os.system\n", 1, "a plain value, or text in quotes"),
        ("a: !!python/object/apply:os.system ['touch /tmp/canary']\n", 1, "a list, a mapping or a plain value"),
        ("a: !!set {x, y}\n", 1, "a list, a mapping or a plain value"),
        ("a: !!omap [x: 1]\n", 1, "a list, a mapping or a plain value"),
        ("? [a, b]\n: 1\n", 1, "text as a key"),
        ("a:\n  ? {b: c}\n  : 1\n", 2, "text as a key"),
        ("a: {<<: 1}\n", 1, "a mapping to merge"),
        ("a: {<<: [[1]]}\n", 1, "a mapping to merge"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, line: int, expected: str) -> None:
    assert problem(text)[:2] == (line, expected)


@pytest.mark.parametrize(
    "text",
    [
        "passwd: *hunter2",
        "passwd: !hunter2 x",
        "passwd: !!hunter2 x",
        "passwd: !hunter2!hunter2 x",
        "passwd: &hunter2 hunter2: x",
        "passwd: 'hunter2",
        'passwd: "hunter2" hunter2',
        'passwd: "\\hunter2"',
        "passwd: %hunter2\n%hunter2",
        "%hunter2\n---\n",
        "passwd: [hunter2",
        "passwd: {hunter2: 1, [hunter2]: 2}",
        "passwd: !!int hunter2",
        "passwd: !<hunter2> [1]",
        "hunter2: {<<: hunter2}",
        "hunter2",
        "a: &hunter2 1\nb: &hunter2 2\nc: *hunter3\n",
    ],
)
def test_a_problem_never_shows_what_could_be_a_password(text: str) -> None:
    assert "hunter2" not in str(problem(text))


REPEATED = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGED = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + REPEATED,
        "a0: &a0 {x: y}\n" + MERGED,
        "a0: &a0 '" + "x" * 10_000 + "'\n" + REPEATED,
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: &a {<<: *a}\n",
        "a: " + "[" * 100_000,
        "a: " + "[" * 100 + "]" * 100,
        "a: " + "{a: " * 100_000,
        "".join(" " * depth + "a:\n" for depth in range(1000)),
        "- " * 100_000,
        "a: 1" + ":1" * 1_000_000,
        "a: " + "1" * 1_000_000,
        "a: 0x" + "1" * 1_000_000,
        "a: 1." + "1" * 1_000_000,
    ],
)
def test_nothing_takes_long_or_fills_memory(text: str) -> None:
    began = time.thread_time()  # of the processor, which others may be using as well
    assert len(problem(text)[1]) < 100
    assert time.thread_time() - began < 20


def test_all_the_same_without_the_parser_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "_Loader", yaml.SafeLoader)
    assert values("a: [0666, {no: yes}]") == {"a": [0o666, {"no": True}]}
    assert problem("a: 1\nb: [1\nc: 2\n")[:2] == (3, "YAML")
    assert "hunter2" not in str(problem("a: *hunter2"))
    assert problem("a: " + "[" * 1000)[1] == "fewer values"
    assert problem("a: \x01\n")[1] == "YAML"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=10), plain, max_size=6), st.booleans())
def test_what_yaml_writes_is_read(written: dict[str, object], flow: bool) -> None:
    assert values(yaml.safe_dump(written, default_flow_style=flow)) == written


@settings(deadline=None)
@given(st.text(st.sampled_from("ab01:-[]{}&*!|>'\"%@`,?# \n\t<=~.\\e\u2028\x85"), max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert all(isinstance(name, str) for name in values(text))
    except ConfigError as error:
        assert len(error.problems) == 1  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('a: 1\nb: "x\nc: 2\n', 2, "expected YAML, found a quote that does not end"),
        ("a: 'it''s\nb: 1", 1, "expected YAML, found a quote that does not end"),
        ('a: [1, "x\n, 2]\nb: 3\n', 1, "expected YAML, found a quote that does not end"),
        ("a: [1, 2\nb: 3\n", 2, "expected YAML, found no ',' or ']', in a list that begins in line 1"),
        ("x: 1\na: {b: 1\nc: 3\n", 3, "expected YAML, found no ',' or '}', in a mapping that begins in line 2"),
        (
            "a: b: c",
            1,
            "expected YAML, found mapping values are not allowed in this context; text with a colon and a space in it"
            " needs quotes",
        ),
        ('a: "\\q"', 1, "expected YAML, found unknown escape character"),
    ],
)
def test_where_something_begins_that_does_not_end(text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "x.yaml")
    assert str(caught.value) == f"x.yaml:{line}: {said}"
    assert "found found" not in str(caught.value)


def test_what_a_value_inside_is_on_the_line_of_is_known() -> None:
    source = read_yaml("a: [1, [2,\n 3], 4]\nb: {c: 1,\n d: {e: 2, f:\n 3}}\na: [5]\n", "x.yaml")
    at = {place: source.line(place) for place in [("b",), ("b", "c"), ("b", "d"), ("b", "d", "e"), ("b", "d", "f")]}
    assert at == {("b",): 3, ("b", "c"): 3, ("b", "d"): 4, ("b", "d", "e"): 4, ("b", "d", "f"): 4}
    assert source.line(("a",)) == source.line(("a", 0)) == 6


@pytest.mark.parametrize("text", ["limits: [" + "[]," * 1_398_000 + "]", "limits: [" + "1," * 2_000_001 + "]"])
def test_too_many_values_are_refused_before_they_are_made(text: str) -> None:
    assert len(text) <= MOST_BYTES
    began = time.thread_time()
    with pytest.raises(ConfigError, match="expected fewer values, found too many"):
        read_yaml(text, "x.yaml")
    assert time.thread_time() - began < 2
