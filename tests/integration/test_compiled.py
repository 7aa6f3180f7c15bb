"""The daemon that the other tests start is the compiled one, where one can be made."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sysconfig

import pytest

from support.daemon import COMMAND

PACKAGING = pathlib.Path(__file__).parents[2] / "packaging"


def run_on_modules(code: str) -> str:
    """What ``code`` prints in the Python of the command; its arguments are the modules that the hook compiles."""
    hook = (PACKAGING / "compile_hook.py").read_text(encoding="utf-8")
    listed = hook.partition("MODULES = (")[2].partition(")")[0]
    names = [
        f"policyd_rate_limit.{path.removesuffix('.py').replace('/', '.')}" for path in re.findall('"(.+)"', listed)
    ]
    assert len(names) > 10
    python = COMMAND.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#!")
    return subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True, timeout=60).stdout


def modules_of_command() -> dict[str, str]:
    """The file of each module that the hook compiles, as the command would import it."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(name, importlib.import_module(name).__file__)"
    return dict(line.split(" ", 1) for line in run_on_modules(code).splitlines())


def test_each_module_may_be_the_first_that_is_imported() -> None:
    """Compiled classes of modules that are not imported yet do not exist, and what mentions them ends in a crash."""
    code = """
import importlib, os, sys
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert {line.rpartition(" ")[2] for line in run_on_modules(code).splitlines()} == {"0"}


@pytest.mark.skipif("POLICYD_RATE_LIMIT" not in os.environ, reason="the command under test is that of the checkout")
def test_all_of_the_hot_path_is_compiled() -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    slow = {name for name, file in modules_of_command().items() if not file.endswith(suffix)}
    if slow and os.environ.get("CI") != "true":
        pytest.skip("there was no compiler")
    assert not slow
