"""Tries something as another account, chrooted if need be, in a child process."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.system.accounts import drop_privileges

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from policyd_rate_limit.system.accounts import Account

MOST_BYTES = 1 << 20
"""Of what a child may say."""


def run_as(
    account: Account | None,
    act: Callable[[], Any],
    seconds: float,
    *,
    directory: Path | None = None,
    chroot: bool = False,
) -> Any:
    """What ``act`` returns, something of JSON, as ``account`` (None: as we are) in ``directory``, within ``seconds``.

    ``chroot``: that directory is the root. Only root may change account or root; anybody else stays who they are.
    Raises OSError with its errno where ``act`` or the way there does, TimeoutError when it takes longer, ValueError
    when ``act`` fails in any other way.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.write(writer, json.dumps(_outcome(account, act, directory, chroot=chroot)).encode()[:MOST_BYTES])
        finally:
            os._exit(0)  # nothing of the parent's is to be cleared up here
    os.close(writer)
    try:
        said = _read(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    kind, value = json.loads(said or '["error", "it said nothing"]')
    if kind == "errno":
        raise OSError(value[0], value[1])
    if kind == "error":
        raise ValueError(value)
    return value


def _outcome(account: Account | None, act: Callable[[], Any], directory: Path | None, *, chroot: bool) -> list[Any]:
    try:
        if directory is not None:
            os.chdir(directory)
        if os.geteuid() == 0:
            if chroot:
                os.chroot(".")
            if account is not None:
                drop_privileges(account)
        return ["value", act()]
    except OSError as error:
        return ["errno", (error.errno or 0, error.strerror or str(error))]
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is to know
        return ["error", str(error) or type(error).__name__]


def _read(reader: int, end: float) -> bytes:
    """All that the child says; TimeoutError when it is not done by ``end`` of the monotonic clock."""
    said = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError("no answer in time")
        data = os.read(reader, 1 << 16)
        if not data:
            return said
        said += data
