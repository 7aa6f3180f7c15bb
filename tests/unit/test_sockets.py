"""The socket that Postfix connects to."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyd_rate_limit.errors import ConfigError, SystemRefusal
from policyd_rate_limit.system import sockets
from policyd_rate_limit.system.accounts import Account
from policyd_rate_limit.system.sockets import (
    SUN_PATH_BYTES,
    Address,
    address_of,
    bind,
    inherited,
    is_same,
    unlink_socket,
    written,
)
from support.daemon import free_port
from support.programs import missing, require_root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy"


def stale(path: Path) -> None:
    """The file of a UNIX socket whose process is over."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def require_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        missing("no IPv6 on the loopback interface")


def test_tcp_over_ipv4_listens() -> None:
    with bind(("127.0.0.1", 0), 0, None) as listener:
        assert listener.family == socket.AF_INET
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        socket.create_connection(listener.getsockname(), 5).close()


def test_tcp_over_ipv6_is_ipv6_only() -> None:
    require_ipv6()
    with bind(("::1", 0), 0, None) as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        socket.create_connection(listener.getsockname()[:2], 5).close()


def test_any_address_of_ipv6_takes_ipv4_too() -> None:
    require_ipv6()
    with bind(("::", 0), 0, None) as listener:
        assert not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), 5).close()
        socket.create_connection(("::1", listener.getsockname()[1]), 5).close()


def test_a_name_is_resolved_with_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "localhost"
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with bind(("localhost", 0), 0, None) as listener:
        assert listener.getsockname()[0] == "127.0.0.2"


def test_no_name_is_every_address() -> None:
    with bind(("", 0), 0, None) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_port_in_use_is_named() -> None:
    with bind(("127.0.0.1", 0), 0, None) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SystemRefusal, match=rf"^cannot bind 127\.0\.0\.1:{port}: Address already in use$"):
            bind(("127.0.0.1", port), 0, None)


def test_a_port_can_be_had_again_at_once() -> None:
    address = ("127.0.0.1", free_port())
    for _ in range(2):
        with bind(address, 0, None) as listener:
            client = socket.create_connection(address, 5)
            server, _ = listener.accept()
            server.close()  # first: so TIME_WAIT is ours
            client.close()


@pytest.mark.parametrize(
    ("host", "port", "where"),
    [
        ("192.0.2.1", 0, "192.0.2.1:0"),
        ("2001:db8::1", 10031, "[2001:db8::1]:10031"),
        ("no-such-host.invalid", 1, "no-such-host.invalid:1"),
        ("127.0.0.1", 65536, "127.0.0.1:65536"),
        ("127.0.0.1", -1, "127.0.0.1:-1"),
        ("a" * 64, 1, "a" * 64 + ":1"),
    ],
)
def test_what_cannot_be_bound_is_named(host: str, port: int, where: str) -> None:
    with pytest.raises(SystemRefusal) as caught:
        bind((host, port), 0, None)
    assert str(caught.value).startswith(f"cannot bind {where}: ")


@pytest.mark.parametrize("permission", [0o666, 0o600, 0o660, 0o000])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_permissions_are_exact(path: Path, permission: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        with bind(str(path), permission, None):
            assert stat.S_IMODE(path.stat().st_mode) == permission
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_permissions_are_never_wider(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first moment: the system is asked between the one call that creates the file and the next."""
    seen: list[int] = []
    hand_over = sockets._hand_over

    def look(at: Path, directory: int, owner: Account | None) -> os.stat_result:
        seen.append(stat.S_IMODE(at.stat().st_mode))
        return hand_over(at, directory, owner)

    monkeypatch.setattr(sockets, "_hand_over", look)
    bind(str(path), 0o600, None).close()
    assert seen == [0o600]


def test_unix_socket_listens_and_is_removed(path: Path) -> None:
    with bind(str(path), 0o666, None) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        unlink_socket(listener)
        assert not path.exists()
        unlink_socket(listener)


def test_tcp_has_nothing_to_remove() -> None:
    with bind(("127.0.0.1", 0), 0, None) as listener:
        unlink_socket(listener)
        socket.create_connection(listener.getsockname(), 5).close()  # it still listens


def test_a_closed_socket_is_removed(path: Path) -> None:
    listener = bind(str(path), 0o666, None)
    listener.close()
    unlink_socket(listener)
    assert not path.exists()


def test_the_socket_of_a_successor_stays(path: Path) -> None:
    with bind(str(path), 0o666, None) as ours:
        path.rename(path.with_name("moved"))
        with bind(str(path), 0o666, None):
            unlink_socket(ours)
            assert path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    stale(path)
    with bind(str(path), 0o600, None):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_live_listener_is_left_alone(path: Path) -> None:
    with bind(str(path), 0o666, None) as first, socket.socket(socket.AF_UNIX) as client:
        before = path.stat().st_ino
        with pytest.raises(SystemRefusal, match=f"^cannot bind {path}: another process listens there$"):
            bind(str(path), 0o666, None)
        assert path.stat().st_ino == before
        client.connect(str(path))
        unlink_socket(first)


def test_a_listener_whose_backlog_is_full_lives(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(SystemRefusal, match="another process listens there"):
            bind(str(path), 0o666, None)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "pipe"])
def test_what_is_not_a_socket_stays(path: Path, tmp_path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link":
            stale(tmp_path / "target")
            path.symlink_to("target")
        case "pipe":
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(SystemRefusal, match=f"^cannot bind {path}: it exists and is not a socket$"):
        bind(str(path), 0o666, None)
    assert path.lstat() == before


def test_a_datagram_socket_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(SystemRefusal, match=f"^cannot bind {path}: "):
            bind(str(path), 0o666, None)
        assert path.exists()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "policy"
    with pytest.raises(SystemRefusal, match=f"^cannot bind {path}: No such file or directory$"):
        bind(str(path), 0o666, None)


def test_the_longest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    longest = "é" * (SUN_PATH_BYTES // 2) + "x" * (SUN_PATH_BYTES % 2)
    with bind(longest, 0o666, None) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(longest)
        unlink_socket(listener)
    with pytest.raises(SystemRefusal, match=rf"{SUN_PATH_BYTES + 1} bytes, a UNIX socket allows 107$"):
        bind(longest + "x", 0o666, None)


def test_two_daemons_start_over_one_stale_socket(path: Path) -> None:
    """Whatever the order, in the end clients reach a listener."""
    stale(path)
    script = """
import sys
from policyd_rate_limit.errors import ConfigError, SystemRefusal
from policyd_rate_limit.system.sockets import bind
print("imported", flush=True)
input()
try:
    listener = bind(sys.argv[1], 0o666, None)
except SystemRefusal:
    print("lost", flush=True)
else:
    print("won", flush=True)
    input()
"""
    command = [sys.executable, "-c", script, str(path)]
    with contextlib.ExitStack() as stack:
        daemons = []
        for _ in range(2):
            daemon = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            daemons.append(stack.enter_context(daemon))
            stack.callback(daemon.kill)
        pipes = [(daemon.stdin, daemon.stdout) for daemon in daemons]
        assert [read.readline() for _, read in pipes if read] == ["imported\n"] * 2
        for write, _ in pipes:
            assert write
            write.write("\n")
            write.flush()
        assert "won\n" in [read.readline() for _, read in pipes if read]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_no_descriptor_is_left_after_a_refusal(path: Path) -> None:
    path.write_text("")
    before = descriptors()
    for address in (str(path), ("192.0.2.1", 0)):
        with pytest.raises(SystemRefusal):
            bind(address, 0o666, None)
    assert descriptors() == before


@pytest.mark.needs_root
def test_belongs_to_the_account(path: Path) -> None:
    require_root()
    owner = Account("somebody", 54321, 54322, (54322,))
    with bind(str(path), 0o640, owner):
        facts = path.stat()
        assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (54321, 54322, 0o640)


@pytest.mark.needs_root
def test_a_file_put_in_place_of_the_new_socket_is_not_given_away(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory may belong to the account; what it puts there meanwhile does not become its own."""
    require_root()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    hand_over = sockets._hand_over

    def attack(at: Path, directory: int, owner: Account | None) -> os.stat_result:
        at.unlink()
        at.hardlink_to(precious)
        return hand_over(at, directory, owner)

    monkeypatch.setattr(sockets, "_hand_over", attack)
    with pytest.raises(SystemRefusal, match="somebody replaces the socket"):
        bind(str(path), 0o666, Account("somebody", 54321, 54322, (54322,)))
    assert precious.stat().st_uid == 0


def test_a_directory_that_does_not_let_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_name: str, *, dir_fd: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with bind(str(path), 0o666, None) as listener:
        monkeypatch.setattr(os, "unlink", forbidden)
        unlink_socket(listener)
    assert path.exists()


# Those of the service manager


class Passed:
    """Descriptors side by side, as a service manager passes them on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._first = self._next = 700  # where nobody has any
        monkeypatch.setattr(sockets, "FIRST_INHERITED", self._first)

    def add(self, descriptor: int) -> None:
        os.dup2(descriptor, self._next, inheritable=True)
        self._next += 1

    def environment(self, **variables: str) -> dict[str, str]:
        return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(self._next - self._first), **variables}

    def close(self) -> None:
        for descriptor in range(self._first, self._next):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passed]:
    passed = Passed(monkeypatch)
    yield passed
    passed.close()


def problems(environment: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        inherited(environment)
    assert {problem.setting for problem in caught.value.problems} == {"SOCKET"}
    return [str(problem) for problem in caught.value.problems]


def test_nothing_is_inherited() -> None:
    assert inherited({}) == []
    assert inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) == []


def test_sockets_for_somebody_else(passed: Passed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        passed.add(listener.fileno())
    environment = passed.environment(LISTEN_PID=str(os.getppid()), LISTEN_FDNAMES="x", OTHER="y")
    assert inherited(environment) == []
    assert environment == {"OTHER": "y"}


def test_sockets_of_all_kinds(passed: Passed, path: Path) -> None:
    require_ipv6()
    servers = [
        socket.create_server(("127.0.0.1", 0)),
        socket.create_server(("::1", 0), family=socket.AF_INET6),
        bind(str(path), 0o666, None),
        socket.socket(socket.AF_UNIX),
    ]
    servers[3].bind(f"\0policyd-test-{os.getpid()}")
    servers[3].listen()
    for server in servers:
        passed.add(server.fileno())
    environment = passed.environment(LISTEN_FDNAMES="a:b:c", LISTEN_PIDFDID="1")
    listeners = inherited(environment)
    assert environment == {}
    assert not any(listener.get_inheritable() for listener in listeners)
    assert [address_of(listener) for listener in listeners] == [
        servers[0].getsockname(),
        servers[1].getsockname()[:2],
        str(path),
        f"@policyd-test-{os.getpid()}",
    ]
    for listener, server in zip(listeners, servers, strict=True):
        assert (listener.family, listener.type) == (server.family, socket.SOCK_STREAM)
        unlink_socket(listener)
        listener.close()
        server.close()
    assert path.is_socket()  # it is the service manager's


def test_each_wrong_socket_is_told(passed: Passed, tmp_path: Path) -> None:
    connected, peer = socket.socketpair()
    with (
        socket.create_server(("127.0.0.1", 0)) as right,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_INET) as deaf,
        connected,
        peer,
        (tmp_path / "file").open("w") as file,
    ):
        for each in (right, datagram, deaf, connected, file):
            passed.add(each.fileno())
    told = problems(passed.environment(LISTEN_FDNAMES="policy.socket:log"))
    assert len(told) == 4
    for line, (number, name, what) in zip(
        told,
        [
            (701, "log", "a stream socket (ListenStream=), found descriptor 701 (log): one of type 2"),
            (702, "unknown", "a socket that listens"),
            (703, "unknown", "a socket that listens"),
            (704, "unknown", "Socket operation on non-socket"),
        ],
        strict=True,
    ):
        assert f"descriptor {number} ({name})" in line
        assert what in line
    assert not {"700", "701", "702", "703"} & descriptors()


def test_fewer_sockets_than_told(passed: Passed) -> None:
    [line] = problems(passed.environment(LISTEN_FDS="1000000000"))
    assert "descriptor 700 (unknown): Bad file descriptor" in line


@pytest.mark.parametrize("number", ["", "-1", "many", "²"])
def test_a_number_of_sockets_that_is_none(passed: Passed, number: str) -> None:
    [line] = problems(passed.environment(LISTEN_FDS=number))
    assert f"expected a number of sockets, found LISTEN_FDS={number}" in line


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/run/x/policy", "/run/x/policy", True),
        ("/run/x/../x/policy", "/run/x/policy", True),
        ("/run/x/policy", "/run/y/policy", False),
        ("/run/x/policy", ("127.0.0.1", 1), False),
        (("127.0.0.1", 1), "/run/x/policy", False),
        (("::1", 1), ("0:0::1", 1), True),
        (("::1", 1), ("::1", 2), False),
        (("127.0.0.1", 1), ("127.0.0.1", 1), True),
    ],
)
def test_addresses_compare_however_they_are_written(one: Address, other: Address, same: bool) -> None:
    assert is_same(one, other) is same


def test_addresses_as_they_are_told() -> None:
    told = [written(address) for address in ("/run/policy", ("127.0.0.1", 10031), ("::1", 10031))]
    assert told == ["/run/policy", "127.0.0.1:10031", "[::1]:10031"]
