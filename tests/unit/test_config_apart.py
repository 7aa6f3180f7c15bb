"""Reading a configuration in another process gives what reading it here gives."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.config import apart
from policyd_rate_limit.config.samples import conf_sample, yaml_sample
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.errors import ConfigError
from support.configuration import problems

TEXTS = [
    ("x.yaml", yaml_sample()),
    ("x.conf", conf_sample()),
    ("x.yaml", "limits_by_id: {a: [[1, 60]], b: [], 'ü\\n': 5/1h}\nlimts: 3\nreport: true\nnotify_to: []\n"),
    ("x.yaml", "mysql_config: {since: 2001-01-01, raw: !!binary aGk=, ssl: {ca: /x}}\nlimits: [[1, 2]]\n"),
    ("x.conf", "limits_by_id = {'a': []}\nmysql_config = {'a': b'\\xff', 'b': 1 << 70}\n"),
    ("x.conf", "limits_by_id = {" + "".join(f"'u{i}': [[{i}, 60]], " for i in range(1, 1203)) + "}\n"),
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_it_is_what_is_read_here(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    here, there = config.load(path), config.load_apart(path)
    assert there == here
    assert there.settings.broken == here.settings.broken
    for name in SETTINGS:
        assert type(getattr(there.settings, name)) is type(getattr(here.settings, name))
    assert all(type(limit) is type(here.settings.limits[0]) for limit in there.settings.limits)


def test_equal_limits_are_kept_once(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("limits_by_id: {a: [[1, 60]], b: 1/1m}\n")
    by_id = config.load_apart(tmp_path / "x.yaml").settings.limits_by_id
    assert by_id["a"] is by_id["b"]


def test_without_a_path_the_file_that_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config").mkdir()
    path = tmp_path / ".config" / "policyd-rate-limit.yaml"
    path.write_text("ipv6_prefix: 77\n")
    settings, _ = config.load_apart(None)
    assert (settings.config_file, settings.ipv6_prefix) == (str(path), 77)


@pytest.mark.parametrize("text", ["limits: 3\nSOCKET: 5\nlimts: 1\n", "a: [", "\0"])
def test_problems_are_those_that_are_found_here(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    there, here = (problems(load, tmp_path / "x.yaml") for load in (config.load_apart, config.load))
    assert [str(problem) for problem in there] == [str(problem) for problem in here]
    with pytest.raises(ConfigError) as caught:
        config.load_apart(tmp_path / "x.yaml")
    assert [one for one in caught.value.warnings if "limts" in one] == list(caught.value.warnings)


@pytest.mark.parametrize("executable", ["", "/no/such/python"])
def test_where_no_process_can_be_started_it_is_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    (tmp_path / "x.yaml").write_text("ipv6_prefix: 77\n")
    assert config.load_apart(tmp_path / "x.yaml").settings.ipv6_prefix == 77


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.kill(os.getpid(), 9)",
        "print('no JSON')",
        "print(3)",
        "print('[1, 2, 3, 4, 5, 6]')",
        "print('[null, [], {}, {}, 7]')",
        "raise SystemExit(3)",
    ],
)
def test_a_process_that_dies_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(apart, "_PROGRAM", program)
    (problem,) = problems(config.load_apart, tmp_path / "x.yaml")
    assert problem.file == str(tmp_path / "x.yaml")
    assert "process" in problem.found


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_PROGRAM", "import time; time.sleep(600)")
    monkeypatch.setattr(apart, "READ_SECONDS", 0.2)
    (problem,) = problems(config.load_apart, tmp_path / "x.yaml")
    assert problem.found == "a process that ended with status -9"


def test_too_much_memory_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = "import resource; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)); "
    monkeypatch.setattr(apart, "_PROGRAM", little + apart._PROGRAM)
    (tmp_path / "x.conf").write_text("limits_by_id = {" + "".join(f"'{i}': [[1,60]]," for i in range(150_000)) + "}")
    assert problems(config.load_apart, tmp_path / "x.conf")


def test_others_run_while_it_comes(tmp_path: Path) -> None:
    """Slices of what comes are short: a thread that wants to run now and then does."""
    path = tmp_path / "x.yaml"
    path.write_text("limits_by_id:\n" + "".join(f"  user{i}: [[{i}, 60]]\n" for i in range(1, 20_000)))
    done = threading.Event()
    turns = 0

    def turn() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=turn)
    thread.start()
    settings, _ = config.load_apart(path)
    done.set()
    thread.join()
    assert len(settings.limits_by_id) == 19_999
    assert turns > 100
