"""The signals of the daemon. Imports nothing that takes its time: they are held before anything else is done."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)


def hold() -> None:
    """They wait from now on, whichever comes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def release() -> None:
    """They do what they are to do, as those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def ignore() -> None:
    """They do nothing from now on, in whichever thread, until the process has ended.

    To hold them would be too little: as Python ends it has them do what they do by default, which is to kill, and a
    thread that began while they were not held may be there still, at its very end.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def drop() -> None:
    """Those that have waited were for a daemon that does not start: they do nothing, and later ones are not held."""
    while signal.sigtimedwait(SIGNALS, 0) is not None:
        pass
    release()
