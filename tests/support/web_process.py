"""``policyd-rate-limit web`` as a child process, with accounts and tokens in a file that hash at no cost."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import httpx

from policyd_rate_limit.web.accounts import Account, Accounts, Token, authority, token_digest, written
from policyd_rate_limit.web.passwords import Cost, hash_password
from support.daemon import Daemon, write_configuration
from support.wait import wait_until

NAME = "limits.example.org"
ANNA = "correct horse battery"
"""The password of the account anna, who may change everything."""
OPERATOR, DOVECOT = "prl_operator", "prl_dovecot"
"""Tokens of these roles."""


def accounts() -> Accounts:
    """Those of every such process."""
    made = Accounts({}, {}).with_account(Account("anna", authority("operate", []), hash_password(ANNA, Cost(4, 1, 1))))
    for token, role in ((OPERATOR, "operate"), (DOVECOT, "dovecot")):
        made = made.with_token(Token(role, authority(role, []), token_digest(token), 0, None))
    return made


class WebProcess(Daemon):
    """It listens on a UNIX socket in ``directory``, unless ``web_address`` says otherwise."""

    arguments = ("web",)

    def __init__(self, directory: pathlib.Path, **settings: Any) -> None:
        defaults = {
            "web_address": str(directory / "web.sock"),
            "web_group": "root",
            "web_url": f"https://{NAME}",
            "web_accounts": str(directory / "accounts"),
        }
        super().__init__(directory, **{**defaults, **settings})
        file = pathlib.Path(self.settings["web_accounts"])
        file.write_text(written(accounts()))
        file.chmod(0o600)

    @property
    def address(self) -> str | tuple[str, int]:
        where = self.settings["web_address"]
        return where if isinstance(where, str) else (where[0], where[1])

    def wait_until_ready(self) -> None:
        super().wait_until_ready()

        def answers() -> bool:
            assert self.process.poll() is None, self.log_text()
            with contextlib.suppress(httpx.TransportError), self.client() as client:
                return client.get("/login").status_code == 200
            return False

        wait_until(answers, "the page is there")

    def reload_file(self) -> None:
        """Write its configuration as ``settings`` have it by now."""
        write_configuration(self.directory, self.settings)

    @contextlib.contextmanager
    def client(self, token: str | None = None) -> Iterator[httpx.Client]:
        """What reaches it as the proxy does, or as a program with ``token``."""
        where = self.address
        transport = httpx.HTTPTransport(uds=where if isinstance(where, str) else None)
        base = f"http://{NAME}" if isinstance(where, str) else f"http://localhost:{where[1]}"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(transport=transport, base_url=base, headers=headers, timeout=20) as made:
            yield made
