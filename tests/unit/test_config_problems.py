"""What is told of configurations: every problem at once, and warnings."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings, source
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
    192.0.2.1/24: []
limited_networks:
    - 192.0.2.0/24
    - nonsense
    - 3
SOCKET: [localhost, 25]
count_mode: 7
smtp_server: [localhost, mail]
"""
    file = str(tmp_path / "x.yaml")
    found = problems(load, text)
    assert [(problem.file, problem.line, problem.setting) for problem in found] == [
        (file, 1, "report_from"),
        (file, 1, "report_to"),
        (file, 2, "delay_to_close"),
        (file, 5, "limits[1]"),
        (file, 8, "limits_by_id.bob[1]"),
        (file, 9, "limits_by_id.carol"),
        (file, 10, "limits_by_id.192.0.2.1/24"),
        (file, 13, "limited_networks[1]"),
        (file, 14, "limited_networks[2]"),
        (file, 15, "SOCKET[0]"),
        (file, 16, "count_mode"),
        (file, 17, "smtp_server[1]"),
    ]
    assert str(found[2]) == (
        f"{file}:2: delay_to_close: expected a number of seconds above 0 and up to 31536000, found 'soon'"
    )
    assert str(found[3]) == (
        f"{file}:5: limits[1]: expected a whole number of mails from 0 to 9007199254740991 in [mails, seconds],"
        " such as [10, 60], [10, '1m'] or '10/1m', found ['ten', 60]"
    )
    assert [problem.found for problem in found][-2:] == ["7", "'mail'"]


def test_lines_of_a_conf(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        "minute = 60\nlimits = [\n  (10, minute),\n  (1, 'x'),\n]\nlimits_by_id = {\n 'a': [],\n 1: 2,\n False: []}\n"
    )
    assert [(problem.line, problem.setting) for problem in problems(config.load, path)] == [
        (4, "limits[1]"),
        (8, "limits_by_id[1]"),
        (9, "limits_by_id[False]"),
    ]


def test_notices_by_mail_need_a_sender(load: Load) -> None:
    text = "notify_to: [x@y, Name <z@y>]\n"
    assert [problem.setting for problem in problems(load, text)] == ["notify_to"]
    assert load(f"{text}report_from: a@b\n").settings.notify_to == ("x@y", "Name <z@y>")
    # One mistake is told once.
    assert [problem.setting for problem in problems(load, f"{text}report_from: a b\n")] == ["report_from"]


def test_a_report_needs_its_addresses(load: Load) -> None:
    assert [problem.setting for problem in problems(load, "report: true\nreport_to: x@y\n")] == ["report_from"]
    assert [problem.line for problem in problems(load, "report_from: x@y\nreport_to:\nreport: true\n")] == [2]
    assert load("report: true\nreport_from: a@b\nreport_to: [c@d]\n").settings.report is True
    with pytest.raises(pydantic.ValidationError):
        Settings(report=True)


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
    assert load(text).warnings == (
        f"{tmp_path}/x.yaml:3: 'alice' and 'Alice' in limits_by_id are one id; the last one counts",
        f"{tmp_path}/x.yaml:6: '2001:db8:0::1' and '2001:DB8::1' in limits_by_id are one id; the last one counts",
    )


def test_a_message_is_one_line_whatever_an_id_holds(load: Load) -> None:
    text = 'limits_by_id: {"a\\nb": 3, "' + "x" * 1000 + '": 3}\n'
    for problem in problems(load, text):
        assert "\n" not in str(problem)
        assert len(str(problem)) < 500
