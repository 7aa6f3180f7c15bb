"""Where the process begins, before anything is imported that takes its time.

A signal that comes while the daemon starts, of a script that is in a hurry, say, would end it: SIGHUP as well, for
which there is no handler yet. So those of the daemon wait from here until it handles them (app), or until it turns out
to be another command (cli).
"""

from __future__ import annotations

import gc
from typing import NoReturn

from policyd_rate_limit.system import signals

OBJECTS_OF_A_START = 100_000
"""More than are made until a command is at its work. They stay: to look for garbage among them, again and again, would
take a sixth of its time."""


def main() -> NoReturn:
    """The command ``policyd-rate-limit``."""
    signals.hold()
    gc.set_threshold(OBJECTS_OF_A_START)
    from policyd_rate_limit import cli

    try:
        cli.main()
    finally:
        gc.freeze()  # nor does Python look for it as it ends
