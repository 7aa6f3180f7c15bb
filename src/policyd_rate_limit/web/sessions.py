"""Sessions of browsers: kept in memory alone, and known there by the SHA-256 of their ids."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.web.accounts import Account

ID_BYTES = 32
IDLE_SECONDS = 30 * 60
"""A session that nobody uses for so long has ended."""

ABSOLUTE_SECONDS = 12 * 60 * 60
"""So long after its login a session ends in any case."""

MOST_OF_ONE = 10
"""Sessions of one account: a further login ends the one that was used the longest time ago."""

MOST_SESSIONS = 10_000
"""In all, likewise."""


@dataclass
class Session:
    """Somebody is logged in as the account ``name``. Times are of a monotonic clock, in seconds."""

    digest: str
    name: str
    fingerprint: str
    began: float
    used: float


class Sessions:
    """All of them. ``clock``: a monotonic one, in seconds. For the event loop alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_digest: dict[str, Session] = {}  # the one that was used last is last

    def begin(self, account: Account) -> tuple[str, Session]:
        """A new session of ``account``: its id, which only the browser keeps, and what is kept of it here."""
        identifier = secrets.token_urlsafe(ID_BYTES)
        now = self._clock()
        session = Session(_digest(identifier), account.name, account.fingerprint, now, now)
        self._end_old(now)
        of_one = [one for one in self._by_digest.values() if one.name == account.name]
        for one in of_one[: len(of_one) - MOST_OF_ONE + 1] if len(of_one) >= MOST_OF_ONE else []:
            del self._by_digest[one.digest]
        while len(self._by_digest) >= MOST_SESSIONS:
            del self._by_digest[next(iter(self._by_digest))]
        self._by_digest[session.digest] = session
        return identifier, session

    def find(self, identifier: str, account_of: Callable[[str], Account | None]) -> Session | None:
        """The session with this id, which is used by that; None: there is none, or it has ended.

        ``account_of`` gives the account of a name as it is now: one that was changed in any way has ended its sessions.
        """
        digest = _digest(identifier)
        session = self._by_digest.get(digest)
        if session is None:
            return None
        now = self._clock()
        account = account_of(session.name)
        if self._is_old(session, now) or account is None or account.fingerprint != session.fingerprint:
            del self._by_digest[digest]
            return None
        session.used = now
        self._by_digest[digest] = self._by_digest.pop(digest)
        return session

    def end(self, session: Session) -> None:
        """Its id is worth nothing from now on."""
        self._by_digest.pop(session.digest, None)

    def __len__(self) -> int:
        return len(self._by_digest)

    def _end_old(self, now: float) -> None:
        for one in [one for one in self._by_digest.values() if self._is_old(one, now)]:
            del self._by_digest[one.digest]

    @staticmethod
    def _is_old(session: Session, now: float) -> bool:
        return now - session.used >= IDLE_SECONDS or now - session.began >= ABSOLUTE_SECONDS


def _digest(identifier: str) -> str:
    return hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
