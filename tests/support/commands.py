"""The installed command, run to its end."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

from support.daemon import COMMAND


def call(
    path: pathlib.Path, *arguments: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """With the configuration at ``path``, and nobody at its standard input."""
    return subprocess.run(
        [str(COMMAND), "-f", str(path), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env,
        check=False,
        timeout=60,
    )


def ask(path: pathlib.Path, *arguments: object) -> Any:
    """What the command answers to a program."""
    done = call(path, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)
