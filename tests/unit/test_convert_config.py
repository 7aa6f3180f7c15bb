"""``convert-config``: the same settings from ``.yaml`` as from ``.conf``, and every comment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit import config
from policyd_rate_limit.cli import main
from policyd_rate_limit.config import samples, schema
from policyd_rate_limit.config.checking import check
from policyd_rate_limit.config.conf_file import read_conf
from policyd_rate_limit.config.converting import convert
from policyd_rate_limit.config.yaml_file import read_yaml
from policyd_rate_limit.errors import ConfigError
from support.examples import examples


def yaml_of(text: str) -> str:
    """``text`` of a ``.conf`` as YAML, without notes."""
    conversion = convert(text, "x.conf")
    assert conversion.notes == ()
    return conversion.text


def status(*arguments: object) -> int:
    """The exit status of the command."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


OLD = '''\
# -*- mode: python -*-
"""The limits of mx1.

Ask before you change them."""
from policyd_rate_limit.const import SQLITE_DB  # and others
HOUR = 3600  # seconds

debug = False  # quiet
SOCKET = ("127.0.0.1", 8552)
backend = SQLITE_DB
socket_permission = 0o660
limited_netword = ["192.0.2.0/24"]  # the cluster
limits = [[1, 2]]
limits = [  # everybody
    [10, 60],
    # a day
    [150, 24 * HOUR],
]  # that is all
limits_by_id = {  # by name
    # the newsletter
    "news": [[5000, HOUR]],  # until May

    "no": [],
    "0123": [
        [1, 60],  # a machine
    ],
    # "retired": [],
}
limit_by_ip = True; count_mode = 1  # both
sql_limits_by_id = """SELECT limits -- of the
  FROM rate_limits
 WHERE id = ?"""

# The end.'''

NEW = """\
# -*- mode: python -*-
# The limits of mx1.
#
# Ask before you change them.
# and others
# seconds

debug: false  # quiet
SOCKET: [127.0.0.1, 8552]
backend: 0
socket_permission: 0660
limited_networks: [192.0.2.0/24]  # the cluster
# everybody
# a day
limits: [[10, 60], [150, 86400]]  # that is all
limits_by_id:  # by name
  # the newsletter
  news: [[5000, 3600]]  # until May

  'no': []
  # a machine
  '0123': [[1, 60]]
  # "retired": [],
limit_by_ip: true
count_mode: 1  # both
sql_limits_by_id: |-
  SELECT limits -- of the
    FROM rate_limits
   WHERE id = ?

# The end.
"""


def test_an_old_file() -> None:
    conversion = convert(OLD, "old.conf")
    assert conversion.text == NEW
    assert conversion.notes == (
        "old.conf:6: HOUR is no setting; its value stands where it was used",
        "old.conf:12: limited_netword is now spelled limited_networks",
        "old.conf:13: limits is given again further down, and stands only there",
    )
    assert not conversion.secret


def test_lines_may_end_as_on_any_system() -> None:
    assert convert(OLD.replace("\n", "\r\n"), "old.conf").text == NEW


def test_the_sample_file_keeps_all_its_comments() -> None:
    def comments(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("#")]

    text = samples.conf_sample()
    assert comments(yaml_of(text)) == comments(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "\n"),
        ("# nothing", "# nothing\n"),
        ("debug = report = False  # both", "debug: false  # both\nreport: false\n"),
        ("user = 'no'; group = '0123'", "user: 'no'\ngroup: '0123'\n"),
        ("db_error_action = None", "db_error_action: null\n"),
        ("fail_action = 450", "fail_action: 450\n"),
        ("report_subject = 'a: b # c'", "report_subject: 'a: b # c'\n"),
        ("mysql_config = {'passwd': '*'} # c", "mysql_config:  # c\n  passwd: '*'\n"),
        ("mysql_config = {  # a\n'db': 'x',\n}  # b", "mysql_config:  # a\n  db: x\n  # b\n"),
        ("debug = (  # a\n  True  # b\n  # c\n)", "# a\n# b\n# c\ndebug: true\n"),
        ("debug = True; limits = [ # a\n [1, 2]]", "debug: true\n# a\nlimits: [[1, 2]]\n"),
        ("debug = True  # a\x0cb\u2028c\u0085d\ufeffe", "debug: true  # a�b�c�d�e\n"),
        ("debug = \\\n  True  # c", "debug: true  # c\n"),
    ],
)
def test_what_becomes_of(text: str, expected: str) -> None:
    assert yaml_of(text) == expected


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("config_file = '/x'", "is left out"),
        ("limited_netword = ['192.0.2.0/24']\nlimited_networks = []", "is left out"),
    ],
)
def test_what_is_left_out(text: str, note: str) -> None:
    conversion = convert(text, "x.conf")
    assert len(conversion.notes) == 1
    assert note in conversion.notes[0]
    assert conversion.text in ("\n", "limited_networks: []\n")


def test_a_slip_in_a_name_stays_one() -> None:
    assert yaml_of("limit_by_sasll = True") == "limit_by_sasll: true\n"


@pytest.mark.parametrize("text", ["limits = 7", "int(1)", "debug = ["])
def test_a_wrong_file_is_told_as_ever(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(text, "x.conf")
    assert caught.value.problems[0].line == 1


@pytest.mark.parametrize(
    "text", ["pgsql_config = {'password': '\\ud800'}", "sqlite_config = {'database': 'x', 'y': {1: 2}}"]
)
def test_what_yaml_cannot_hold_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(text, "x.conf")
    assert "what YAML can hold" in str(caught.value)
    assert "ud800" not in str(caught.value)


# Any settings, written in any way

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LINE = st.from_regex(r"[ -~é#:'\"\t]{0,15}[!-~é]", fullmatch=True)
LIMITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**6)), max_size=4, unique_by=lambda pair: pair[1])
OPTIONS = st.dictionaries(
    TEXT, st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.lists(TEXT, max_size=2)), max_size=3
)
NETWORKS = st.lists(st.sampled_from(["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"]), max_size=3)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "debug": st.booleans(),
        "user": LINE,
        "backend": st.sampled_from([0, 1, "redis"]),
        "sqlite_config": OPTIONS.map(lambda options: {**options, "database": "/x"}),
        "mysql_config": OPTIONS,
        "db_timeout": st.floats(0.01, 60),
        "db_error_action": st.none() | st.just("dunno"),
        "SOCKET": st.sampled_from(["/x/y", ("127.0.0.1", 10), ["::1", 20]]),
        "socket_permission": st.integers(0, 0o7777),
        "limits": LIMITS,
        "limits_by_id": st.dictionaries(
            TEXT | st.sampled_from(["no", "~", "<<", "=", "0777", "1e3"]), LIMITS, max_size=4
        ),
        "sql_limits_by_id": TEXT.filter(lambda text: "\0" not in text)
        | st.sampled_from(["\n", " a\n\n b\n\n", "a\n #b"]),
        "limited_networks": NETWORKS,
        "limited_netword": NETWORKS,
        "count_mode": st.none() | st.integers(0, 2),
        "fail_action": LINE | st.just(450),
    },
)


@st.composite
def conf_files(draw: st.DrawFn) -> tuple[str, list[str]]:
    """The text of a ``.conf``, and its comments in the order of the file."""
    comments: list[str] = []

    def comment() -> str:
        if not draw(st.booleans()):
            return ""
        comments.append(f"# {len(comments)} " + draw(LINE))
        return "  " + comments[-1]

    def written(value: object) -> str:
        if isinstance(value, dict) and draw(st.booleans()):
            parts = [f"{key!r}: {written(item)}" for key, item in value.items()]
            return f"{{{comment()}\n" + "".join(f"{part},{comment()}\n" for part in parts) + "}"
        if isinstance(value, list) and draw(st.booleans()):
            return f"[{comment()}\n" + "".join(f"{written(part)},{comment()}\n" for part in value) + "]"
        return repr(value)

    text = ""
    for name, value in draw(SETTINGS).items():
        text += draw(st.sampled_from(["", "\n", "\n\n"])) + comment().lstrip() + f"\n{name} = {written(value)}"
        text += draw(st.sampled_from(["", ";"])) + comment() + "\n"
    return text, comments


@given(conf_files())
@settings(max_examples=examples(150))
def test_the_settings_are_equal_and_no_comment_is_lost(file: tuple[str, list[str]]) -> None:
    text, comments = file
    before = check(read_conf(text, "x.conf")).settings
    converted = convert(text, "x.conf").text
    after = check(read_yaml(converted, "x.conf")).settings
    for name in schema.SETTINGS:
        assert as_lists(getattr(after, name)) == as_lists(getattr(before, name))
    for comment in comments:
        assert len(re.findall(rf"^(?:|.* ) *{re.escape(comment)}$", converted, re.MULTILINE)) == 1


def as_lists(value: object) -> object:
    """What YAML makes of tuples."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


# The command


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A file with a secret, which its group may read."""
    path = tmp_path / "policyd-rate-limit.conf"
    path.write_text("pgsql_config = {'password': 'hunter2'}\nlimited_netword = ['192.0.2.0/24']\n")
    path.chmod(0o644)
    return path


def test_the_file_is_written_beside_the_old_one(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("convert-config", conf) == 0
    new = conf.with_suffix(".yaml")
    said = capsys.readouterr()
    assert said.out == f"{new} written\n"
    assert said.err == f"{conf}:2: limited_netword is now spelled limited_networks\n"
    assert new.stat().st_mode & 0o7777 == 0o640
    assert config.load(new).settings.limited_networks == ("192.0.2.0/24",)
    assert sorted(path.name for path in conf.parent.iterdir()) == [conf.name, new.name]


def test_a_file_without_secrets_is_as_open_as_the_old_one(conf: Path) -> None:
    conf.write_text("debug = True")
    for mode in (0o644, 0o640, 0o600):
        conf.chmod(mode)
        assert status("convert-config", conf, "--force") == 0
        assert conf.with_suffix(".yaml").stat().st_mode & 0o7777 == mode


def test_nothing_is_overwritten_without_force(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = conf.parent / "out.yaml"
    out.write_text("mine")
    assert status("convert-config", conf, "-o", out) == 6
    assert f"{out} exists; --force replaces it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert status("-f", conf, "convert-config", "-o", out, "--force") == 0
    assert out.read_text().startswith("pgsql_config:")
    assert sorted(path.name for path in conf.parent.iterdir()) == [out.name, conf.name]


def test_to_standard_output(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("convert-config", conf, "-o", "-") == 0
    assert capsys.readouterr().out == "pgsql_config:\n  password: hunter2\nlimited_networks: [192.0.2.0/24]\n"
    assert not conf.with_suffix(".yaml").exists()


def test_the_file_of_the_daemon_goes_on_being_read(
    conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(conf.parent))
    (conf.parent / ".config").mkdir()
    conf = conf.rename(conf.parent / ".config" / conf.name)
    assert status("convert-config") == 0
    assert f"the daemon goes on reading {conf} for as long as it is there\n" in capsys.readouterr().err
    assert status("--get-config", "config_file") == 0
    assert capsys.readouterr().out == str(conf)


@pytest.mark.parametrize("name", ["x.yaml", "missing.conf"])
def test_what_cannot_be_converted(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("debug: true")
    assert status("convert-config", tmp_path / name) == 5
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_import_is_left_out(tmp_path: Path) -> None:
    converted = convert("import os\nfrom policyd_rate_limit.const import *\nbackend = PGSQL_DB\n", "x.conf")
    assert converted.text == "backend: 2\n"
    assert converted.notes == ("x.conf:1: an import is left out",)
