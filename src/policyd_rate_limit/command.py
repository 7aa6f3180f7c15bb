"""Where the process begins, before anything is imported that takes its time.

A signal that comes while the daemon starts, of a script that is in a hurry, say, would end it: SIGHUP as well, for
which there is no handler yet. So those of the daemon wait from here until it handles them (app), or until it turns out
to be another command (cli).
"""

from __future__ import annotations

from typing import NoReturn

from policyd_rate_limit.system import signals


def main() -> NoReturn:
    """The command ``policyd-rate-limit``."""
    signals.hold()
    from policyd_rate_limit import cli

    cli.main()
