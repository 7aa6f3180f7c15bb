"""Who has sent what was refused: most versions of Postfix do not say which SASL user that was.

In the session of a refusal, or else from the same client with the same sender address, mail of a user was accepted
before, or the daemon has named the user with a refusal of its own: then it is that one. Nobody is known otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.mail import Decided, Mail

_K = TypeVar("_K")

MOST_KNOWN: Final = 20_000
"""The most clients, each with one sender address, of which the user is remembered; then it begins anew."""


class User(NamedTuple):
    """``name`` and ``method`` as Postfix logs them: sasl_username, sasl_method."""

    name: str
    method: str


NOBODY: Final = User("", "")


class Users:
    """Remembers who has sent as whom."""

    def __init__(self) -> None:
        self._by_session: dict[int, User] = {}
        self._by_sender: dict[tuple[str, str], User] = {}

    def note(self, mail: Mail) -> None:
        """``mail`` was accepted; of one without a user it is known that nobody had logged in."""
        user = User(mail.sasl_username, mail.sasl_method) if mail.sasl_username else NOBODY
        if mail.session:
            _remember(self._by_session, mail.session, user)
        _remember(self._by_sender, (mail.client_address, mail.sender), user)

    def note_decision(self, decided: Decided) -> None:
        """What the daemon was told of a mail."""
        if decided.sasl_username:
            user = User(decided.sasl_username, "")
            _remember(self._by_sender, (decided.client_address, decided.sender), user)

    def of(self, mail: Mail) -> User:
        """Who has sent ``mail``."""
        if mail.sasl_username:
            return User(mail.sasl_username, mail.sasl_method)
        found = self._by_session.get(mail.session) if mail.session else None
        return found or self._by_sender.get((mail.client_address, mail.sender), NOBODY)


def _remember(known: dict[_K, User], key: _K, user: User) -> None:
    if key not in known and len(known) >= MOST_KNOWN:
        known.clear()
    known[key] = user
