"""Checking passwords, in few threads: each check takes 32 MiB and a fifth of a second."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from policyd_rate_limit.web.accounts import Account
from policyd_rate_limit.web.desks import Busy
from policyd_rate_limit.web.passwords import MOST_BYTES, USUAL, Cost, dummy, is_password

THREADS = 2
MOST_WAITING = 30
"""Checks at a time; whoever logs in then is told to come later."""


class PasswordChecks:
    """Checks passwords. ``cost``: that of the hash which stands for accounts that there are not."""

    def __init__(self, cost: Cost = USUAL) -> None:
        self._dummy = dummy(cost)
        self._threads = ThreadPoolExecutor(THREADS, "password")
        self._going_on = 0

    async def is_right(self, account: Account | None, password: str) -> bool:
        """Whether ``password`` is that of ``account``; it takes as long for None as for an account. Raises Busy."""
        if self._going_on >= MOST_WAITING:
            raise Busy("too many log in at once")
        kept = account.password if account is not None else None
        given = password if len(password.encode("utf-8", "surrogatepass")) <= MOST_BYTES else ""
        self._going_on += 1
        try:
            is_it = await asyncio.get_running_loop().run_in_executor(
                self._threads, is_password, given, kept or self._dummy
            )
        finally:
            self._going_on -= 1
        return is_it and kept is not None and given == password

    def close(self) -> None:
        """Have the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
