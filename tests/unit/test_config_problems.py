"""What is told of configurations: every problem at once, and warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.config import source
from policyd_rate_limit.errors import ConfigError
from support.configuration import USUAL, Load, problems


def test_every_problem_at_once_in_the_order_of_the_file(load: Load, tmp_path: Path) -> None:
    text = """\
report: yes
delay_to_close: soon
limits:
    - [10, 60]
    - [ten, 60]
limits_by_id:
    alice: [[1, 60]]
    bob: [[1, 60], [2]]
    carol: 3
    192.0.2.0/24: [[1]]
limited_networks:
    - 192.0.2.0/24
    - nonsense
    - 3
SOCKET: [localhost, 25]
ipv6_prefix: 7.5
smtp_server: [localhost, mail]
"""
    file = str(tmp_path / "x.yaml")
    found = problems(load, text)
    assert [(problem.file, problem.line, problem.setting) for problem in found] == [
        (file, 2, "delay_to_close"),
        (file, 5, "limits[1]"),
        (file, 8, "limits_by_id.bob[1]"),
        (file, 9, "limits_by_id.carol"),
        (file, 10, "limits_by_id.192.0.2.0/24[0]"),
        (file, 13, "limited_networks[1]"),
        (file, 14, "limited_networks[2]"),
        (file, 15, "SOCKET[0]"),
        (file, 16, "ipv6_prefix"),
    ]
    assert str(found[0]) == (
        f"{file}:2: delay_to_close: expected a number of seconds above 0 and up to 31536000, found 'soon'"
    )
    assert str(found[1]) == (
        f"{file}:5: limits[1]: expected a whole number of mails from 0 to 9007199254740991 in [mails, seconds],"
        " such as [10, 60], [10, '1m'] or '10/1m', found ['ten', 60]"
    )
    assert [problem.found for problem in found][-2:] == ["'localhost'", "7.5"]
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert [warning.partition(f"{file}:")[2].partition(":")[0] for warning in caught.value.warnings] == ["17"]


def test_lines_of_a_conf(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        "minute = 60\nlimits = [\n  (10, minute),\n  (1, 'x'),\n]\nlimits_by_id = {\n 'a': [],\n 1: 2,\n False: []}\n"
    )
    assert [(problem.line, problem.setting) for problem in problems(config.load, path)] == [
        (4, "limits[1]"),
        (8, "limits_by_id[1]"),
    ]


@pytest.mark.parametrize("text", ["", "report_from: a@b\n"])
def test_a_sender_is_not_needed(load: Load, text: str) -> None:
    settings, warnings = load(f"{text}notify_to: [x@y, Name <z@y>]\nreport: true\nreport_to: x@y\n")
    assert settings.notify_to == ("x@y", "Name <z@y>")
    assert (warnings, settings.broken) == ((), {})


def test_a_mistake_is_told_once(load: Load, tmp_path: Path) -> None:
    settings, (warning,) = load("notify_to: [x@y, Name <z@y>]\nreport_from: a b\n")
    (broken,) = settings.broken.items()
    assert broken[0] == "report_from"
    assert broken[1].startswith(f"{tmp_path}/x.yaml:2: report_from: expected a mail address")
    assert warning == f"{broken[1]}; only what needs it fails"


@pytest.mark.parametrize("text", ["report: true\n", "report_to:\nreport: true\n", "report: true\nreport_to: []\n"])
def test_a_report_to_nobody_is_a_warning(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert len(warnings) == 1
    assert "report_to" in warnings[0]
    assert set(settings.broken) == {"report_to"}
    assert settings.report is True


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("limts", "; did you mean limits?"),
        ("socket", "; did you mean SOCKET?"),
        ("limited_network", "; did you mean limited_networks?"),
        ("Sqlite_Config", "; did you mean sqlite_config?"),
        ("zzzzzz", ""),
        ("x" * 1000, ""),
    ],
)
def test_an_unknown_setting_is_a_warning(load: Load, tmp_path: Path, name: str, hint: str) -> None:
    settings, (warning,) = load(f"debug: true\n{name}: hunter2\n")
    assert settings.limits == USUAL
    assert warning.startswith(f"{tmp_path}/x.yaml:2: unknown setting ")
    assert warning.endswith(hint or "zzz" * (name[0] == "z") or "…")
    assert "hunter2" not in warning
    assert len(warning) < 300


def test_many_unknown_settings_take_no_time(load: Load) -> None:
    assert len(load("".join(f"limits{number}: 1\n" for number in range(20_000))).warnings) == source.MOST_WARNINGS + 1


def test_a_name_that_others_are_made_from_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        "from policyd_rate_limit.const import *\n".replace("*", "SQLITE_DB") + "hour = 3600\nday = 24 * hour\n"
    )
    (warning,) = config.load(path).warnings
    assert warning.startswith(f"{path}:3: unknown setting day")


def test_the_old_name_works_and_warns(load: Load, tmp_path: Path) -> None:
    settings, (warning,) = load("limited_netword: [192.0.2.0/24]\n")
    assert settings.limited_networks == ("192.0.2.0/24",)
    assert warning == f"{tmp_path}/x.yaml:1: limited_netword is the old name of limited_networks"
    settings, (warning,) = load("limited_netword: [x]\nlimited_networks: [192.0.2.0/25]\n")
    assert settings.limited_networks == ("192.0.2.0/25",)
    assert warning.startswith(f"{tmp_path}/x.yaml:1: limited_netword is the old name of limited_networks, which")
    (problem,) = problems(load, "limited_netword: [x]\n")
    assert problem.setting == "limited_netword[0]"


def test_config_file_is_the_file(load: Load, tmp_path: Path) -> None:
    settings, (warning,) = load("debug: true\nconfig_file: /x\n")
    assert settings.config_file == f"{tmp_path}/x.yaml"
    assert warning.startswith(f"{tmp_path}/x.yaml:2: config_file ")


def test_ids_that_are_one_are_warned_of(load: Load, tmp_path: Path) -> None:
    text = "limits_by_id:\n  Alice: []\n  alice: [[1, 2]]\n  bob: []\n  2001:DB8::1: []\n  2001:db8:0::1: []\n"
    assert load(text).warnings[:2] == (
        f"{tmp_path}/x.yaml:3: 'alice' and 'Alice' in limits_by_id are one id; the last one counts",
        f"{tmp_path}/x.yaml:6: '2001:db8:0::1' and '2001:DB8::1' in limits_by_id are one id; the last one counts",
    )


def test_a_message_is_one_line_whatever_an_id_holds(load: Load) -> None:
    text = 'limits_by_id: {"a\\nb": 3, "' + "x" * 1000 + '": 3}\n'
    for problem in problems(load, text):
        assert "\n" not in str(problem)
        assert len(str(problem)) < 500
