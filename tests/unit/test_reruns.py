"""Which tests are run again when they fail: those that say what of the machine they depend on, and no others."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import support.reruns

CONFTEST = "from support.reruns import *\nfrom support.reruns import pytest_addoption, pytest_configure"
INI = "[pytest]\nmarkers = depends_on_machine(reason): x\n"
# Fails the first time.
FLAKY = """
import pathlib
import pytest

{marker}
def test_flaky(request):
    before = pathlib.Path("before")
    if not before.exists():
        before.touch()
        raise AssertionError
"""
PLUGINS = ("-p", "xdist.plugin", "-p", "pytest_rerunfailures")  # the second imports the first
MARKED = '@pytest.mark.depends_on_machine(reason="an election may take long")'


def run(directory: pathlib.Path, marker: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "pytest.ini").write_text(INI)
    (directory / "test_it.py").write_text(FLAKY.format(marker=marker))
    support_directory = str(pathlib.Path(support.reruns.__file__).parent.parent)
    command = [sys.executable, "-m", "pytest", *PLUGINS, "--strict-markers", "-o", f"pythonpath={support_directory}"]
    # To load all other plugins would take most of the time.
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *options], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("parallel", [[], ["-n1"]], ids=["here", "in another process"])
def test_a_marked_test_is_run_again_and_listed_with_its_reason(tmp_path: pathlib.Path, parallel: list[str]) -> None:
    done = run(tmp_path, MARKED, "--reruns-on-machine=2", *parallel)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 rerun in" in done.stdout
    assert "test_it.py::test_flaky: an election may take long" in done.stdout


@pytest.mark.parametrize(
    ("marker", "options"),
    [("", ["--reruns-on-machine=2"]), (MARKED, [])],
    ids=["not marked", "not asked for"],
)
def test_other_tests_pass_at_once_or_fail(tmp_path: pathlib.Path, marker: str, options: list[str]) -> None:
    done = run(tmp_path, marker, *options)
    assert done.returncode == 1
    assert "1 failed in" in done.stdout


@pytest.mark.parametrize(
    ("marker", "options"),
    [
        ("@pytest.mark.depends_on_machine", []),
        ('@pytest.mark.depends_on_machine(reason="")', []),
        ('@pytest.mark.depends_on_machine("an election may take long")', []),
        ("@pytest.mark.flaky(reruns=2)", []),
        ("", ["--reruns=2"]),
    ],
)
def test_there_is_no_other_way_to_have_a_test_run_again(
    tmp_path: pathlib.Path, marker: str, options: list[str]
) -> None:
    done = run(tmp_path, marker, *options)
    assert done.returncode == 4, done.stdout
    assert "depends_on_machine" in done.stderr
