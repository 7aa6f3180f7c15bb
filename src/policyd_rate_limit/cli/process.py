"""How a running daemon was started: as whom, where, and with which arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.system.accounts import Account
from policyd_rate_limit.system.logs import NAME

PROCESSES = Path("/proc")


class Process(NamedTuple):
    """What the kernel knows of it. What it calls itself (words, home) is its own word, and it may lie."""

    words: list[str]
    """Its arguments, without those of the interpreter."""
    directory: Path
    """Its working directory, from which a relative path of its configuration is meant."""
    home: str
    """Its HOME; empty when it has none."""
    account: Account
    """Who it is."""


def look_at(pid: int, processes: Path = PROCESSES) -> Process:
    """The daemon with the process id ``pid``; ``processes`` is where proc(5) is mounted.

    Raises SystemRefusal when there is no such process, it is another program, or we may not see it.
    """
    directory = processes / str(pid)
    try:
        words = [os.fsdecode(word) for word in (directory / "cmdline").read_bytes().split(b"\0")[:-1]]
        environment = (directory / "environ").read_bytes().split(b"\0")
        status = dict(line.split(":", 1) for line in (directory / "status").read_text().splitlines())
        where = (directory / "cwd").readlink()
    except OSError as error:
        raise SystemRefusal(f"process {pid}: {error.strerror}") from error
    home = next((os.fsdecode(entry[5:]) for entry in environment if entry.startswith(b"HOME=")), "")
    uid, gid = (int(status[name].split()[1]) for name in ("Uid", "Gid"))  # the effective one
    account = Account(str(uid), uid, gid, tuple(sorted({gid, *map(int, status["Groups"].split())})))
    return Process(_of_ours(pid, words), where, home, account)


def _of_ours(pid: int, words: list[str]) -> list[str]:
    for index, word in enumerate(words):
        # Its own command, or `python -m policyd_rate_limit`.
        if Path(word).name == NAME or word == "policyd_rate_limit" or word.endswith("policyd_rate_limit/__main__.py"):
            return words[index + 1 :]
    raise SystemRefusal(f"process {pid} is not {NAME}")
