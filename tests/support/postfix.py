"""A complete Postfix of one's own in a temporary directory, with Dovecot to authenticate its users.

Nothing is shared with the machine's own mail service but the programs and their system accounts. Mail goes no
further than ``discard(8)``, which logs each delivery.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shutil
import signal
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from support.daemon import connect, free_port
from support.programs import require
from support.wait import wait_until

PASSWORD = "correct horse"
USERS = (
    *("alice", "bob", "carol", "x", "z", "mailman@uni.example"),
    *("a|b", "../", "$plan=business", "default|user", "x" * 400),
)
START_SECONDS = 30.0

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {root}/mail.log
maillog_file_prefixes = {root}
syslog_name = postfix
myhostname = mx.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = {mynetworks}
alias_maps =
alias_database =
local_recipient_maps =
default_transport = discard:
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject
smtpd_peername_lookup = no
smtpd_error_sleep_time = 0
in_flow_delay = 0
biff = no
"""

MASTER_CF = """\
127.0.0.1:{port} inet n - {chroot} - {processes} smtpd
pickup     unix n - n 60 1 pickup
cleanup    unix n - n - 0 cleanup
qmgr       unix n - n 300 1 qmgr
rewrite    unix - - n - - trivial-rewrite
bounce     unix - - n - 0 bounce
defer      unix - - n - 0 bounce
trace      unix - - n - 0 bounce
error      unix - - n - - error
discard    unix - - n - - discard
anvil      unix - - n - 1 anvil
postlog    unix-dgram n - n - 1 postlogd
"""

DOVECOT_CONF = """\
base_dir = {root}/dovecot
state_dir = {root}/dovecot
log_path = {root}/dovecot.log
protocols =
ssl = no
auth_mechanisms = plain login
auth_username_chars =
service auth {{
  unix_listener {root}/queue/private/auth {{
    mode = 0600
    user = postfix
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0600
  }}
}}
"""
DOVECOT_2_3_USERS = """\
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {root}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
"""
# These two settings come first.
DOVECOT_2_4_VERSION = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
"""
DOVECOT_2_4_USERS = """\
passdb passwd-file {{
  default_password_scheme = PLAIN
  auth_username_format = %{{user}}
  passwd_file_path = {root}/users
}}
userdb static {{
  fields {{
    uid = nobody
    gid = nogroup
    home = /nonexistent
  }}
}}
"""


@functools.cache
def dovecot_conf(dovecot: pathlib.Path) -> str:
    """The configuration, with the place of ``{root}``, that the installed version of Dovecot wants."""
    said = subprocess.run([dovecot, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    major, minor = map(int, said.split()[0].split(".")[:2])
    if (major, minor) < (2, 4):
        return DOVECOT_CONF + DOVECOT_2_3_USERS
    return DOVECOT_2_4_VERSION + DOVECOT_CONF + DOVECOT_2_4_USERS


# A kernel dates files a moment later than programs see the time; on some machines Postfix remarks on that.
CLOCK_OF_THE_MACHINE = r"warning: (file system clock is|resetting file time stamps)"


def write_cf(path: pathlib.Path, text: str) -> None:
    """Write main.cf or master.cf as if a minute ago.

    Every program of Postfix that finds a file fresh waits, up to two seconds, until nobody can still be writing it.
    """
    path.write_text(text)
    then = time.time() - 60
    os.utime(path, (then, then))


class Sent(NamedTuple):
    """How the submission of one mail went, in Postfix's replies, such as ``250 2.1.5 Ok``."""

    accepted: tuple[str, ...]
    refused: dict[str, str]
    reply: str

    @property
    def ok(self) -> bool:
        """Postfix took the mail, for at least one recipient."""
        return self.reply.startswith("250 ")


def send(connection: smtplib.SMTP, sender: str, recipients: Sequence[str], *, header: str = "Subject: test") -> Sent:
    """Submit one mail; ``reply`` of the outcome is to its end, or to the command that ended it early."""

    def text(reply: tuple[int, bytes]) -> str:
        return f"{reply[0]} {reply[1].decode()}"

    accepted = []
    refused = {}
    reply = text(connection.mail(f"{sender}@example.org"))
    for recipient in recipients:
        reply = text(connection.rcpt(recipient))
        if reply.startswith("250 "):
            accepted.append(recipient)
        else:
            refused[recipient] = reply
    if accepted:
        try:
            reply = text(connection.data(f"From: {sender}@example.org\r\n{header}\r\n\r\nHello\r\n"))
        except smtplib.SMTPDataError as error:  # DATA itself was refused
            reply = text((error.smtp_code, error.smtp_error))  # type: ignore[arg-type]  # always bytes here
    if not reply.startswith("250 "):
        connection.rset()
    return Sent(tuple(accepted), refused, reply)


class Postfix:
    """A Postfix whose smtpd listens on ``127.0.0.1:port``, on any that is free unless one is given.

    ``parameters`` is what main.cf holds besides the minimum, or in its place, ``chroot`` whether smtpd runs
    chrooted to the queue directory, as Debian has it, and ``processes`` the most smtpd processes at a time
    (0: no limit).
    Clients must authenticate, unless ``mynetworks`` trusts them.
    """

    def __init__(
        self,
        parameters: Mapping[str, str],
        *,
        chroot: bool = True,
        processes: int = 0,
        mynetworks: str = "",
        port: int = 0,
    ) -> None:
        self.postfix = require("postfix")
        self.dovecot = require("dovecot")
        # The path of a UNIX socket has 107 bytes at most: pytest's own temporary directories are too deep.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="pf-", dir="/tmp"))
        self.root.chmod(0o755)
        self.config = self.root / "etc"
        self.queue = self.root / "queue"
        self.port = port or free_port()
        for directory in (self.config, self.queue, self.root / "data", self.root / "dovecot"):
            directory.mkdir()
        shutil.chown(self.root / "data", "postfix", "postfix")
        self.values = {
            "root": str(self.root),
            "port": str(self.port),
            "chroot": "y" if chroot else "n",
            "processes": str(processes),
            "mynetworks": mynetworks,
        }
        usual = [line.partition(" =") for line in MAIN_CF.format_map(self.values).splitlines()]
        main_cf = {**{name: value for name, _, value in usual}, **parameters}
        write_cf(self.config / "main.cf", "".join(f"{name} = {value}\n" for name, value in main_cf.items()))
        write_cf(self.config / "master.cf", MASTER_CF.format_map(self.values))
        (self.root / "users").write_text("".join(f"{user}:{PASSWORD}\n" for user in USERS))
        (self.root / "dovecot.conf").write_text(dovecot_conf(self.dovecot).format_map(self.values))
        self.authenticator: subprocess.Popen[bytes] | None = None

    def log_with(self, other: Postfix) -> None:
        """Have it write to the log of ``other``, which runs by then, in the order in which both say something.

        As they do with a syslog daemon: with a postlogd(8) of each, one could be late.
        """
        service = os.path.relpath(other.queue / "public" / "postlog", self.queue / "public")
        main_cf = (self.config / "main.cf").read_text()
        write_cf(self.config / "main.cf", f"{main_cf}postlog_service_name = {service}\n")

    def command(self, *arguments: str) -> None:
        """``postfix -c DIR ARGUMENTS``; fails with its output and the log."""
        done = subprocess.run(
            [self.postfix, "-c", self.config, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"postfix {arguments} failed:\n{done.stdout}{done.stderr}{self.log_text()}")

    def start(self) -> Self:
        """Start Postfix and Dovecot; return once mail can be submitted."""
        self.command("start")
        self.authenticator = subprocess.Popen(
            [self.dovecot, "-F", "-c", self.root / "dovecot.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                connect(str(self.queue / "private" / "auth")).close()
                self.submission().close()
            except (OSError, smtplib.SMTPException) as error:
                if time.monotonic() > end:
                    raise AssertionError(f"Postfix is not ready: {error}\n{self.log_text()}") from error
                time.sleep(0.05)
            else:
                return self

    def stop(self) -> None:
        """End both servers and remove all that they left."""
        try:
            if self.authenticator is not None:
                # It would wait a second for its processes; of what it knows nothing has to stay.
                os.killpg(self.authenticator.pid, signal.SIGKILL)
                self.authenticator.wait(20)
            pidfile = self.queue / "pid" / "master.pid"
            if pidfile.exists():
                # As ``postfix stop`` does it, which then looks every second whether it is so.
                os.kill(int(pidfile.read_text()), signal.SIGTERM)
                wait_until(self._has_ended, "Postfix has ended")
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def _has_ended(self) -> bool:
        master = "/usr/lib/postfix/sbin/master"
        return subprocess.run([master, "-c", self.config, "-t"], check=False, stderr=subprocess.DEVNULL).returncode == 0

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_text(self) -> str:
        """What Postfix and Dovecot logged so far."""
        names = ("mail.log", "dovecot.log")
        paths = [self.root / name for name in names]
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def delivered(self) -> int:
        """How many recipients' mail reached its destination so far."""
        return len(re.findall(r"discard\[\d+\]: .* status=sent", self.log_text()))

    def wait_until_delivered(self, recipients: int, seconds: float = 60.0) -> None:
        """Wait until as many as ``recipients`` have their mail; never more."""
        end = time.monotonic() + seconds
        while (so_far := self.delivered()) < recipients:
            if time.monotonic() > end:
                raise AssertionError(f"{so_far} of {recipients} delivered after {seconds} s\n{self.log_text()}")
            time.sleep(0.05)
        assert so_far == recipients

    def assert_no_trouble(self) -> None:
        """Fail when Postfix logged that anything was wrong."""
        lines = [line for line in self.log_text().splitlines() if not re.search(CLOCK_OF_THE_MACHINE, line)]
        wrong = [line for line in lines if re.search(r"warning:|error:|fatal:|panic:", line)]
        assert not wrong, "\n".join(wrong)

    def submission(self, user: str | None = None, port: int = 0) -> smtplib.SMTP:
        """A connection to smtpd, greeted and, with ``user``, authenticated; ``port``: of another smtpd."""
        connection = smtplib.SMTP("127.0.0.1", port or self.port, local_hostname="client.example.org", timeout=60)
        try:
            connection.ehlo_or_helo_if_needed()
            if user is not None:
                connection.login(user, PASSWORD)
        except BaseException:
            connection.close()
            raise
        return connection

    def send(self, user: str, recipients: Sequence[str] = ("someone@example.net",)) -> Sent:
        """Submit one mail as ``user`` over a connection of its own."""
        with self.submission(user) as connection:
            return send(connection, user, recipients)
