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


def modules_of_command() -> dict[str, str]:
    """The file of each module that the hook compiles, as the command would import it."""
    hook = (PACKAGING / "compile_hook.py").read_text(encoding="utf-8")
    listed = hook.partition("MODULES = (")[2].partition(")")[0]
    names = [path.removesuffix(".py").replace("/", ".") for path in re.findall('"(.+)"', listed)]
    assert len(names) > 10
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: print(name, importlib.import_module('policyd_rate_limit.' + name).__file__)"
    )
    python = COMMAND.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#!")
    shown = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True, timeout=60).stdout
    return dict(line.split(" ", 1) for line in shown.splitlines())


@pytest.mark.skipif("POLICYD_RATE_LIMIT" not in os.environ, reason="the command under test is that of the checkout")
def test_all_of_the_hot_path_is_compiled() -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    slow = {name for name, file in modules_of_command().items() if not file.endswith(suffix)}
    if slow and os.environ.get("CI") != "true":
        pytest.skip("there was no compiler")
    assert not slow
