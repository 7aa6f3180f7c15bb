"""The reader of ``.conf``: what it understands, and that it never runs anything."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.config.conf_file import read_conf
from policyd_rate_limit.config.source import MOST_BYTES, Source
from policyd_rate_limit.errors import ConfigError


def read(text: str) -> Source:
    return read_conf(text, "x.conf")


def values(text: str) -> dict[str, object]:
    return read(text).values


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert all(problem.file == "x.conf" for problem in caught.value.problems)
    return [(problem.line, problem.expected, problem.found) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        ("True", True),
        ("-3", -3),
        ("1.5", 1.5),
        ("0o666", 0o666),
        ("'a' \"b\"", "ab"),
        ("b'a'", b"a"),
        ("[1, (2, 'x'), {}]", [1, (2, "x"), {}]),
        ("{'a': [1], 2: (3,)}", {"a": [1], 2: (3,)}),
        ("{1, 2}", (1, 2)),
        ("24 * 60 * 60", 86400),
        ("2 ** 10 - 1", 1023),
        ("7 // 2 + 7 % 2 + 1 / 2", 4.5),
        ("0o600 | 0o060 & ~0o020 ^ 1 << 2 >> 1", 0o600 | 0o060 & ~0o020 ^ 1 << 2 >> 1),
        ("+(1)", 1),
        ("'/var' + '/x'", "/var/x"),
        ("[1] + [2, 3]", [1, 2, 3]),
        ("(1,) + (2,)", (1, 2)),
        ("True + 1", 2),
    ],
)
def test_expressions_have_the_values_of_python(text: str, value: object) -> None:
    found = values(f"x = {text}")["x"]
    assert found == value
    assert type(found) is type(value)


def test_a_file_as_administrators_have_it() -> None:
    source = read(
        '''# -*- coding: utf-8 -*-
"""The limits of example.org."""
from policyd_rate_limit.const import SQLITE_DB, MYSQL_DB as mysql, PGSQL_DB

minute = 60
hour = 60 * minute
usual = limits = [(10, minute), (150, 24 * hour)]
limits_by_id = {
    "alice": usual + [(1000, 7 * 24 * hour)],
    "bob": [],
}
limits = limits + [[1000, 999999]]
backend = mysql
'''
    )
    assert source.values["limits"] == [(10, 60), (150, 86400), [1000, 999999]]
    assert source.values["limits_by_id"] == {"alice": [(10, 60), (150, 86400), (1000, 604800)], "bob": []}
    assert source.values["backend"] == 1
    assert {"minute", "hour", "usual"} <= source.helpers
    assert source.line(("limits_by_id",)) == 8
    assert source.line(("limits_by_id", "alice")) == 9
    assert source.line(("limits_by_id", "alice", 2)) == 9
    assert source.line(("limits_by_id", "bob", 0, "deep")) == 10
    assert source.line(("limits",)) == 12
    assert source.line(("none",)) == source.line(()) == source.line(([],)) == 0
    assert source.warnings == ()


def test_a_key_twice_is_warned_of() -> None:
    source = read("x = {'secret': 1,\n 'secret': 2}")
    assert source.values == {"x": {"secret": 2}}
    assert source.warnings == ("x.conf:2: a key that is given before; this one counts",)


REFUSED = [
    "import os\nx = os",
    "import os\nx = os.environ",
    "import os, sys as system\nx = system",
    "from os import path\nx = path",
    "from os import *\nx = environ",
    "import policyd_rate_limit.const\nx = policyd_rate_limit.const.SQLITE_DB",
    "from policyd_rate_limit import const\nx = const.__builtins__",
    "from policyd_rate_limit import const\nx = const",
    "from policyd_rate_limit.const import __builtins__",
    "from policyd_rate_limit.const.x import SQLITE_DB\nx = SQLITE_DB",
    "{canary}",
    "x = {canary}",
    "x = [{canary}]",
    "x = {{'a': {canary}}}",
    "x = {{{canary}: 1}}",
    "x = 1 + {canary}",
    "x = [0 for i in [{canary}]]",
    "x = {{0 for i in [{canary}]}}",
    "x = {{0: 0 for i in [{canary}]}}",
    "x = (0 for i in [{canary}])",
    "x = lambda: {canary}",
    "x = (lambda: {canary})()",
    "x = (y := {canary})",
    'x = f"{{{canary}}}"',
    'x = f"{{1!r:{{{canary}}}}}"',
    "x = 'a' 'b' f'{{{canary}}}'",
    "x = [*{canary}]",
    "x = {{**{canary}}}",
    "x = [1][{canary}]",
    "x = [1, 2][0]",
    "x = [1, 2][::{canary}]",
    "x[{canary}] = 1",
    "x = y = z.a = {canary}",
    "x.a = 1",
    "(x, y) = (1, 2)",
    "[x] = [1]",
    "*x, y = [1, 2]",
    "x: {canary} = 1",
    "x: int = 1",
    "x += 1",
    "del x",
    "pass",
    "assert {canary}",
    "raise SystemExit({canary})",
    "global x",
    "if {canary}: x = 1",
    "while {canary}: x = 1",
    "for x in {canary}: y = 1",
    "with {canary} as x: y = 1",
    "try:\n    x = 1\nfinally:\n    {canary}",
    "match {canary}:\n    case x: pass",
    "def x(y={canary}): pass",
    "@{canary}\ndef x(): pass",
    "@(lambda f: {canary})\nclass x: pass",
    "async def x(): await {canary}",
    "class x(metaclass={canary}): pass",
    "class x:\n    {canary}",
    "x = 1 if {canary} else 2",
    "x = {canary} or 1",
    "x = 1 < {canary}",
    "x = not {canary}",
    "x = 'a'.__class__.__mro__[1].__subclasses__()",
    "x = ().__class__",
    "x = __builtins__",
    "x = __import__",
    "x = print",
    "x = __name__",
    "x = ...",
    "x = 1j",
    "x = 'a' * 3",
    "x = 3 * [1]",
    "x = '%s' % 1",
    "x = '%1000000000d' % 1",
    "x = b'a' + b'b'",
    "x = [1] + (2,)",
    "x = {{}} | {{}}",
    "x = -'a'",
    "x = ~1.5",
    "x = 1.5 << 1",
    "x = 1 << -1",
    "x = 1 / 0",
    "x = 1 % 0",
    "x = 0 ** -1",
    "x = (-1) ** 0.5",
    "x = 10.0 ** 128 * 10.0 ** 128",
    "x = {{[]: 3}}",
    "x = unknown",
    "x = x",
]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An expression that leaves a trace when anything of it runs; afterwards there must be none."""
    trace = tmp_path / "trace"
    calls: list[object] = []
    monkeypatch.setattr(builtins, "canary", lambda *_: calls.append(1), raising=False)
    monkeypatch.setattr(os, "system", calls.append)
    yield f"canary(open({str(trace)!r}, 'w'), __import__('os').system('touch {trace}'))"
    assert not calls
    assert not trace.exists()


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused_and_not_run(text: str, canary: str) -> None:
    text = text.format(canary=canary) if "canary" in text else text.replace("{{", "{").replace("}}", "}")
    assert len(problems(f"a = 1\n{text}\nb = 2")) == 1
    assert problems(f"a = 1\n{text}\nb = 2")[0][0] >= 2


@pytest.mark.parametrize(
    "text",
    [
        "x = {canary",
        "x = canary(]",
        'x = f"{canary()" ',
        "\tx = 1",
        "x = 08",
        "x = 'abc",
        "exec 'canary()'",
        "x = '\\N{nothing}'",
        "x = 0x" + "1" * 5000,
        "x = " + "1" * 5000,
        "x = " + "(" * 1000 + ")" * 1000,
        "x = " + "[" * 60 + "]" * 60,
        "x = " + "-" * 100_000 + "1",
        "x = " + "1+" * 100_000 + "1",
        "x" + ".x" * 100_000,
        "x = 9 ** 9 ** 9",
        "x = 2 ** 129",
        "x = 2.0 ** 1e300",
        "x = 1 << 10 ** 9",
        "x = 10 ** 30 * 10 ** 30 * 10 ** 30",
        "x = 10 ** 128 + 1",
        "a = [1]\n" + "a = [a, a]\n" * 60,
        "a = [1]\n" + "a = {'x': a, 'y': a}\n" * 60,
        "a = 'xxxxxxxxxxxxxxxxxxxxxxxx'\n" + "a = a + a\n" * 60,
        "a = (1,)\n" + "a = a + a\n" * 60,
        "a = 'x'\nb = [" + "a, " * 100 + "]\n" + "b = b + b\n" * 60,
    ],
)
def test_nothing_takes_long_or_fills_memory(text: str, canary: str) -> None:
    began = time.thread_time()  # of the processor, which others may be using as well
    assert len(problems(text)) == 1
    assert time.thread_time() - began < 20


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "import os.path, sys as system",
        "from os import system",
        "from os import *",
        "from .policyd_rate_limit.const import SQLITE_DB",
        "from __future__ import annotations",
        "import policyd_rate_limit.const",
    ],
)
def test_an_import_that_nothing_uses_is_left_out(text: str) -> None:
    source = read(f"x = 1\n{text}\ny = 2\n")
    assert source.values == {"x": 1, "y": 2}
    assert source.warnings == ("x.conf:2: an import is not run: it is left out",)


def test_a_name_that_is_imported_and_assigned_is_what_was_assigned() -> None:
    assert values("import os\nos = 3\nx = os") == {"os": 3, "x": 3}
    [(line, _, found)] = problems("import os as x\na = 1\nb = x\nc = b")
    assert (line, found) == (3, "a name that is imported: imports are not run")


@pytest.mark.parametrize(
    "text",
    [
        "from policyd_rate_limit.const import *\nbackend = PGSQL_DB",
        "from policyd_rate_limit import const\nbackend = const.PGSQL_DB",
        "from policyd_rate_limit import const as c\nbackend = c.PGSQL_DB",
    ],
)
def test_the_names_of_the_databases_come_in_any_way(text: str) -> None:
    source = read(text)
    assert source.values == {"backend": 2}
    assert source.warnings == ()


def test_every_problem_is_told_and_none_twice() -> None:
    found = problems("a = unknown\nb = 1\nint(2)\nc = [a, a]\nd: int = c\ne = d\nf = b.x\nb = 2\na = 3\ng = a")
    assert [line for line, _, _ in found] == [1, 3, 5, 7]
    assert [what for _, _, what in found] == [
        "a name that is not assigned before",
        "a call",
        "an annotation",
        "an attribute",
    ]


def test_where_a_problem_is() -> None:
    assert problems("x = [\n  1,\n  [2,\n   int()],\n]") == [
        (4, "an assignment of literals, of arithmetic on them and of names assigned before", "a call")
    ]
    assert problems("a = 1\nx = [1,\n'")[0][:2] == (3, "Python syntax")


SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "passwd = hunter2",
        "passwd = 'hunter2",
        "passwd = hunter2'",
        'passwd = "hunter2"hunter2"',
        "passwd = hunter2 hunter2",
        "passwd = {'passwd': hunter2}",
        "passwd = {'hunter2': hunter2()}",
        "passwd = hunter2.hunter2['hunter2']",
        "passwd = f'{hunter2}'",
        "passwd = 'hunter2' % 'hunter2'",
        "passwd = hunter2 = ",
        "passwd = hunter2('hunter2', hunter2=1, hunter2=2)",
        "passwd = 'hunter2' hunter2=1",
        "hunter2(",
        "import hunter2\nx = hunter2",
        "from policyd_rate_limit.const import hunter2",
        "passwd = 1hunter2",
        "passwd = 0xhunter2",
        "passwd = $hunter2",
        "passwd = {'passwd': 'hunter2', 'passwd': 'hunter2', x: 1}",
        "hunter2 = 1 = 2",
        "hunter2() = 1",
        "print hunter2",
        "f'{hunter2!x}'",
        "f'{hunter2 hunter2}'",
        "lambda hunter2, hunter2: 1",
        "def hunter2(hunter2, hunter2): pass",
        "hunter2: hunter2 = 1",
        "  hunter2",
    ],
)
def test_a_problem_never_shows_what_could_be_a_password(text: str) -> None:
    assert SECRET not in str(problems(text))


def test_python_warns_nobody_of_backslashes() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert values(r"x = '\d'") == {"x": r"\d"}
    assert not caught


literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: abs(number) < 2.0**100)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(literals)
def test_a_literal_has_its_own_value(value: object) -> None:
    assert values(f"x = {value!r}")["x"] == value


numbers = st.recursive(
    st.integers(0, 50).map(str),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "//", "%", "|", "&", "^"]), inner)
        | st.builds("(-{})".format, inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(numbers)
def test_arithmetic_is_that_of_python(expression: str) -> None:
    try:
        expected = eval(expression, {"__builtins__": {}})
    except ZeroDivisionError:
        assert problems(f"x = {expression}")
    else:
        assert values(f"x = {expression}")["x"] == expected


pieces = st.sampled_from(
    """x y canary __import__ os open eval exec ( ) [ ] { } : , . = := + - * ** / % @ -> ' " f' f" 1 9 1e9 'a' \\ ! ; #
    lambda for in if else while def class import from as with try return yield await not and or is del global
    policyd_rate_limit.const SQLITE_DB getattr __builtins__ __class__""".replace("\n", " \n ").split(" ")
)


@settings(deadline=None)
@given(st.lists(pieces, max_size=30).map(" ".join) | st.text(max_size=60))
def test_any_text_is_read_or_refused_and_never_run(text: str) -> None:
    calls: list[object] = []
    builtins.canary = lambda *given: calls.append(given)  # type: ignore[attr-defined]  # what the text may call
    before = set(sys.modules)
    try:
        read(text)
    except ConfigError:
        pass
    finally:
        del builtins.canary  # type: ignore[attr-defined]  # as above
    assert not calls
    assert set(sys.modules) == before


def test_no_event_of_running_code_happens() -> None:
    """Python's own audit hooks see each import, compilation and opened file of a fresh interpreter."""
    script = """
import sys
import time
from policyd_rate_limit.config.conf_file import read_conf
from policyd_rate_limit.errors import ConfigError
events = []
sys.addaudithook(lambda name, arguments: events.append((name, arguments[0] if name == "open" else "")))
for text in sys.argv[1:]:
    try:
        read_conf(text, "x.conf")
    except ConfigError:
        pass
# Text becomes a syntax tree by compile(), which for a message opens the file that it is told.
wrong = set(events) - {("compile", ""), ("open", "/dev/null")}
assert not wrong, wrong
"""
    texts = [text.replace("{canary}", "open('canary', 'w')").replace("{{", "{").replace("}}", "}") for text in REFUSED]
    subprocess.run([sys.executable, "-c", script, *texts], check=True, timeout=60)


@pytest.mark.parametrize(
    "text",
    [
        "limits=[" + "[]," * 1_398_000 + "]",
        "x=1" + "+1" * 2_000_000,
        "a=1\n" * 1_000_000,
        "x=[" + "'a'," * 900_000 + "]",
    ],
)
def test_too_many_values_are_refused_before_they_are_made(text: str) -> None:
    assert len(text) <= MOST_BYTES
    began = time.thread_time()
    [(_, expected, found)] = problems(text)
    assert (expected, found) == ("fewer than 750000 values", "more")
    assert time.thread_time() - began < 5


def test_what_is_in_text_is_no_value() -> None:
    text = "# " + "[," * 900_000 + "\nx = '" + "[1," * 300_000 + "'\ny = '''" + "\n[" * 300_000 + "'''\n"
    assert len(str(values(text)["x"])) == 900_000
