"""What a running daemon was started with."""

from __future__ import annotations

import os
from pathlib import Path

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system.logs import NAME

PROCESSES = Path("/proc")


def words_of(pid: int, processes: Path = PROCESSES) -> list[str]:
    """The arguments of the daemon with the process id ``pid``, without those of the interpreter.

    ``processes`` is where proc(5) is mounted. Raises SystemRefusal when there is no such process, or it is another
    program.
    """
    try:
        words = [os.fsdecode(word) for word in (processes / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError as error:
        raise SystemRefusal(f"process {pid}: {error.strerror}") from error
    for index, word in enumerate(words):
        # Its own command, or `python -m`, of which the kernel shows the path of __main__.py.
        if Path(word).name == NAME or word.endswith("policyd_rate_limit/__main__.py") or word == "policyd_rate_limit":
            return words[index + 1 :]
    raise SystemRefusal(f"process {pid} is not {NAME}")


def directory_of(pid: int, processes: Path = PROCESSES) -> Path:
    """The working directory of the process, from which a relative path of its configuration is meant.

    Raises SystemRefusal when it cannot be seen.
    """
    try:
        return (processes / str(pid) / "cwd").readlink()
    except OSError as error:
        raise SystemRefusal(f"process {pid}: {error.strerror}") from error
