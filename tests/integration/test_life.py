"""The life of a real daemon: how it starts, whom it becomes, how it ends and what it leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import policyd_rate_limit
from support.daemon import COMMAND, Client, Daemon, configuration, connect, mail, running, write_configuration
from support.programs import missing, require, require_root
from support.wait import wait_until

SIOCOUTQ = 0x5411
USER, GROUP = "nobody", "nogroup"
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command, run to its end."""
    return subprocess.run([str(COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def end_of(daemon: Daemon) -> tuple[int, list[str]]:
    """Start a daemon that cannot run; its exit status and the lines that it wrote."""
    daemon.start(wait=False)
    try:
        status = daemon.process.wait(20)
    finally:
        daemon.kill()
    return status, daemon.log_text().splitlines()


def unread(connection: socket.socket) -> int:
    """Of what was sent over a UNIX socket, the memory that the peer has not read yet."""
    (size,) = struct.unpack("i", fcntl.ioctl(connection, SIOCOUTQ, struct.pack("i", 0)))
    assert isinstance(size, int)
    return size


def status_of(process: int, thread: int | None = None) -> dict[str, list[str]]:
    """/proc/PID/status, or that of one thread."""
    where = f"/proc/{process}/status" if thread is None else f"/proc/{process}/task/{thread}/status"
    lines = Path(where).read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


# Exit statuses


def test_version_and_help() -> None:
    assert command("--version").stdout == f"policyd-rate-limit {policyd_rate_limit.__version__}\n"
    done = command("-h")
    assert (done.returncode, done.stderr) == (0, "")


def test_get_config(tmp_path: Path) -> None:
    path = write_configuration(tmp_path, configuration(tmp_path))
    done = command("-f", path, "--get-config", "sqlite_config.database")
    assert (done.returncode, done.stdout, done.stderr) == (0, str(tmp_path / "db.sqlite3"), "")
    done = command("-f", path, "--get-config", "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


@pytest.mark.needs_root
@pytest.mark.parametrize("missing", ["user", "group"])
def test_without_its_account_it_does_not_start(directory: Path, missing: str) -> None:
    require_root()
    settings: dict[str, Any] = {"user": USER, "group": GROUP, missing: "no-such-name"}
    status, lines = end_of(Daemon(directory / "var", pidfile=str(directory / "new" / "pid"), **settings))
    assert status == 2
    assert lines == [f"policyd-rate-limit: {missing} 'no-such-name' does not exist"]
    assert not (directory / "new").exists()


def test_a_second_instance_leaves_the_first_unharmed(directory: Path) -> None:
    address = str(directory / "policy")
    with running(directory / "one", SOCKET=address) as first, Client(address) as client:
        assert client.ask(**mail("alice")) == "dunno"
        second = Daemon(directory / "two", pidfile=first.settings["pidfile"], SOCKET=address)
        status, lines = end_of(second)
        assert status == 3
        assert len(lines) == 1
        assert str(first.process.pid) in lines[0]
        assert client.ask(**mail("alice")) == "dunno"
        with Client(address) as another:
            assert another.ask(**mail("alice")) == "dunno"
        assert Path(first.settings["pidfile"]).read_text() == f"{first.process.pid}\n"
        assert first.stop() == 0


def test_a_malformed_socket(tmp_path: Path) -> None:
    status, lines = end_of(Daemon(tmp_path, SOCKET=["127.0.0.1", 123456]))
    assert status == 4
    assert all(line.startswith("policyd-rate-limit: ") and "SOCKET" in line for line in lines)
    assert lines


def test_a_wrong_configuration(tmp_path: Path) -> None:
    status, lines = end_of(Daemon(tmp_path, limits="many", max_ids="perhaps"))
    assert status == 5
    assert len(lines) == 2
    assert not (tmp_path / "policyd.pid").exists()


def test_a_missing_configuration(tmp_path: Path) -> None:
    done = command("-f", tmp_path / "missing.conf")
    assert (done.returncode, done.stdout) == (5, "")
    assert len(done.stderr.splitlines()) == 1


def test_an_address_in_use(tmp_path: Path) -> None:
    with running(tmp_path / "one") as first:
        second = Daemon(tmp_path / "two", SOCKET=first.settings["SOCKET"])
        status, lines = end_of(second)
        assert status == 6
        host, port = first.settings["SOCKET"]
        assert lines == [f"policyd-rate-limit: cannot bind {host}:{port}: Address already in use"]
        assert not Path(second.settings["pidfile"]).exists()
        with Client(first.address) as client:
            assert client.ask(**mail("alice")) == "dunno"


def test_something_else_in_place_of_the_socket(directory: Path) -> None:
    path = directory / "policy"
    path.write_text("precious")
    status, lines = end_of(Daemon(directory / "var", SOCKET=str(path)))
    assert status == 6
    assert lines == [f"policyd-rate-limit: cannot bind {path}: it exists and is not a socket"]
    assert path.read_text() == "precious"


def test_clean_that_fails(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").mkdir()
    done = command("-f", write_configuration(tmp_path, configuration(tmp_path)), "--clean")
    assert (done.returncode, done.stdout) == (8, "")
    assert len(done.stderr.splitlines()) == 1


# Start and end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_request_in_hand_is_answered_before_the_end(directory: Path, number: signal.Signals) -> None:
    address = directory / "policy"
    daemon = Daemon(directory / "var", SOCKET=str(address), limits=[[2, 3600]])
    with daemon, Client(str(address)) as client:
        assert client.ask(**mail("alice")) == "dunno"
        with contextlib.closing(sqlite3.connect(daemon.settings["sqlite_config"]["database"])) as other:
            # The store has to wait for another writer, and has read the request when the signal comes.
            other.execute("BEGIN IMMEDIATE")
            client.send(**mail("alice"))
            end = time.monotonic() + 20
            while unread(client.socket):
                assert time.monotonic() < end
            daemon.process.send_signal(number)
            other.rollback()
        assert client.answer() == "dunno"
        assert daemon.process.wait(20) == 0
        assert not address.exists()
        assert not Path(daemon.settings["pidfile"]).exists()
    with daemon, Client(str(address)) as client:
        assert client.ask(**mail("alice")) == "defer_if_permit Rate limit reach, retry later"


def test_an_end_without_clients(directory: Path) -> None:
    with running(directory, SOCKET=str(directory / "policy")) as daemon:
        pidfile = Path(daemon.settings["pidfile"])
        assert pidfile.read_text() == f"{daemon.process.pid}\n"
        assert daemon.stop() == 0
    assert not pidfile.exists()
    assert not (directory / "policy").exists()
    assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_it_starts(directory: Path, number: signal.Signals) -> None:
    """Sent as soon as there is something that would be left behind."""
    daemon = Daemon(directory, SOCKET=str(directory / "policy"))
    pidfile = Path(daemon.settings["pidfile"])
    daemon.start(wait=False)
    try:
        end = time.monotonic() + 20
        while not (pidfile.exists() and pidfile.read_text()):
            assert time.monotonic() < end, daemon.log_text()
        assert daemon.stop(number) == 0
    finally:
        daemon.kill()
    assert not pidfile.exists()
    assert not (directory / "policy").exists()
    assert "Traceback" not in daemon.log_text()


def test_starts_again_after_kill_9(directory: Path) -> None:
    daemon = Daemon(directory, SOCKET=str(directory / "policy"), limits=[[3, 3600]])
    pidfile = Path(daemon.settings["pidfile"])
    for used in range(3):
        daemon.start()
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno", used
        daemon.kill()
        assert pidfile.read_text() == f"{daemon.process.pid}\n"
        assert (directory / "policy").is_socket()
    with daemon, Client(daemon.address) as client:
        assert pidfile.read_text() == f"{daemon.process.pid}\n"
        assert client.ask(**mail("alice")).startswith("defer_if_permit ")
    assert not pidfile.exists()


@pytest.mark.parametrize("content", ["", "garbage", "999999999", "{own}"])
def test_a_stale_pidfile_is_taken_over(tmp_path: Path, content: str) -> None:
    pidfile = tmp_path / "policyd.pid"
    # A live process of another program: the one that runs the tests, maybe in a directory of our name.
    pidfile.write_text(content.format(own=os.getppid()))
    with running(tmp_path, pidfile=str(pidfile)) as daemon:
        assert pidfile.read_text() == f"{daemon.process.pid}\n"


@pytest.mark.parametrize("permission", [0o666, 0o600, 0o660])
def test_permission_of_the_unix_socket(directory: Path, permission: int) -> None:
    before = os.umask(0o027)
    try:
        with running(directory, SOCKET=str(directory / "policy"), socket_permission=permission):
            assert stat.S_IMODE((directory / "policy").stat().st_mode) == permission
    finally:
        os.umask(before)


def test_ipv6(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError:
        missing("no IPv6 on the loopback interface")
    with running(tmp_path, SOCKET=["::1", port]) as daemon, Client(daemon.address) as client:
        assert client.ask(**mail("alice")) == "dunno"
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", port))


def test_nobody_waits_for_a_log_that_nobody_reads(directory: Path) -> None:
    """Standard error is a pipe, and full: requests are answered, and the end comes in time."""
    address = str(directory / "policy")
    settings = configuration(directory, SOCKET=address, debug=True, limits=[[10**6, 3600]])
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    daemon = Daemon(directory, **settings)
    daemon.process = subprocess.Popen(
        [str(COMMAND), "-f", str(daemon.path)], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    try:
        os.close(writer)
        daemon.wait_until_ready()
        with Client(address) as client:
            for _ in range(500):
                assert client.ask(**mail("alice")) == "dunno"
        assert daemon.stop() == 0
        assert len(os.read(reader, 1 << 20)) > 3000
    finally:
        os.close(reader)
        daemon.kill()


def test_what_a_client_sends_cannot_forge_a_line(tmp_path: Path) -> None:
    with running(tmp_path, debug=True) as daemon, Client(daemon.address) as client:
        client.ask(**mail("x\r2024 policyd-rate-limit: INFO forged\x1b[2J\x85\u2028\udcff"))
        assert daemon.stop() == 0
    lines = daemon.log_text().split("\n")[:-1]
    assert lines
    assert all(line.isprintable() for line in lines)
    assert any("forged" in line for line in lines)
    assert not any(line.startswith("2024 ") for line in lines)


# Started as root


@pytest.mark.needs_root
def test_root_becomes_the_account_before_it_reads_a_request(directory: Path) -> None:
    require_root()
    address = str(directory / "run" / "policy")
    daemon = Daemon(
        directory / "etc",
        user=USER,
        group=GROUP,
        SOCKET=address,
        pidfile=str(directory / "run" / "pid"),
        sqlite_config={"database": str(directory / "lib" / "db.sqlite3")},
    )
    uid = [str(pwd.getpwnam(USER).pw_uid)] * 4
    daemon.start(wait=False)
    try:
        end = time.monotonic() + 20
        while True:  # without a pause: the first moment is what counts
            assert time.monotonic() < end, daemon.log_text()
            with contextlib.suppress(OSError):
                client = Client(address)
                break
        client.send(**mail("alice"))
        while unread(client.socket):
            assert time.monotonic() < end, daemon.log_text()
        assert status_of(daemon.process.pid)["Uid"] == uid
        assert client.answer() == "dunno"
        client.close()
        threads = [int(entry.name) for entry in Path(f"/proc/{daemon.process.pid}/task").iterdir()]
        for thread in threads:
            facts = status_of(daemon.process.pid, thread)
            assert facts["Uid"] == uid
            assert facts["Gid"] == [str(grp.getgrnam(GROUP).gr_gid)] * 4
            assert facts["Groups"] == [str(grp.getgrnam(GROUP).gr_gid)]
            assert facts["NoNewPrivs"] == ["1"]
            for name in CAPABILITIES:
                assert int(facts[name][0], 16) == 0, name
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    assert list((directory / "run").iterdir()) == []


@pytest.mark.needs_root
def test_what_the_configuration_names_is_not_run_by_root(directory: Path) -> None:
    require_root()
    found = directory / "lib" / "ids"
    settings: dict[str, Any] = {
        "user": USER,
        "group": GROUP,
        "SOCKET": str(directory / "run" / "policy"),
        "pidfile": str(directory / "run" / "pid"),
        "sqlite_config": {"database": str(directory / "lib" / "db.sqlite3")},
        "limits": [[1, 60]],
        "notify_command": ["/bin/sh", "-c", f"grep -E '^(Uid|Gid|Groups|CapPrm):' /proc/self/status >{found}"],
    }
    with Daemon(directory / "etc", **settings) as daemon:
        with Client(daemon.address) as client:
            answers = [client.ask(**mail("alice")) for _ in range(2)]
        assert [answer == "dunno" for answer in answers] == [True, False]
        wait_until(lambda: found.exists() and found.read_text().count("\n") == 4, "what the program writes")
        uid, gid = str(pwd.getpwnam(USER).pw_uid), str(grp.getgrnam(GROUP).gr_gid)
        facts = dict(line.split(":") for line in found.read_text().splitlines())
        assert facts["Uid"].split() == [uid] * 4
        assert facts["Gid"].split() == [gid] * 4
        assert facts["Groups"].split() == [gid]
        assert int(facts["CapPrm"], 16) == 0
        assert daemon.stop() == 0


@pytest.mark.needs_root
@pytest.mark.parametrize("capability", ["setuid", "setgid"])
def test_root_that_may_not_change_serves_nobody(directory: Path, capability: str) -> None:
    require_root()
    prefix = [str(require("setpriv")), "--bounding-set", f"-{capability}"]
    daemon = Daemon(directory / "var", prefix=prefix, user=USER, group=GROUP, SOCKET=str(directory / "policy"))
    status, lines = end_of(daemon)
    assert status == 6
    assert lines == [f"policyd-rate-limit: cannot become user '{USER}': Operation not permitted"]
    assert not Path(daemon.settings["pidfile"]).exists()
    assert not (directory / "policy").exists()


@pytest.mark.needs_root
def test_missing_directories_are_created_and_given_to_the_account(directory: Path) -> None:
    require_root()
    owner = (pwd.getpwnam(USER).pw_uid, grp.getgrnam(GROUP).gr_gid)
    places = {name: directory / name / "deep" / "file" for name in ("pid", "socket", "db")}
    settings: dict[str, Any] = {
        "pidfile": str(places["pid"]),
        "SOCKET": str(places["socket"]),
        "sqlite_config": {"database": str(places["db"])},
    }
    before = os.umask(0o077)
    try:
        with running(directory / "etc", user=USER, group=GROUP, **settings) as daemon:
            with Client(daemon.address) as client:
                assert client.ask(**mail("alice")) == "dunno"
            for place in places.values():
                assert (place.stat().st_uid, place.stat().st_gid) == owner
                # What lies above is not given away: it may be Postfix's queue directory.
                for level, its_owner in ((place.parent, owner), (place.parent.parent, (0, 0))):
                    facts = level.stat()
                    assert (facts.st_uid, facts.st_gid) == its_owner
                    assert stat.S_IMODE(facts.st_mode) == 0o755
            assert (directory.stat().st_uid, (directory / "etc").stat().st_uid) == (0, 0)
            assert daemon.stop() == 0
    finally:
        os.umask(before)
    assert not places["pid"].exists()
    assert not places["socket"].exists()


@pytest.mark.needs_root
def test_directories_that_exist_stay_roots(directory: Path) -> None:
    """What cannot be removed from them is no hindrance, neither at the end nor at the next start."""
    require_root()
    database = directory / "lib" / "db.sqlite3"
    daemon = Daemon(
        directory / "run",
        user=USER,
        group=GROUP,
        SOCKET=str(directory / "run" / "policy"),
        sqlite_config={"database": str(database)},
        limits=[[2, 3600]],
    )
    for _ in range(2):
        with daemon, Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"
            client.close()
            assert daemon.stop() == 0
        assert (directory / "run").stat().st_uid == 0
        assert Path(daemon.settings["pidfile"]).read_bytes() == b""
    with daemon, Client(daemon.address) as client:
        assert client.ask(**mail("alice")).startswith("defer_if_permit ")


@pytest.mark.needs_root
def test_a_privileged_port_is_bound_before_privileges_are_dropped(directory: Path) -> None:
    require_root()
    for port in range(1023, 600, -1):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            break
    settings: dict[str, Any] = {"sqlite_config": {"database": str(directory / "lib" / "db.sqlite3")}}
    with running(directory / "etc", user=USER, group=GROUP, SOCKET=["127.0.0.1", port], **settings) as daemon:
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"
        assert status_of(daemon.process.pid)["Uid"][0] == str(pwd.getpwnam(USER).pw_uid)


@pytest.mark.needs_root
def test_whoever_is_not_root_stays_who_they_are(directory: Path) -> None:
    require_root()
    # The interpreter may be where only root can go, so it is root that starts it and imports.
    script = """
import sys
import encodings.utf_8_sig
import policyd_rate_limit.config.yaml_file
from policyd_rate_limit.cli import main, run
from policyd_rate_limit.system.accounts import Account, drop_privileges
drop_privileges(Account("54321", 54321, 54322, (54322,)))
main(sys.argv[2:])
"""
    (directory / "var").mkdir()
    os.chown(directory / "var", 54321, 54322)
    daemon = Daemon(
        directory / "var",
        prefix=[sys.executable, "-c", script],
        user="no-such-user",
        group="no-such-group",
        SOCKET=str(directory / "var" / "policy"),
    )
    with daemon:
        with Client(daemon.address) as client:
            assert client.ask(**mail("alice")) == "dunno"
        assert status_of(daemon.process.pid)["Uid"] == ["54321"] * 4
        assert (directory / "var" / "db.sqlite3").stat().st_uid == 54321
        assert daemon.stop() == 0


@pytest.mark.needs_root
def test_clean_as_root_leaves_nothing_of_roots(directory: Path) -> None:
    require_root()
    uid = pwd.getpwnam(USER).pw_uid
    lib = directory / "lib"
    lib.mkdir()
    os.chown(lib, uid, -1)
    settings: dict[str, Any] = {
        "user": USER,
        "group": GROUP,
        "sqlite_config": {"database": str(lib / "db.sqlite3")},
        "limits": [[2, 3600]],
    }
    (directory / "etc").mkdir()
    path = write_configuration(directory / "etc", configuration(directory / "etc", **settings))
    done = command("-f", path, "--clean")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 records deleted\n", "")
    assert {entry.stat().st_uid for entry in lib.iterdir()} <= {uid}
    with running(directory / "etc", **settings) as daemon, Client(daemon.address) as client:
        assert client.ask(**mail("alice")) == "dunno"
        done = command("-f", daemon.path, "--clean")
        assert (done.returncode, done.stdout, done.stderr) == (0, "0 records deleted\n", "")
        assert client.ask(**mail("alice")) == "dunno"
        assert client.ask(**mail("alice")).startswith("defer_if_permit ")
        assert {entry.stat().st_uid for entry in lib.iterdir()} == {uid}


@pytest.mark.needs_root
@pytest.mark.parametrize("missing", ["user", "group"])
def test_clean_as_root_without_the_account(directory: Path, missing: str) -> None:
    require_root()
    settings = {"user": USER, "group": GROUP, missing: "no-such-name"}
    done = command("-f", write_configuration(directory, configuration(directory, **settings)), "--clean")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"policyd-rate-limit: {missing} 'no-such-name' does not exist\n"
    assert not (directory / "db.sqlite3").exists()


def test_the_database_is_nobody_elses_business(tmp_path: Path) -> None:
    """It holds who has sent how much; the files beside it do, too."""
    with running(tmp_path) as daemon, Client(daemon.address) as client:
        client.ask(**mail("alice"))
        files = [path for path in tmp_path.iterdir() if path.name.startswith("db.sqlite3")]
        assert len(files) >= 3
        assert all(path.stat().st_mode & 0o007 == 0 for path in files)
