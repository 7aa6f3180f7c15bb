"""``make run``: the daemon of this checkout in the foreground, with ``packaging/development.yaml``."""

from __future__ import annotations

import os
import pathlib
import signal
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "packaging" / "development.yaml"


def take_the_terminal() -> None:
    """Let Ctrl-C reach the daemon and not ``make``, which would end as interrupted where nothing went wrong.

    The terminal sends its signals to one process group. The daemon gets one of its own, which cannot be
    stopped: with Ctrl-Z nobody would be left to take the terminal back.
    """
    if not os.isatty(0):
        return
    os.setpgid(0, 0)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else the next line stops a background group
    os.tcsetpgrp(0, os.getpgrp())


def main() -> None:
    """Say how to connect a Postfix and become the daemon."""
    os.chdir(ROOT)  # the paths of the configuration are relative
    pathlib.Path("var").mkdir(exist_ok=True)
    settings = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    host, port = settings["SOCKET"]
    print(
        f"The limits are {settings['limits']}, the configuration is {CONFIGURATION.relative_to(ROOT)}.\n"
        "To connect a Postfix of this machine, in its main.cf:\n\n"
        f"    smtpd_data_restrictions = check_policy_service {{ inet:{host}:{port}, default_action=DUNNO }}\n\n"
        "Ctrl-C ends the daemon.",
        flush=True,
    )
    take_the_terminal()
    command = pathlib.Path(sys.executable).parent / "policyd-rate-limit"
    os.execv(command, [str(command), "-f", str(CONFIGURATION.relative_to(ROOT))])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
