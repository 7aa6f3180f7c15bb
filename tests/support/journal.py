"""A journal that a real systemd-journald has written, in namespaces of its own: the journal of the host is left alone.

Run as a program it is what runs in these namespaces: ``journal.py JOURNALD DATAGRAMS DIRECTORY``.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JOURNALD = "/lib/systemd/systemd-journald"
RUNTIME = pathlib.Path("/run/systemd/journal")
PATIENCE = 20.0  # seconds


def journal_of(messages: Sequence[bytes], directory: pathlib.Path) -> pathlib.Path:
    """The directory of a journal that holds ``messages``, each sent as syslog(3) sends it: priority, tag, text."""
    from support.programs import require  # not there for the program that this is as well

    datagrams = directory / "datagrams.json"
    datagrams.write_text(json.dumps([message.decode("latin-1") for message in messages]))
    journal = directory / "journal"
    private: list[str | pathlib.Path] = [require("unshare"), "--mount", "--propagation", "private"]
    command: list[str | pathlib.Path] = [*private, sys.executable, __file__, require(JOURNALD), datagrams, journal]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return journal


def journalctl(journal: pathlib.Path, form: str) -> bytes:
    """What journalctl(1) writes of all that came by syslog(3), in UTC."""
    from support.programs import require

    command: list[str | pathlib.Path] = [
        require("journalctl"),
        "--directory",
        journal,
        "--no-pager",
        "--output",
        form,
        "_TRANSPORT=syslog",
    ]
    environment = {"TZ": "UTC", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True).stdout


def _record(journald: str, messages: Sequence[bytes], journal: pathlib.Path) -> None:
    """Have a journald write ``messages`` to ``journal``; in a mount namespace of one's own."""
    machine_id = pathlib.Path("/etc/machine-id")  # a host that has never booted may have none in it
    own_id = journal.with_name("machine-id")
    own_id.write_text(f"{uuid.uuid4().hex}\n")
    if machine_id.exists():
        subprocess.run(["mount", "--bind", own_id, machine_id], check=True)
    for place in ("/run", "/var/log"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    process = subprocess.Popen([journald])
    try:
        _wait_for(lambda: (RUNTIME / "dev-log").exists(), "the socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            for message in messages:
                log.sendto(message, str(RUNTIME / "dev-log"))
        # It takes what waits at its sockets before it answers this.
        subprocess.run(["journalctl", "--sync"], check=True, timeout=PATIENCE)
    finally:
        process.terminate()
        process.wait(PATIENCE)
    (written,) = pathlib.Path("/run/log/journal").iterdir()
    shutil.copytree(written, journal)


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


if __name__ == "__main__":
    _record(
        sys.argv[1],
        [text.encode("latin-1") for text in json.loads(pathlib.Path(sys.argv[2]).read_text())],
        pathlib.Path(sys.argv[3]),
    )
