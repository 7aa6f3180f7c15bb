"""``doctor`` on whether Postfix reaches the daemon, and whether it is the daemon that answers."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Self

import pytest

from support.daemon import Daemon, free_port
from support.doctor import CHECK, MASTER_CF, Host, doctor, mend, only, settings, wrong

pytestmark = [pytest.mark.needs_postfix, pytest.mark.needs_root]


def test_a_chrooted_smtpd_sees_no_path_of_the_host(host: Host, tmp_path: Path) -> None:
    absolute = CHECK.replace("unix:", f"unix:{host.queue}/")
    postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {absolute}\n")
    finding = only(doctor(host.daemon.path, postfix))
    assert finding["check"] == "chroot"
    assert f"{host.queue}{host.queue}/ratelimit/policy" in finding["found"]
    mend(finding, postfix)
    assert wrong(doctor(host.daemon.path, postfix)) == []


def test_one_that_is_not_chrooted_does(host: Host, tmp_path: Path) -> None:
    for chroot in ("n", "-"):
        absolute = CHECK.replace("unix:", f"unix:{host.queue}/")
        master = MASTER_CF.replace("n - y", f"n - {chroot}")
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {absolute}\n", master)
        assert wrong(doctor(host.daemon.path, postfix)) == []


def test_one_that_is_not_chrooted_sees_no_path_of_the_chroot(host: Host, tmp_path: Path) -> None:
    inside = CHECK.replace("unix:", "unix:/")
    master = MASTER_CF.replace("n - y", "n - n")
    postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {inside}\n", master)
    finding = only(doctor(host.daemon.path, postfix))
    assert finding["check"] == "chroot"
    mend(finding, postfix)
    assert wrong(doctor(host.daemon.path, postfix)) == []


def test_a_socket_outside_of_the_chroot(host: Host, tmp_path: Path) -> None:
    with Daemon(host.directory / "outside", SOCKET=str(host.directory / "outside" / "policy")) as daemon:
        asked = f"check_policy_service {{ unix:{daemon.address}, default_action=DUNNO }}"
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n")
        finding = only(doctor(daemon.path, postfix))
        assert (finding["check"], finding["place"]) == ("chroot", "SOCKET")
        assert f"SOCKET: {host.queue}/ratelimit/policy" in finding["mend"]
        postfix = host.configure(postfix, f"smtpd_recipient_restrictions = {asked}\n", MASTER_CF.replace("- y", "- n"))
        assert wrong(doctor(daemon.path, postfix)) == []


@pytest.mark.parametrize("which", ["directory", "socket"])
def test_smtpd_may_not_connect(host: Host, tmp_path: Path, which: str) -> None:
    path = host.queue / f"closed-{which}" / "policy"
    permission = 0o600 if which == "socket" else 0o666
    with Daemon(host.directory / which, SOCKET=str(path), socket_permission=permission) as daemon:
        if which == "directory":
            path.parent.chmod(0o700)
        asked = f"check_policy_service {{ unix:{path.relative_to(host.queue)}, default_action=DUNNO }}"
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n")
        finding = only(doctor(daemon.path, postfix))
        assert finding["check"] == "socket-permission"
        assert "postfix may not connect" in finding["found"]
        if which == "directory":
            assert finding["mend"] == f"chmod 0711 {path.parent}"
            path.parent.chmod(0o711)
            assert wrong(doctor(daemon.path, postfix)) == []
        else:
            assert finding["mend"] == "socket_permission: 0666"


@pytest.mark.parametrize("stale", [True, False])
def test_the_daemon_does_not_run(host: Host, tmp_path: Path, stale: bool) -> None:
    path = host.queue / f"stopped-{stale}" / "policy"
    daemon = Daemon(host.directory / f"stopped-{stale}", SOCKET=str(path)).start()
    daemon.kill()
    if not stale:
        path.unlink()
    asked = f"check_policy_service {{ unix:{path.relative_to(host.queue)}, default_action=DUNNO }}"
    postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n")
    finding = only(doctor(daemon.path, postfix))
    assert finding["check"] == "not-running"
    assert finding["mend"] == "systemctl start policyd-rate-limit"


def test_postfix_asks_where_nobody_listens(host: Host, tmp_path: Path) -> None:
    elsewhere = CHECK.replace("ratelimit/policy", "policyd/policy")
    postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {elsewhere}, reject\n")
    found = doctor(host.daemon.path, postfix)
    assert [finding["check"] for finding in wrong(found)] == ["not-hooked", "service-mismatch"]
    mend(wrong(found)[1], postfix)
    assert wrong(doctor(host.daemon.path, postfix)) == []


@pytest.mark.parametrize(
    ("endpoint", "listens", "hooked"),
    [
        ("inet:127.0.0.1:{port}", "127.0.0.1", True),
        ("inet:localhost:{port}", "127.0.0.1", True),
        ("inet:127.0.0.1:{port}", "0.0.0.0", True),
        ("inet:127.0.0.2:{port}", "127.0.0.1", False),
    ],
)
def test_over_tcp(host: Host, tmp_path: Path, endpoint: str, listens: str, hooked: bool) -> None:
    port = free_port()
    # In the chroot there is no /etc/hosts that knows localhost.
    master = MASTER_CF.replace("- y", "- n")
    with Daemon(tmp_path, SOCKET=[listens, port]) as daemon:
        asked = f"check_policy_service {{ {endpoint.format(port=port)}, default_action=DUNNO }}"
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n", master)
        found = wrong(doctor(daemon.path, postfix))
        assert [finding["check"] for finding in found] == ([] if hooked else ["not-hooked", "service-mismatch"])


class Answering:
    """A server on the loopback interface that sends ``answer`` to whatever is asked, after ``seconds``."""

    def __init__(self, answer: bytes, seconds: float = 0.0) -> None:
        self.answer = answer
        self.done = threading.Event()
        self.seconds = seconds
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while not self.done.is_set():
            connection, _ = self.listener.accept()
            with connection:
                if connection.recv(4096):
                    self.done.wait(self.seconds)
                    connection.sendall(self.answer)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        self.listener.close()


@pytest.mark.parametrize(
    ("answer", "seconds", "checks"),
    [
        (b"220 mx ESMTP\r\n", 0, ["other-program"]),
        (b"action=DEFER greylisted\n\n", 0, ["other-answer"]),
        (b"action=dunno\n\n", 0.6, ["slow-answer"]),
        (b"action=dunno\n\n", 30, ["no-answer"]),
    ],
)
def test_somebody_else_answers_or_the_daemon_is_stuck(
    host: Host, tmp_path: Path, answer: bytes, seconds: float, checks: list[str]
) -> None:
    with Answering(answer, seconds) as server:
        asked = f"check_policy_service {{ inet:127.0.0.1:{server.port}, default_action=DUNNO }}"
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n")
        configuration = settings(host, tmp_path, SOCKET=["127.0.0.1", server.port])
        assert [finding["check"] for finding in wrong(doctor(configuration, postfix))] == checks


def test_a_policy_service_that_is_not_the_daemon(host: Host, tmp_path: Path) -> None:
    with Answering(b"action=dunno\n\n") as server:
        asked = f"check_policy_service {{ inet:127.0.0.1:{server.port}, default_action=DUNNO }}"
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n")
        configuration = settings(host, tmp_path, SOCKET=["127.0.0.1", server.port], pidfile=str(tmp_path / "none"))
        assert only(doctor(configuration, postfix))["check"] == "other-program"


def test_what_it_asks_charges_nobody(tmp_path: Path, host: Host) -> None:
    with Daemon(tmp_path, SOCKET=["127.0.0.1", free_port()], debug=True) as daemon:
        port = daemon.address[1]
        asked = f"check_policy_service {{ inet:127.0.0.1:{port}, default_action=DUNNO }}"
        postfix = host.configure(tmp_path / "etc", f"smtpd_recipient_restrictions = {asked}\n")
        assert wrong(doctor(daemon.path, postfix)) == []
        assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM policyd_entry").fetchone() == (0,)
