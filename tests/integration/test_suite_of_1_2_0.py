"""The tests that version 1.2.0 ships, with this daemon as the command that they find: it may take the other's place.

They run as an installed black box, by an account that is not root, as they want it.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from support.daemon import COMMAND
from support.programs import missing
from support.public import public_directory

VARIABLE = "POLICYD_RATE_LIMIT_1_2_0"
"""Of the environment: the command of an installed 1.2.0, beside whose interpreter pytest is."""

DIFFERENT = {
    "test_limit_batch": "a mail to 11 recipients is refused at the eleventh, and 1.2.0 then gives the first ten back:"
    " eleven at a time would pass for ever",
    "test_no_config_file_found": "without a configuration file the daemon runs on its defaults, as version 0.4 did",
}
"""What is refused on purpose, and why."""

PATIENT = """
import sys, time
import pytest
sleep = time.sleep
time.sleep = lambda seconds: sleep(5 * seconds)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""They give a daemon a hundred times a hundredth of a second to start; beside other tests it may take longer."""

SECONDS = 240  # in which they take some 60, most of them asleep


@pytest.fixture(scope="module")
def interpreter() -> pathlib.Path:
    """Python with 1.2.0 and pytest."""
    command = os.environ.get(VARIABLE, "")
    python = pathlib.Path(command).with_name("python")
    if not command or not python.exists():
        missing(f"{VARIABLE} names no installed 1.2.0")
    if subprocess.run([python, "-c", "import pytest, policyd_rate_limit.tests.test_daemon"], check=False).returncode:
        missing(f"{python} has no pytest, or no tests of 1.2.0")
    return python


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    """A home directory for any account, with a configuration nowhere and this daemon's command in bin."""
    with public_directory() as path:
        path.chmod(0o777)
        (path / "bin").mkdir()
        (path / "bin" / "policyd-rate-limit").symlink_to(COMMAND)
        yield path


def as_ordinary_user(python: pathlib.Path) -> list[str]:
    """What goes before a command so that an account other than root runs it."""
    if os.geteuid() != 0:
        return []
    # By another name of root's where the interpreter is below root's home.
    ways = (
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"],
        ["unshare", "--user", "--map-user=1000"],
    )
    found = next((way for way in ways if shutil.which(way[0]) and _may_run(way, python)), None)
    return found if found is not None else missing("no account but root may run both programs")


def _may_run(way: list[str], python: pathlib.Path) -> bool:
    """Whether the one program may start the other so, and not as root."""
    probe = "import os, pytest, subprocess, sys; assert os.geteuid(); subprocess.run(sys.argv[1:], check=True)"
    command = [*way, str(python), "-c", probe, str(COMMAND), "--version"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.long(70)
def test_the_tests_of_1_2_0(interpreter: pathlib.Path, home: pathlib.Path) -> None:
    tests = ["-q", "-rA", "-p", "no:cacheprovider", "--pyargs", "policyd_rate_limit.tests.test_daemon"]
    done = subprocess.run(
        [*as_ordinary_user(interpreter), str(interpreter), "-c", PATIENT, *tests],
        env={"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "TMPDIR": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    lines = re.findall(r"^(PASSED|FAILED|ERROR) \S*::(\w+)", done.stdout, re.MULTILINE)
    outcomes = {name: outcome for outcome, name in lines}
    assert len(outcomes) == 16, done.stdout
    failed = {name for name, outcome in outcomes.items() if outcome != "PASSED"}
    assert failed == set(DIFFERENT), done.stdout
    assert f"Using {home}/bin/policyd-rate-limit" in done.stdout
