"""The accounts file, and the commands that change it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policyd_rate_limit.cli import main, web_user
from policyd_rate_limit.web import accounts_file
from policyd_rate_limit.web.accounts import Account, Accounts, AccountsError, authority, domain_name, read, written
from policyd_rate_limit.web.accounts_file import AccountsFile, changing, load
from policyd_rate_limit.web.passwords import MOST_MEMORY, Cost, dummy, hash_password, is_password, read_hash, why_not

CHEAP = Cost(4, 1, 1)


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """``policyd-rate-limit`` in this process, with an accounts file of its own and cheap hashes."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = directory / "accounts"
        self.configuration = directory / "limits.yaml"
        self.configuration.write_text(f"group: '{os.getgid()}'\nweb_accounts: {self.file}\n")
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setattr(web_user, "hash_password", partial(hash_password, cost=CHEAP))

    def __call__(self, *arguments: str, given: str = "") -> Ended:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as ended:
            main(["-f", str(self.configuration), *arguments])
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *self._capsys.readouterr())


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command, with no account yet."""
    return Shell(tmp_path, monkeypatch, capsys)


def test_from_nothing_to_an_account_and_back(shell: Shell, tmp_path: Path) -> None:
    done = shell("web-user", "add", "anna", "--role", "operate", "--domain", "Bücher.example.", given="a long secret\n")
    assert done.returncode == 0, done.stderr
    accounts, facts = load(shell.file)
    assert facts.st_mode & 0o777 in (0o600, 0o640)
    account = accounts.accounts["anna"]
    assert account.authority.domains == ("xn--bcher-kva.example",)
    assert account.password is not None
    assert is_password("a long secret", account.password)
    assert "a long secret" not in shell.file.read_text()
    assert shell("web-user", "add", "anna", given="another secret\n").returncode == 1
    assert shell("web-user", "passwd", "anna", given="another secret\n").returncode == 0
    assert is_password("another secret", load(shell.file)[0].accounts["anna"].password or "")
    listed = json.loads(shell("web-user", "list", "--json").stdout)
    assert listed == {
        "accounts": [{"name": "anna", "role": "operate", "domains": ["xn--bcher-kva.example"], "password": True}]
    }
    assert shell("web-user", "remove", "anna").returncode == 0
    assert shell("web-user", "remove", "anna").returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"accounts", "limits.yaml"}, "nothing is left beside it"


def test_the_audit_trail_tells_who_has_made_accounts(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # or this process would become the daemons' account
    shell.configuration.write_text(
        f"{shell.configuration.read_text()}sqlite_config: {{database: {tmp_path / 'db.sqlite3'}}}\n"
    )
    monkeypatch.setattr(accounts_file, "load", partial(load_as, os.getuid()))
    assert shell("web-user", "add", "anna", given="a long secret\n").returncode == 0
    assert not (tmp_path / "db.sqlite3").exists(), "no daemon has made it yet, and this is nobody's to make"
    assert "the audit trail does not tell of this: no daemon has made the database yet" in caplog.text
    (tmp_path / "db.sqlite3").touch()
    assert shell("web-user", "passwd", "anna", given="another secret\n").returncode == 0
    assert shell("web-token", "create", "panel", "--role", "operate", "--domain", "example.org").returncode == 0
    assert shell("web-token", "revoke", "panel").returncode == 0
    assert shell("web-user", "remove", "anna").returncode == 0
    told = json.loads(shell("audit", "--json").stdout)["entries"]
    assert [(one["action"], one["subject"], one["detail"]) for one in told] == [
        ("web-user remove", "anna", ""),
        ("web-token revoke", "panel", ""),
        ("web-token create", "panel", "operate for example.org"),
        ("web-user passwd", "anna", ""),
    ]
    (tmp_path / "db.sqlite3").unlink()
    (tmp_path / "db.sqlite3").mkdir()
    assert shell("web-user", "add", "bert", given="a long secret\n").returncode == 0
    assert "the audit trail does not tell of this" in caplog.text


def load_as(uid: int, path: Path) -> Any:
    """Load the accounts as that account, of which the test has taken away that it is root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: uid)
        return load(path)


def test_without_its_libraries_the_command_says_how_to_install_them(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("policyd_rate_limit.web.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = shell("web")
    assert done.returncode == 6
    assert "uvicorn is not installed: make install EXTRAS=web" in done.stderr


def test_from_a_token_to_its_end(shell: Shell) -> None:
    done = shell("web-token", "create", "panel", "--role", "operate", "--for", "90d")
    token = done.stdout.strip()
    assert token.startswith("prl_")
    assert token not in shell.file.read_text()
    assert shell("web-token", "create", "panel").returncode == 1
    (listed,) = json.loads(shell("web-token", "list", "--json").stdout)["tokens"]
    assert (listed["name"], listed["expires"] - listed["created"]) == ("panel", 90 * 86400)
    assert token not in shell("web-token", "list").stdout
    assert shell("web-token", "revoke", "panel").returncode == 0
    assert load(shell.file)[0].tokens == {}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (("web-user", "add", "anna"), "short\n"),
        (("web-user", "add", "anna"), "aaaaaaaaaaaaaaaaaaaaaaa\n"),
        (("web-user", "add", "anna"), ""),
        (("web-user", "add", "an na"), "a long secret\n"),
        (("web-user", "add", "-x"), "a long secret\n"),
        (("web-user", "add", "anna", "--role", "dovecot"), "a long secret\n"),
        (("web-user", "add", "anna", "--domain", "*.example.org"), "a long secret\n"),
        (("web-user", "add", "anna", "--domain", ""), "a long secret\n"),
        (("web-token", "create", "panel", "--for", "90"), ""),
        (("web-token", "create", "panel", "--role", "root"), ""),
    ],
)
def test_what_makes_no_sense_changes_nothing(shell: Shell, arguments: tuple[str, ...], given: str) -> None:
    done = shell(*arguments, given=given)
    assert done.returncode == 64, done.stderr
    assert not shell.file.exists()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    text = json.dumps(valid())
    assert read(written(read(text))) == read(text)


def valid() -> dict[str, Any]:
    """What a file may say."""
    return {
        "accounts": [
            {"name": "anna", "role": "operate", "domains": [], "password": hash_password("a long secret", CHEAP)},
            {"name": "bert", "role": "view", "domains": ["example.org"], "password": None},
        ],
        "tokens": [
            {"name": "panel", "role": "view", "domains": [], "digest": "ab" * 32, "created": 1, "expires": None}
        ],
    }


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("accounts", 0, "role"), "root", "view, operate, dovecot"),
        (("accounts", 0, "role"), "dovecot", "which is of tokens"),
        (("accounts", 0, "name"), "a b", "a name of"),
        (("accounts", 0, "name"), "bert", "twice"),
        (("accounts", 0, "password"), "in clear", "expected a hash"),
        (("accounts", 0, "password"), "scrypt$24$64$1$AAAA$AAAA", "MiB"),
        (("accounts", 0, "password"), "scrypt$4$1$1$AAAA$AAAA", "32 bytes"),
        (("accounts", 1, "domains"), "example.org", "a list of domains"),
        (("accounts", 1, "domains"), ["exa mple"], "a domain such as"),
        (("tokens", 0, "digest"), "ab", "SHA-256"),
        (("tokens", 0, "expires"), "never", "Unix seconds"),
        (("tokens", 0, "created"), True, "Unix seconds"),
        (("tokens",), {}, "a list"),
    ],
)
def test_a_mistake_in_the_file_says_where(where: tuple[Any, ...], value: object, said: str) -> None:
    whole = valid()
    at: Any = whole
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(AccountsError, match=said) as caught:
        read(json.dumps(whole))
    assert "in clear" not in str(caught.value)


def test_further_keys_are_not_passed_over() -> None:
    whole = valid()
    whole["accounts"][0]["rôle"] = "operate"
    with pytest.raises(AccountsError, match=r"accounts\[0\]"):
        read(json.dumps(whole))
    for text in ("{", "[" * 100_000):
        with pytest.raises(AccountsError, match="one JSON object"):
            read(text)


def test_changes_wait_for_each_other_and_for_nobody_who_may_only_read(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    directory = os.open(tmp_path, os.O_RDONLY)  # as every user of the host opens /etc
    fcntl.flock(directory, fcntl.LOCK_EX)

    def add(number: int) -> None:
        with changing(path) as put:
            before = load(path)[0] if path.exists() else Accounts({}, {})
            put(before.with_account(Account(f"a{number}", authority("view", []), None)))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(add, range(24), timeout=30)) == [None] * 24
    assert len(load(path)[0].accounts) == 24
    assert list(tmp_path.iterdir()) == [path]
    os.close(directory)


def test_a_file_is_root_s_or_ours_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    with pytest.raises(AccountsError, match="web-user add NAME makes it"):
        load(path)
    path.write_text(written(Accounts({}, {})))
    for mode in (0o644, 0o604, 0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(AccountsError, match=f"found mode {mode:04o}"):
            load(path)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(AccountsError, match="uid 12345"):
            load(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(AccountsError, match="expected a file"):
        load(path)


def test_a_token_that_was_revoked_is_worth_nothing_within_a_second(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "accounts"
    path.write_text(json.dumps(valid()))
    path.chmod(0o600)
    file = AccountsFile(path, lambda: now[0])
    assert file.token("ab" * 32) is not None
    path.write_text(json.dumps({**valid(), "tokens": []}))
    now[0] += 1
    assert file.token("ab" * 32) is None


def test_hashes() -> None:
    kept = hash_password("pässword \udc80", CHEAP)
    assert is_password("pässword \udc80", kept)
    assert not is_password("password", kept)
    assert hash_password("pässword \udc80", CHEAP) != kept, "each has a salt of its own"
    assert not is_password("", dummy(CHEAP))
    assert read_hash(dummy())[0].memory <= MOST_MEMORY
    assert why_not("x" * 300) is not None
    assert why_not("correct horse battery") is None


def test_names_of_domains_are_compared_in_ascii() -> None:
    assert domain_name("EXAMPLE.ORG.") == "example.org"
    assert domain_name("bücher.example") == domain_name("BÜCHER。example") == "xn--bcher-kva.example"
    for wrong in ("", "@", "a..b", "*", "a b", "a/b", "x" * 300, "user@example.org"):
        with pytest.raises(AccountsError):
            domain_name(wrong)
