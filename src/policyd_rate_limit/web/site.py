"""What all that browsers and programs reach shares."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from policyd_rate_limit.admin.watching import Watcher
from policyd_rate_limit.config.databases import REDIS
from policyd_rate_limit.web.blocks import Blocks
from policyd_rate_limit.web.guessing import Guessing
from policyd_rate_limit.web.health import HealthChecks
from policyd_rate_limit.web.pending import Pending
from policyd_rate_limit.web.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from markupsafe import Markup
    from starlette.requests import Request

    from policyd_rate_limit.admin.changes import Shown
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.web.accounts_file import AccountsFile
    from policyd_rate_limit.web.checks import PasswordChecks
    from policyd_rate_limit.web.desks import Desks


@dataclass(frozen=True)
class Site:
    """The parts. Immutable but for what sessions and guessing keep.

    ``settings`` gives those of the configuration as it is now. ``open_desk`` opens a desk for whoever needs one for a
    long time in a thread of their own; ``desks`` are those of the requests. ``url``: where browsers reach the site,
    ``https://HOST[:PORT]``; None: through a tunnel to this host, as localhost. ``user_header``: in which the proxy
    says who somebody is; None: nobody believes one. ``clock``: a monotonic one, ``wall``: Unix time, both in seconds.
    """

    settings: Callable[[], Settings]
    open_desk: Callable[[], AbstractContextManager[Desk]]
    desks: Desks
    accounts: AccountsFile
    passwords: PasswordChecks
    url: str | None
    user_header: str | None
    clock: Callable[[], float]
    wall: Callable[[], float]
    sessions: Sessions = field(init=False)
    guessing: Guessing = field(init=False)
    blocks: Blocks = field(init=False)
    whole_store: asyncio.Lock = field(init=False)
    """Of who reads all that was counted: one at a time."""
    watcher: Watcher = field(init=False)
    health: HealthChecks = field(init=False)
    changes: Pending[Shown] = field(init=False)
    """Those that were shown, and have to be confirmed."""
    notices: Pending[Markup] = field(init=False)
    """What is to be said once: what was done."""
    secret: bytes = field(init=False, repr=False)
    """Of this run of the process: what it signs is worth nothing after it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sessions", Sessions(self.clock))
        object.__setattr__(self, "guessing", Guessing(self.clock))
        object.__setattr__(self, "blocks", Blocks(self.desks, self.clock))
        object.__setattr__(self, "whole_store", asyncio.Lock())
        recounts = self.settings().backend == REDIS
        object.__setattr__(self, "watcher", Watcher(self.open_desk, recounts=recounts))
        object.__setattr__(self, "health", HealthChecks(self.settings, self.clock))
        object.__setattr__(self, "changes", Pending(self.clock))
        object.__setattr__(self, "notices", Pending(self.clock))
        object.__setattr__(self, "secret", secrets.token_bytes(32))

    @property
    def host(self) -> str | None:
        """The ``HOST[:PORT]`` of ``url``, in lower case."""
        return None if self.url is None else urlsplit(self.url).netloc.lower()

    @property
    def has_tls(self) -> bool:
        """Whether the proxy before it speaks TLS with browsers."""
        return self.url is not None and self.url.lower().startswith("https:")


def site_of(request: Request) -> Site:
    """The site that ``request`` was sent to."""
    found = request.app.state.site
    assert isinstance(found, Site)  # noqa: S101 - make_app has put it there
    return found
