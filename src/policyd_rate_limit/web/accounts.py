"""Who has an account or a token, and what is in the file that says so: one JSON object.

``{"accounts": [{"name", "role", "domains", "password"}], "tokens": [{"name", "role", "domains", "digest", "created",
"expires"}]}``: ``password`` is a hash of :mod:`.passwords`, or null for who logs in at the proxy alone; ``digest`` is
the SHA-256 of a token, ``created`` and ``expires`` are Unix seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from policyd_rate_limit.domain.rules.attributes import ascii_domain
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.web.authority import Authority, Role
from policyd_rate_limit.web.passwords import read_hash

MOST_ACCOUNTS = 10_000
"""Of each: accounts, and tokens."""

MOST_DOMAINS = 1_000
"""Of one account or token."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
"""The name of an account or a token."""

EXPECTED_NAME = "a name of at most 64 letters, digits and ._@+-, which begins with a letter or a digit"

_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


class AccountsError(PolicydError):
    """The accounts file cannot be used, or cannot be changed so; the message has no secret in it."""


class Account(NamedTuple):
    """Who may log in. ``password``: its hash; None: the proxy alone says that somebody is this account."""

    name: str
    authority: Authority
    password: str | None

    @property
    def fingerprint(self) -> str:
        """Another one as soon as anything about the account changes: sessions that began before end then."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


class Token(NamedTuple):
    """What a program shows. ``digest``: its SHA-256, in hex; ``expires``: in which Unix second, None: never."""

    name: str
    authority: Authority
    digest: str
    created: int
    expires: int | None


class Accounts(NamedTuple):
    """All of them: ``accounts`` by name, ``tokens`` by name."""

    accounts: dict[str, Account]
    tokens: dict[str, Token]

    def with_account(self, account: Account) -> Accounts:
        """With ``account`` in place of the one of its name."""
        if account.name not in self.accounts and len(self.accounts) >= MOST_ACCOUNTS:
            raise AccountsError(f"there are {MOST_ACCOUNTS} accounts already")
        return self._replace(accounts={**self.accounts, account.name: account})

    def without_account(self, name: str) -> Accounts:
        """Without the account ``name``, which there is."""
        return self._replace(accounts={one: its for one, its in self.accounts.items() if one != name})

    def with_token(self, token: Token) -> Accounts:
        """With ``token`` in place of the one of its name."""
        if token.name not in self.tokens and len(self.tokens) >= MOST_ACCOUNTS:
            raise AccountsError(f"there are {MOST_ACCOUNTS} tokens already")
        return self._replace(tokens={**self.tokens, token.name: token})

    def without_token(self, name: str) -> Accounts:
        """Without the token ``name``, which there is."""
        return self._replace(tokens={one: its for one, its in self.tokens.items() if one != name})


NOBODY = Accounts({}, {})


def authority(role: str, domains: tuple[str, ...] | list[str]) -> Authority:
    """What the file or a command line calls so. Raises AccountsError."""
    try:
        what = Role(role)
    except ValueError as error:
        raise AccountsError(f"expected one of {', '.join(Role)} for a role, found {role!r}") from error
    if len(domains) > MOST_DOMAINS:
        raise AccountsError(f"expected at most {MOST_DOMAINS} domains, found {len(domains)}")
    return Authority(what, tuple(sorted({domain_name(domain) for domain in domains})))


def domain_name(text: str) -> str:
    """The ASCII form of a domain. Raises AccountsError: a mistake here would show somebody too much, or nothing."""
    found = ascii_domain(text.strip())
    if not _DOMAIN.fullmatch(found):
        raise AccountsError(f"expected a domain such as example.org, found {text!r}")
    return found


def token_digest(token: str) -> str:
    """What is kept of a token. It is random, and long: one SHA-256 suffices."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read(text: str) -> Accounts:
    """What the file says. Raises AccountsError, which says where and what is wrong."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AccountsError(f"expected one JSON object, as web-user writes it: {error}") from error
    whole = _object(whole, "the file", {"accounts", "tokens"})
    accounts = [_account(one, f"accounts[{number}]") for number, one in enumerate(_list(whole, "accounts"))]
    tokens = [_token(one, f"tokens[{number}]") for number, one in enumerate(_list(whole, "tokens"))]
    for found in (accounts, tokens):
        names = [one.name for one in found]
        if len(names) > MOST_ACCOUNTS:
            raise AccountsError(f"expected at most {MOST_ACCOUNTS} accounts and as many tokens, found {len(names)}")
        if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else None:
            raise AccountsError(f"expected each name once, found {min(twice)} twice")
    return Accounts({one.name: one for one in accounts}, {one.name: one for one in tokens})


def written(accounts: Accounts) -> str:
    """What the file is to say."""
    whole = {
        "accounts": [
            {"name": one.name, **_of_authority(one.authority), "password": one.password}
            for _, one in sorted(accounts.accounts.items())
        ],
        "tokens": [
            {
                "name": one.name,
                **_of_authority(one.authority),
                "digest": one.digest,
                "created": one.created,
                "expires": one.expires,
            }
            for _, one in sorted(accounts.tokens.items())
        ],
    }
    return json.dumps(whole, indent=1) + "\n"


def _of_authority(authority: Authority) -> dict[str, object]:
    return {"role": str(authority.role), "domains": list(authority.domains)}


def _account(value: object, where: str) -> Account:
    found = _object(value, where, {"name", "role", "domains", "password"})
    its = _authority(found, where)
    if its.role is Role.DOVECOT:
        raise AccountsError(f"{where}: expected the role view or operate, found dovecot, which is of tokens")
    password = found["password"]
    if password is not None:
        try:
            read_hash(_text(found, "password", where))
        except ValueError as error:
            raise AccountsError(f"{where}.password: {error}") from error
    return Account(_name(found, where), its, password)


def _token(value: object, where: str) -> Token:
    found = _object(value, where, {"name", "role", "domains", "digest", "created", "expires"})
    digest = _text(found, "digest", where)
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise AccountsError(f"{where}.digest: expected a SHA-256 in hex")
    created, expires = found["created"], found["expires"]
    if type(created) is not int or not (expires is None or type(expires) is int):
        raise AccountsError(f"{where}: expected Unix seconds for created and expires, or null for expires")
    return Token(_name(found, where), _authority(found, where), digest, created, expires)


def _name(found: dict[str, Any], where: str) -> str:
    name = _text(found, "name", where)
    if not NAME.fullmatch(name):
        raise AccountsError(f"{where}.name: expected {EXPECTED_NAME}, found {name!r}")
    return name


def _authority(found: dict[str, Any], where: str) -> Authority:
    domains = found["domains"]
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        raise AccountsError(f"{where}.domains: expected a list of domains")
    try:
        return authority(_text(found, "role", where), domains)
    except AccountsError as error:
        raise AccountsError(f"{where}: {error}") from error


def _object(value: object, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise AccountsError(f"{where}: expected an object with {', '.join(sorted(keys))}, as web-user writes it")
    return value


def _list(whole: dict[str, Any], name: str) -> list[object]:
    found = whole[name]
    if not isinstance(found, list):
        raise AccountsError(f"{name}: expected a list")
    return found


def _text(found: dict[str, Any], name: str, where: str) -> str:
    value = found[name]
    if not isinstance(value, str):
        raise AccountsError(f"{where}.{name}: expected text")
    return value
