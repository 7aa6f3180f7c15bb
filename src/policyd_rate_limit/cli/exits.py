"""How the command ends, and what it says then."""

from __future__ import annotations

import contextlib
import enum
import select
from typing import Self

import click

from policyd_rate_limit.errors import AlreadyRunning, ConfigError, Problem, UnknownAccount
from policyd_rate_limit.system.logs import FOREGROUND_SECONDS, NAME, one_line


class Exit(enum.IntEnum):
    """The exit status of ``policyd-rate-limit``, each with its meaning."""

    meaning: str

    OK = 0, "normal end"
    NO = 1, "the answer is no: no such setting, nothing to reset or revoke, or something is wrong with what was checked"
    NO_SUCH_ACCOUNT = 2, "user or group does not exist (when started as root)"
    ALREADY_RUNNING = 3, "another instance runs"
    SOCKET_MALFORMED = 4, "SOCKET is malformed"
    CONFIGURATION = 5, "the configuration is missing, unreadable or invalid"
    RUN_TIME = 6, "error at run time, such as an address that cannot be bound"
    CLEAN_FAILED = 8, "--clean failed"
    # sysexits.h; click's own 2 for a usage error and Python's 1 for an exception mean something else above.
    USAGE = 64, "wrong usage of this command"
    # Not from here: the commands that start this one, packaging/debian/command and packaging/command.
    UNAVAILABLE = 69, "as it was installed it cannot run with this Python; what to type is said"
    SOFTWARE = 70, "an error of the program itself"
    # As a shell has it: 128 and the number of SIGINT.
    INTERRUPTED = 130, "interrupted by Ctrl-C, when it does not serve"

    def __new__(cls, value: int, meaning: str) -> Self:
        """The status ``value``."""
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status


def status_of(error: Exception) -> Exit:
    """The exit status for an error that ends the command."""
    match error:
        case ConfigError() if error.problems and all(_about_socket(one.setting) for one in error.problems):
            return Exit.RUN_TIME if all(_like_an_address(one) for one in error.problems) else Exit.SOCKET_MALFORMED
        case ConfigError():
            return Exit.CONFIGURATION
        case UnknownAccount():
            return Exit.NO_SUCH_ACCOUNT
        case AlreadyRunning():
            return Exit.ALREADY_RUNNING
        case _:
            return Exit.RUN_TIME


def _about_socket(setting: str) -> bool:
    """Whether ``setting`` is SOCKET or a part of it, such as ``SOCKET[1]`` or ``SOCKET.1``."""
    return setting.partition("[")[0].partition(".")[0] == "SOCKET"


def _like_an_address(problem: Problem) -> bool:
    """Whether an address is wrong that version 1.2.0 took for one, and could not bind."""
    return problem.setting in ("SOCKET[0]", "SOCKET.0") and ("." in problem.found or ":" in problem.found)


def tell(error: Exception) -> None:
    """Write what went wrong to standard error, each problem on one line."""
    lines = [str(error)]
    if isinstance(error, ConfigError):
        lines = [*map(str, error.problems), *([error.hint] if error.hint else [])]
    if not _is_read():
        return
    with contextlib.suppress(OSError):
        for line in lines:
            click.echo(f"{NAME}: {one_line(line)}", err=True)


def _is_read() -> bool:
    """Whether standard error takes anything, within a while: who does not read it must not keep the process alive."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    return bool(poll.poll(1000 * FOREGROUND_SECONDS))
