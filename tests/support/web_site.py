"""A site as tests reach it: in this process, on a SQLite database of its own, with a clock that they move."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from starlette.testclient import TestClient

from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.config import Settings
from policyd_rate_limit.web.accounts import Account, Accounts, Token, authority, read, token_digest, written
from policyd_rate_limit.web.accounts_file import AccountsFile
from policyd_rate_limit.web.app import make_app
from policyd_rate_limit.web.checks import PasswordChecks
from policyd_rate_limit.web.desks import Desks
from policyd_rate_limit.web.passwords import Cost, hash_password
from policyd_rate_limit.web.site import Site

CHEAP = Cost(4, 1, 1)
PASSWORD = "correct horse battery"
URL = "https://limits.example.org"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A site, its accounts file, its clock, and browsers that reach it."""

    def __init__(
        self,
        directory: Path,
        *,
        url: str | None = URL,
        user_header: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.clock = Clock()
        self.settings = settings or Settings(
            sqlite_config={"database": str(directory / "db.sqlite3")}, pidfile=str(directory / "pid"), debug=False
        )
        self.path = directory / "accounts"
        self.put(Accounts({}, {}))

        def open_one() -> AbstractContextManager[Desk]:
            return open_desk(self.settings, as_account=False)

        self.desks = Desks(open_one, threads=1)
        self.site = Site(
            settings=lambda: self.settings,
            open_desk=open_one,
            desks=self.desks,
            accounts=AccountsFile(self.path, self.clock),
            passwords=PasswordChecks(CHEAP),
            url=url,
            user_header=user_header,
            clock=self.clock,
            wall=self.clock,
        )
        self.app = make_app(self.site)

    def put(self, accounts: Accounts) -> None:
        """These are the accounts from the next second on."""
        self.path.write_text(written(accounts))
        self.path.chmod(0o600)
        self.clock.now += 2

    @property
    def accounts(self) -> Accounts:
        """What the file says."""
        return read(self.path.read_text())

    def add(self, name: str, role: str = "operate", *domains: str, password: str | None = PASSWORD) -> None:
        """An account more."""
        kept = None if password is None else hash_password(password, CHEAP)
        self.put(self.accounts.with_account(Account(name, authority(role, domains), kept)))

    def browser(self, base: str = URL, **headers: str) -> TestClient:
        """One that follows no redirect, and says where its forms come from."""
        return TestClient(
            self.app,
            base_url=base,
            follow_redirects=False,
            headers={"origin": base, **headers},
            raise_server_exceptions=True,
        )

    def logged_in(self, name: str, password: str = PASSWORD) -> TestClient:
        """A browser whose user is ``name``."""
        browser = self.browser()
        answer = browser.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 303, answer.text
        return browser

    def close(self) -> None:
        """Have its threads end."""
        self.desks.close()
        self.site.passwords.close()


def program(world: World, role: str = "operate", *domains: str, expires: int | None = None) -> TestClient:
    """A program with a token of ``role``."""
    token = f"token of {role} {domains} {expires}"
    name = f"t{len(world.accounts.tokens)}"
    world.put(world.accounts.with_token(Token(name, authority(role, domains), token_digest(token), 0, expires)))
    return TestClient(world.app, base_url=URL, headers={"authorization": f"Bearer {token}"}, follow_redirects=False)
