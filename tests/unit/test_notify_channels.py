"""Programs and URLs that get alerts, the well-behaved and the others."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import pathlib
import socket
import ssl
import sys
import threading
import time
import tracemalloc
from functools import partial

import pytest

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.mail.smtp import MailServer
from policyd_rate_limit.notify.alert import as_json, as_text, subject
from policyd_rate_limit.notify.command import ENVIRONMENT, MOST_LINES, MOST_WRITTEN, Command
from policyd_rate_limit.notify.mail import Mail
from policyd_rate_limit.notify.outbox import Outbox
from policyd_rate_limit.notify.webhook import Url, sign
from support.alerts import an_alert, http_server
from support.smtp import authority, hang, peer, smtp_server
from support.wait import wait_until

ALERT = an_alert()
SHORT = 0.3  # seconds


# Mail


def test_an_alert_by_mail() -> None:
    with smtp_server() as server:
        channel = Mail(MailServer(server.host, server.port), "policyd@example.org", ("a@example.org", "b@example.org"))
        channel.deliver(ALERT)
        channel.deliver(ALERT)
        first, second = server.mails
    assert first.recipients == ["a@example.org", "b@example.org"]
    assert first.message["Subject"] == subject(ALERT)
    assert first.message.get_content().replace("\r\n", "\n") == as_text(ALERT)
    # Sent again after a failure of which nobody knows what it was, it is the same mail.
    assert first.message["Message-ID"] == second.message["Message-ID"] == "<n1@example.org>"


def test_a_recipient_that_is_refused_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith("policyd")]

    with smtp_server() as server:
        channel = Mail(MailServer(server.host, server.port), "policyd@example.org", ("a@example.org", "b@example.org"))
        server.handler.replies["RCPT b@example.org"] = "450 4.2.0 greylisted"
        for _ in range(3):
            channel.deliver(ALERT)
        assert lines() == ["notify_to: b@example.org is refused: 450 4.2.0 greylisted"]
        server.handler.replies.clear()
        channel.deliver(ALERT)
        server.handler.replies["RCPT b@example.org"] = "550 5.1.1 gone"
        channel.deliver(ALERT)
        assert lines()[1:] == ["notify_to: b@example.org is refused: 550 5.1.1 gone"]
        assert len(server.mails) == 5


# Programs


def script(tmp_path: pathlib.Path, code: str) -> tuple[str, ...]:
    """A program with arguments that no shell has seen."""
    file = tmp_path / "script.py"
    file.write_text(code)
    return (sys.executable, "-SE", str(file), str(tmp_path), "$HOME; *'\"")


def test_a_program_reads_the_alert(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    code = """
import json, os, sys
out = sys.argv[1] + "/out"
with open(out + ".new", "w") as file:
    json.dump([sys.stdin.read(), sys.argv[2:], dict(os.environ), os.getcwd(), os.getsid(0) == os.getpid(),
               sorted(os.listdir("/proc/self/fd"))], file)
os.rename(out + ".new", out)
"""
    Command(script(tmp_path, code)).deliver(ALERT)
    read, arguments, environment, directory, leads, descriptors = json.loads((tmp_path / "out").read_text())
    assert read.encode() == as_json(ALERT)
    assert arguments == ["$HOME; *'\""]
    environment.pop("LC_CTYPE", None)  # Python's own
    assert environment == ENVIRONMENT
    assert directory == "/"
    assert leads
    assert len(descriptors) == 5  # 0, 1, 2, the file, and the directory that is listed


def test_a_program_is_found_by_its_name() -> None:
    Command(["true"]).deliver(ALERT)


def test_a_program_that_does_not_read(tmp_path: pathlib.Path) -> None:
    Command(script(tmp_path, "import os; os.close(0)")).deliver(ALERT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["false"], "false: ended with status 1"),
        (["/bin/sh", "-c", "kill -9 $$"], "/bin/sh: killed by signal 9"),
        (["/no/such/program"], "/no/such/program: No such file or directory"),
        (["no-such-program"], "no-such-program: No such file or directory"),
        (["/etc/passwd"], "/etc/passwd: Permission denied"),
    ],
)
def test_a_program_that_fails(arguments: list[str], said: str) -> None:
    with pytest.raises(DeliveryFailed) as failure:
        Command(arguments).deliver(ALERT)
    assert str(failure.value) == said


def test_what_a_program_complains_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DeliveryFailed):
        Command(["/bin/sh", "-c", "echo no such room >&2; echo '\\033[31m' >&2; exit 1"]).deliver(ALERT)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "notify_command: /bin/sh: no such room"
    assert len(said) == 2


@pytest.mark.parametrize("code", ["yes x >&2", "yes >&2 & exit 0"], ids=["the program", "what it leaves behind"])
def test_a_program_that_writes_without_end(code: str, caplog: pytest.LogCaptureFixture) -> None:
    tracemalloc.start()
    try:
        with contextlib.suppress(DeliveryFailed):
            Command(["/bin/sh", "-c", code], seconds=0.5).deliver(ALERT)
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert highest < 100 * MOST_WRITTEN + (1 << 20)
    assert 1 <= len(caplog.records) <= MOST_LINES
    assert all(thread.name != "standard error" for thread in threading.enumerate())


HANGS = """
import os, sys, time
child = os.fork()
with open(sys.argv[1] + "/" + ("child" if child == 0 else "parent"), "w") as file:
    file.write(str(os.getpid()))
while True:
    time.sleep(60)
"""


def ended(file: pathlib.Path) -> bool:
    """Whether the process whose number is in ``file`` has ended."""
    try:
        state = pathlib.Path(f"/proc/{file.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # of whom nobody has asked for the end: an orphan where init does not


def has_text(file: pathlib.Path) -> bool:
    return file.exists() and bool(file.read_text())


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DeliveryFailed, match=r"killed after 2 seconds"):
        Command(script(tmp_path, HANGS), seconds=2).deliver(ALERT)
    for name in ("parent", "child"):
        wait_until(partial(ended, tmp_path / name), f"the end of the {name}")


def test_a_program_that_is_abandoned(tmp_path: pathlib.Path) -> None:
    channel = Command(script(tmp_path, HANGS), seconds=60)
    failures: list[DeliveryFailed] = []

    def deliver() -> None:
        try:
            channel.deliver(ALERT)
        except DeliveryFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=deliver)
    thread.start()
    for name in ("parent", "child"):
        wait_until(partial(has_text, tmp_path / name), f"the {name}")
    channel.abandon()
    thread.join(20)
    assert "killed by signal 9" in str(failures[0])
    wait_until(lambda: ended(tmp_path / "child"), "the end of the child")
    channel.abandon()  # nobody else's process is killed
    with pytest.raises(DeliveryFailed, match="the daemon ends"):
        channel.deliver(ALERT)


def test_a_program_that_is_abandoned_before_it_runs() -> None:
    channel = Command(["/bin/true"])
    channel.deliver(ALERT)
    channel.abandon()
    with pytest.raises(DeliveryFailed, match="/bin/true: not started, the daemon ends"):
        channel.deliver(ALERT)


def test_after_the_end_no_program_is_started_for_what_waits(tmp_path: pathlib.Path) -> None:
    started = tmp_path / "started"
    outbox = Outbox(Command(["/bin/sh", "-c", f"echo >>{started}; exec sleep 600"], seconds=60))
    outbox.start()
    for _ in range(3):
        outbox.put(ALERT)
    wait_until(partial(has_text, started), "the first")
    outbox.stop()
    outbox.join(0)
    wait_until(lambda: not outbox.is_alive(), "the end of the thread")
    assert started.read_text() == "\n"


# URLs


def test_a_signature_as_the_specification_has_it() -> None:
    """The example of Standard Webhooks' reference libraries."""
    assert (
        sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize("secret", ["whsec_" + base64.b64encode(b"key \xff").decode(), "a plain kéy"])
def test_a_post_is_signed(tmp_path: pathlib.Path, secret: str) -> None:
    key = b"key \xff" if secret.startswith("whsec_") else secret.encode()
    ca = authority(tmp_path)
    with http_server(ca.ca.issue_cert("127.0.0.1")) as hook:
        Url(f"https://127.0.0.1:{hook.port}/a/b%20c?d=e&f#g", secret, str(ca.file)).deliver(ALERT)
        [post] = hook.posts
    assert post.path == "/a/b%20c?d=e&f"
    assert post.body == as_json(ALERT)
    headers = post.headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{hook.port}"
    assert headers["webhook-id"] == "n1"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"n1.{headers['webhook-timestamp']}.".encode() + post.body
    version, _, signature = headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert base64.b64decode(signature) == hmac.new(key, signed, hashlib.sha256).digest()


def test_a_post_without_a_secret() -> None:
    with http_server() as hook:
        Url(f"http://127.0.0.1:{hook.port}").deliver(ALERT)
        [post] = hook.posts
    assert post.path == "/"
    assert "webhook-signature" not in post.headers


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_server_that_refuses(status: int) -> None:
    with http_server() as hook:
        hook.statuses = [status]
        with pytest.raises(DeliveryFailed) as failure:
            Url(f"http://127.0.0.1:{hook.port}/secret").deliver(ALERT)
    assert str(failure.value) == f"127.0.0.1: answered with status {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_nowhere(status: int) -> None:
    with http_server() as hook, http_server() as elsewhere:
        hook.statuses, hook.location = [status], f"http://127.0.0.1:{elsewhere.port}/"
        with pytest.raises(DeliveryFailed, match=f"status {status}"):
            Url(f"http://127.0.0.1:{hook.port}/").deliver(ALERT)
        assert len(hook.posts) == 1
        assert not elsewhere.posts


def test_a_certificate_that_is_not_trusted(tmp_path: pathlib.Path) -> None:
    ca = authority(tmp_path)
    with http_server(ca.ca.issue_cert("127.0.0.1")) as hook:
        with pytest.raises(DeliveryFailed, match=r"127.0.0.1: its certificate is not trusted: "):
            Url(f"https://127.0.0.1:{hook.port}/secret").deliver(ALERT)
        with pytest.raises(DeliveryFailed, match=r"localhost: its certificate is not trusted: Hostname mismatch"):
            Url(f"https://localhost:{hook.port}/secret", None, str(ca.file)).deliver(ALERT)
        with pytest.raises(DeliveryFailed, match="notify_ca_file /no/such: No such file"):
            Url(f"https://127.0.0.1:{hook.port}/secret", None, "/no/such").deliver(ALERT)
        assert not hook.posts


def test_a_server_that_hangs() -> None:
    with peer(hang) as port:
        for scheme in ("http", "https"):
            with pytest.raises(DeliveryFailed, match=r"127.0.0.1: (timed out|.*not within|.*handshake)"):
                Url(f"{scheme}://127.0.0.1:{port}/secret", seconds=SHORT).deliver(ALERT)


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_drips(tmp_path: pathlib.Path, tls: bool) -> None:
    ca = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.ca.issue_cert("127.0.0.1").configure_cert(context)

    def drip(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) if tls else connection as stream:
            stream.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                stream.sendall(b"x")
                time.sleep(SHORT / 10)

    scheme = "https" if tls else "http"
    with peer(drip) as port, pytest.raises(DeliveryFailed, match=f"127.0.0.1: not within {SHORT:g} seconds"):
        Url(f"{scheme}://127.0.0.1:{port}/secret", None, str(ca.file), seconds=SHORT).deliver(ALERT)


def test_a_body_that_never_ends_is_not_read() -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with peer(pour) as port:
        Url(f"http://127.0.0.1:{port}/").deliver(ALERT)


@pytest.mark.parametrize("answer", [b"", b"220 mail.test ESMTP\r\n", b"HTTP/1.1 \xff\r\n\r\n"])
def test_a_server_that_speaks_no_http(answer: bytes) -> None:
    def say(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)

    with peer(say) as port, pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1: .") as failure:
        Url(f"http://127.0.0.1:{port}/secret").deliver(ALERT)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("host", ["hook.invalid", "x" * 200, "a..b"])
def test_a_name_that_no_resolver_knows(host: str) -> None:
    with pytest.raises(DeliveryFailed, match=host[:10]) as failure:
        Url(f"https://{host}/secret").deliver(ALERT)
    assert "secret" not in str(failure.value)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1: Connection refused"):
        Url(f"http://127.0.0.1:{port}/secret").deliver(ALERT)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 OK\r\nx: y\r\n" + b"x: " + b"y" * 60_000 + b"\r\n"]
)
def test_a_server_that_never_ends_its_answer(said: bytes) -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(said)
        while True:
            connection.sendall(said if said.endswith(b"\r\n\r\n") else b"x: " + b"y" * 60_000 + b"\r\n")

    # Newer releases of Python have a bound of their own for answers that are not the last.
    bound = r"127\.0\.0\.1: (more than \d+ bytes of answers|got more than \d+ interim responses)"
    with peer(flood) as port, pytest.raises(DeliveryFailed, match=bound):
        Url(f"http://127.0.0.1:{port}/").deliver(ALERT)
