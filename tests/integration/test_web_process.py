"""The process that serves the web page: how it starts and ends, as whom, beside a daemon, and under attack."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyd_rate_limit.cli import main
from support.commands import ask, call
from support.daemon import COMMAND, Client, Daemon, free_port
from support.programs import require_root
from support.stores_for_daemons import STORES
from support.wait import wait_until
from support.web_process import ANNA, OPERATOR, WebProcess

CONNECTIONS = 1_000
MOST_OPEN = 512
MOST_MEMORY = 80 << 20
"""What a thousand connections may take, in bytes."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """One process for the tests that do not end it."""
    with WebProcess(tmp_path_factory.mktemp("web")) as process:
        assert isinstance(process, WebProcess)
        yield process


# On the others a browser looks at it, in test_web_browser.py.
@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "redis-cluster"])
def test_beside_a_daemon(tmp_path: Path, kind: str) -> None:
    """What one does the other sees, and the shell sees both."""
    limits = [[3, 3600]]
    with STORES[kind](tmp_path) as store, Daemon(tmp_path / "daemon", limits=limits, **store.settings) as daemon:
        web = WebProcess(tmp_path / "web", limits=limits, pidfile=daemon.settings["pidfile"], **store.settings)
        with web, web.client(OPERATOR) as program, Client(daemon.address) as client:
            request = {"protocol_state": "RCPT", "sasl_username": "alice", "recipient": "b@example.org"}
            for number in range(3):
                assert client.ask(**request, instance=f"i{number}") == "dunno"
            (standing,) = program.get("/api/v1/status/alice").json()["keys"]
            assert standing["windows"][0]["used"] == 3
            buckets = program.get("/api/v1/history/alice", params={"by": "day"}).json()["buckets"]
            assert sum(one["mails"] for one in buckets) == 3

            def sends() -> bool:
                return [one["key"] for one in program.get("/api/v1/top").json()["senders"]] == ["user:alice"]

            wait_until(sends, "alice is the one who sends")
            assert program.get("/api/v1/status").json()["daemon"] == {"running": True, "process": daemon.process.pid}
            program.post("/api/v1/block", json={"id": "bob", "seconds": 60, "note": "stolen"}).raise_for_status()
            program.post("/api/v1/reset", json={"id": "alice", "note": "ticket"}).raise_for_status()
            assert client.ask(**request, instance="i9") == "dunno"
            wait_until(lambda: client.ask(**{**request, "sasl_username": "bob"}).startswith("reject"), "bob is blocked")
            assert ask(daemon.path, "status", "bob")["keys"][0]["override"]["note"] == "stolen"
            audited = program.get("/api/v1/audit").json()["entries"]
            assert [(one["who"], one["action"], one["note"]) for one in audited] == [
                ("token operate", "reset", "ticket"),
                ("token operate", "block", "stolen"),
            ]


def test_it_rereads_the_configuration_when_that_changes_and_ends_and_leaves_nothing(tmp_path: Path) -> None:
    web = WebProcess(tmp_path / "web", limits=[[3, 60]])

    def limits() -> Any:
        return program.get("/api/v1/status/alice").json()["keys"][0]["limits"]

    with web, web.client(OPERATOR) as program:
        assert limits() == [[3, 60]]
        web.settings["limits"] = [[7, 60]]
        web.reload_file()
        wait_until(lambda: limits() == [[7, 60]], "the configuration is reloaded")
        web.path.write_text("limits: nonsense\n")
        wait_until(lambda: limits() and "the configuration stays as it was" in web.log_text(), "a mistake is told")
        assert limits() == [[7, 60]]
        path = Path(str(web.address))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert web.stop() == 0
        assert not path.exists()


def test_root_becomes_the_account_and_its_socket_is_the_groups(owned_by_nobody: Path) -> None:
    require_root()
    may_run = False
    nobody = pwd.getpwnam("nobody")
    with contextlib.suppress(PermissionError):
        subprocess.run([sys.executable, "-c", ""], user="nobody", check=True)
        may_run = True
    if not may_run:
        pytest.skip("the interpreter lies where root alone can read it, and not all of it is imported at the start")
    web = WebProcess(owned_by_nobody / "web", user="nobody", group="nogroup", web_group="www-data")
    os.chown(owned_by_nobody / "web", nobody.pw_uid, nobody.pw_gid)
    os.chown(web.settings["web_accounts"], nobody.pw_uid, nobody.pw_gid)
    os.chown(web.path, nobody.pw_uid, nobody.pw_gid)
    with web, web.client(OPERATOR) as program:
        assert program.get("/api/v1/status/alice").status_code == 200
        status = Path(f"/proc/{web.process.pid}/status").read_text()
        assert re.search(rf"^Uid:(\t{nobody.pw_uid}){{4}}$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        facts = Path(str(web.address)).stat()
        assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (nobody.pw_uid, 0o660)
        assert facts.st_gid == pwd.getpwnam("www-data").pw_gid


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"web_address": ["192.0.2.1", 80]}, 6, "others reach it by your TLS proxy"),
        ({"web_url": "http://limits.example.org"}, 6, "expected https"),
        ({"web_user_header": "X Remote User"}, 6, "the name of a header"),
    ],
)
def test_what_keeps_it_from_starting_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], status: int, said: str
) -> None:
    """In the process of the tests, to which nothing happens before a mistake is told; starting one takes longer."""
    web = WebProcess(tmp_path / "web")
    web.settings.update(settings)
    web.reload_file()
    with pytest.raises(SystemExit) as ended:
        main(["-f", str(web.path), "web"])
    told = capsys.readouterr().err
    assert (ended.value.code, said in told) == (status, True), told


def test_without_accounts_it_does_not_start(tmp_path: Path) -> None:
    web = WebProcess(tmp_path / "web", web_accounts=str(tmp_path / "accounts"))
    (tmp_path / "accounts").unlink()
    web.reload_file()
    done = call(web.path, "web")
    assert (done.returncode, "policyd-rate-limit web-user add NAME makes it" in done.stderr) == (6, True), done.stderr


def test_mistakes_about_the_page_keep_no_daemon_from_starting(tmp_path: Path) -> None:
    mistakes: dict[str, Any] = {
        "web_address": ["192.0.2.1", 80],
        "web_url": "x",
        "web_user_header": "a b",
        "web_accounts": [1],
    }
    with Daemon(tmp_path / "daemon", **mistakes) as daemon:
        for name in mistakes:
            daemon.logged(name, "only what needs it fails")


def test_other_addresses_than_loopback_are_refused(tmp_path: Path) -> None:
    web = WebProcess(tmp_path / "web")
    for address in ("0.0.0.0:9646", "192.0.2.1:9646", "[::]:9646"):
        done = call(web.path, "web", "--listen", address)
        assert (done.returncode, "behind your TLS proxy" in done.stderr) == (64, True)


def test_on_loopback(tmp_path: Path) -> None:
    web = WebProcess(tmp_path / "web", web_address=["127.0.0.1", free_port()])
    with web, web.client() as client:
        assert client.get("/login").status_code == 200
        assert client.get("/login", headers={"host": "evil.example.org"}).status_code == 421


def test_a_login(served: WebProcess) -> None:
    with served.client() as client:
        headers = {"origin": "https://limits.example.org", "x-forwarded-for": "10.0.0.1, 192.0.2.77"}
        wrong = client.post("/login", data={"name": "anna", "password": "wrong"}, headers=headers)
        assert wrong.status_code == 403
        served.logged("wrong password for anna from 192.0.2.77")
        right = client.post("/login", data={"name": "anna", "password": ANNA}, headers=headers)
        assert (right.status_code, "__Host-session" in right.headers["set-cookie"]) == (303, True)
    assert ANNA not in served.log_text()


@pytest.mark.parametrize("name", ["user:a/b", "user:..", "user:%2e%2e", "user:a?b#c", "user:ä\n", "user:a+b"])
def test_an_id_in_a_path_is_just_that(served: WebProcess, name: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    with served.client(OPERATOR) as program:
        answer = program.get(f"/api/v1/status/{quoted}")
        assert answer.json()["keys"][0]["key"] == name


def test_a_thousand_connections_keep_nobody_out(served: WebProcess) -> None:
    before = memory_of(served)
    silent: list[socket.socket] = []
    try:
        for number in range(CONNECTIONS):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(10)
            one.connect(str(served.address))
            if number % 2:
                with contextlib.suppress(ConnectionError):  # it may be closed already
                    one.sendall(b"GET /login HTTP/1.1\r\nhost: loc")
            silent.append(one)
        with served.client(OPERATOR) as program:
            assert program.get("/api/v1/status/alice", timeout=5).status_code == 200
        assert open_sockets(served) <= MOST_OPEN + 20
        assert memory_of(served) - before < MOST_MEMORY
    finally:
        for one in silent:
            one.close()
    with served.client() as client:
        assert client.get("/login").status_code == 200


def test_bodies_that_do_not_end_and_answers_that_nobody_reads(served: WebProcess) -> None:
    head = b"POST /login HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\n"
    form = b"content-type: application/x-www-form-urlencoded\r\n"
    for body in (
        b"content-length: 99999999\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n" + b"ffff\r\n" + b"x" * 0xFFFF,
        b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(served.address))
            with contextlib.suppress(ConnectionError):
                one.sendall(head + form + body)
            answer = one.recv(65536)
            assert re.match(rb"HTTP/1.1 4(00|13) ", answer), answer
    pipelined = b"GET /login HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2_000
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(1)
        one.connect(str(served.address))
        with contextlib.suppress(TimeoutError, ConnectionError):
            one.sendall(pipelined)  # and reads nothing
        with served.client() as client:
            assert client.get("/login", timeout=5).status_code == 200


def memory_of(process: WebProcess) -> int:
    """What is resident, in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def open_sockets(process: WebProcess) -> int:
    """How many of its descriptors are sockets."""
    number = 0
    for descriptor in Path(f"/proc/{process.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            number += str(descriptor.readlink()).startswith("socket:")
    return number


def test_the_daemon_and_the_commands_import_nothing_of_it() -> None:
    code = (
        "import sys, policyd_rate_limit.daemon.start, policyd_rate_limit.cli.status, policyd_rate_limit.cli.run\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('starlette', 'uvicorn', 'h11', 'anyio',"
        " 'multipart', 'python_multipart') or name.startswith('policyd_rate_limit.web')])"
    )
    python = COMMAND.parent / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_clients_of_the_past(served: WebProcess) -> None:
    """HTTP/1.0 without a host, and upgrades to what is not spoken here."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(10)
        one.connect(str(served.address))
        one.sendall(b"GET /login HTTP/1.0\r\n\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 421 ")
    with served.client() as client:
        headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert client.get("/login", headers=headers).status_code in (200, 400)
        for length in (40_000, 70_000, 1_000_000):
            try:
                assert client.get("/login", headers={"x": "y" * length}).status_code == 400
            except httpx.TransportError:
                assert length == 1_000_000, "it is closed while it is sent"
