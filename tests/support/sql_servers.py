"""PostgreSQL and MariaDB servers of the tests' own, in temporary directories.

``POLICYD_TEST_POSTGRESQL`` and ``POLICYD_TEST_MYSQL`` may name servers that run already, each by the URL of an account
that may create databases and users: ``postgresql://user:password@host:port/database``, ``mysql://...`` likewise.
Nothing stops or restarts those.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pymysql
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.daemon import free_port
from support.programs import SEARCHED, missing, require
from support.public import public_directory
from support.wait import wait_until

START_SECONDS = 60.0
PASSWORD = "s3cret:'\"%&\u00e9"


class SqlServer(ABC):
    """One server. ``account``: who runs it, since neither runs as root."""

    name: str
    environment: str
    account: str
    quickly: int  # the signal that ends all its processes at once
    default_port: int

    def __init__(self, directory: pathlib.Path | None, url: str = "") -> None:
        self.url = urllib.parse.urlsplit(url)
        self.host = self.url.hostname or "127.0.0.1"
        self.port = self.url.port or (free_port() if directory else self.default_port)
        self.process: subprocess.Popen[bytes] | None = None
        self.directory = directory
        if directory is not None:
            directory.mkdir()
            self.give(directory)
            self._make_certificates()
            self.make()

    @abstractmethod
    def make(self) -> None:
        """Make the files of an empty server."""

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def admin(self, *statements: str, database: str = "") -> Sequence[Sequence[Any]]:
        """Execute statements as the administrator, each by itself; the rows of the last."""

    @abstractmethod
    def create(self) -> dict[str, Any]:
        """A new, empty database and a user that may do everything in it: the configuration, by TCP."""

    @abstractmethod
    def drop(self, config: dict[str, Any]) -> None:
        """Drop what :meth:`create` made."""

    @property
    def home(self) -> pathlib.Path:
        """The directory of the server; without one the test ends."""
        return self.directory or missing(f"not with the server that {self.environment} names")

    @property
    def authority(self) -> pathlib.Path:
        """The certificate that the one of the server, which is for ``localhost``, is signed with."""
        return self.home / "ca.pem"

    def _make_certificates(self) -> None:
        authority_key = ec.generate_private_key(ec.SECP256R1())
        _write_certificate(self.authority, "the test's own authority", authority_key, authority_key)
        server_key = ec.generate_private_key(ec.SECP256R1())
        _write_certificate(self.home / "server.pem", "localhost", server_key, authority_key)
        key = self.home / "server.key"
        key.touch(0o600)
        key.write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.give(key)

    def run(self, *command: str, timeout: float = 120) -> None:
        """Run a program as the account of the server; an error tells what it said."""
        done = subprocess.run(
            command, **self._as_account(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def give(self, path: pathlib.Path) -> None:
        """Make the account of the server the owner of ``path``."""
        if os.geteuid() == 0:
            shutil.chown(path, self.account, self.account)

    def start(self, *options: str) -> None:
        """Start it, with more options, and wait until it answers."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command(), *options], **self._as_account(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                # Before the driver, which leaves a socket open that does not connect.
                socket.create_connection((self.host, self.port)).close()
                self.admin("SELECT 1")
            except (OSError, psycopg.Error, pymysql.MySQLError):
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((self.home / "log").read_text(errors="replace")[-4000:]) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal and wait for that."""
        process = self._own_process()
        process.send_signal(number)
        process.wait(START_SECONDS)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the ``with`` block no process of the server runs: connections stay, nothing answers."""
        first = self._own_process().pid
        processes = [first, *_children(first)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            for process in processes:
                wait_until(functools.partial(_is_stopped, process), f"process {process} stops")
            yield
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _own_process(self) -> subprocess.Popen[bytes]:
        return self.process or missing(f"not done to the server that {self.environment} names")

    def _as_account(self) -> dict[str, Any]:
        as_root = {"user": self.account, "group": self.account, "extra_groups": ()} if os.geteuid() == 0 else {}
        return {"cwd": "/", **as_root}


def _is_stopped(process: int) -> bool:
    """All threads of ``process``, which do not stop at the same time."""
    try:
        tasks = [task.read_text() for task in pathlib.Path(f"/proc/{process}/task").glob("*/stat")]
    except OSError:
        return False  # one has just ended
    return all(task.rpartition(")")[2].split()[0] in "TtZ" for task in tasks)


class PostgresqlServer(SqlServer):
    """PostgreSQL, without fsync."""

    name = "postgresql"
    environment = "POLICYD_TEST_POSTGRESQL"
    account = "postgres"
    quickly = signal.SIGQUIT
    default_port = 5432

    @staticmethod
    def program(name: str) -> pathlib.Path:
        """A program of the newest PostgreSQL; Debian keeps them out of the path."""
        debian = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
        found = debian[-1] if debian else shutil.which(name, path=SEARCHED)
        return pathlib.Path(found) if found else missing(f"PostgreSQL's {name} is not installed")

    def make(self) -> None:
        self.run(
            str(self.program("initdb")),
            *("-D", str(self.home / "data"), "-U", "postgres", "--encoding=UTF8", "--locale=C"),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-instructions"),
        )

    def command(self) -> list[str]:
        settings = {
            "unix_socket_directories": self.home,
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "fsync": "off",
            "max_connections": 60,
            "shared_buffers": "16MB",
            "ssl": "on",
            "ssl_cert_file": self.home / "server.pem",
            "ssl_key_file": self.home / "server.key",
        }
        return [
            str(self.program("postgres")),
            *("-D", str(self.home / "data")),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def _connect(self, database: str, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """As the administrator."""
        if self.url.scheme:
            conninfo = psycopg.conninfo.make_conninfo(self.url.geturl(), **({"dbname": database} if database else {}))
        else:
            conninfo = psycopg.conninfo.make_conninfo(
                host=str(self.home), port=self.port, user="postgres", dbname=database or "postgres"
            )
        return psycopg.connect(conninfo, autocommit=autocommit, connect_timeout=5)

    def admin(self, *statements: str, database: str = "") -> Sequence[Sequence[Any]]:
        rows: list[Any] = []
        with self._connect(database) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def create(self) -> dict[str, Any]:
        name = _new_name()
        literal = "'" + PASSWORD.replace("'", "''") + "'"
        self.admin(f"CREATE USER {name} PASSWORD {literal}", f"CREATE DATABASE {name} OWNER {name}")
        return {"database": name, "user": name, "password": PASSWORD, "host": self.host, "port": self.port}

    def drop(self, config: dict[str, Any]) -> None:
        self.admin(f"DROP DATABASE IF EXISTS {config['database']} WITH (FORCE)", f"DROP USER {config['user']}")

    @contextlib.contextmanager
    def locked(self, table: str, database: str) -> Iterator[None]:
        """Inside the ``with`` block whoever reads ``table`` waits."""
        with self._connect(database, autocommit=False) as connection:
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            yield

    def waiting(self, database: str) -> int:
        """How many wait for such a lock."""
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
        return int(self.admin(asked)[0][0])


class MariadbServer(SqlServer):
    """MariaDB, without fsync."""

    name = "mariadb"
    environment = "POLICYD_TEST_MYSQL"
    account = "mysql"
    quickly = signal.SIGKILL
    default_port = 3306

    @property
    def socket(self) -> pathlib.Path:
        """The UNIX socket."""
        return self.home / "socket"

    def make(self) -> None:
        self.run(
            str(require("mariadb-install-db")),
            *("--no-defaults", f"--datadir={self.home / 'data'}", "--skip-test-db", f"--tmpdir={self.home}"),
            "--auth-root-authentication-method=normal",
        )

    def command(self) -> list[str]:
        return [
            str(require("mariadbd")),
            "--no-defaults",
            f"--datadir={self.home / 'data'}",
            f"--socket={self.socket}",
            f"--pid-file={self.home / 'pid'}",
            f"--tmpdir={self.home}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=16M",
            "--innodb-fast-shutdown=1",
            "--max-connections=60",
            "--plugin-load-add=auth_socket",
            f"--ssl-cert={self.home / 'server.pem'}",
            f"--ssl-key={self.home / 'server.key'}",
        ]

    def admin(self, *statements: str, database: str = "") -> Sequence[Sequence[Any]]:
        account: dict[str, Any] = (
            {
                "host": self.host,
                "port": self.port,
                "user": urllib.parse.unquote(self.url.username or "root"),
                "password": urllib.parse.unquote(self.url.password or ""),
            }
            if self.url.scheme
            else {"unix_socket": str(self.socket), "user": "root"}
        )
        rows: Sequence[Any] = ()
        with pymysql.connect(**account, database=database or None, autocommit=True, connect_timeout=5) as connection:
            for statement in statements:
                with connection.cursor() as cursor:
                    cursor.execute(statement)
                    rows = cursor.fetchall()
        return rows

    def create(self) -> dict[str, Any]:
        name = _new_name()
        self.admin(
            f"CREATE DATABASE {name}",
            f"CREATE USER {name} IDENTIFIED BY '{pymysql.converters.escape_string(PASSWORD)}'",
            f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER ON {name}.* TO {name}",
        )
        return {"db": name, "user": name, "passwd": PASSWORD, "host": self.host, "port": self.port, "charset": "utf8"}

    def drop(self, config: dict[str, Any]) -> None:
        self.admin(f"DROP DATABASE IF EXISTS {config['db']}", f"DROP USER {config['user']}")


SERVERS: tuple[type[SqlServer], ...] = (PostgresqlServer, MariadbServer)


@contextlib.contextmanager
def running(kind: type[SqlServer], *, own: bool = False) -> Iterator[SqlServer]:
    """A server of ``kind``: the one that the environment names, unless it is to be our ``own``; else a new one."""
    url = "" if own else os.environ.get(kind.environment, "")
    if url:
        yield kind(None, url)
        return
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(kind.account)
        except KeyError:
            missing(f"there is no account {kind.account}")
    with public_directory() as parent:
        server = kind(parent / kind.name)
        server.start()
        try:
            yield server
        finally:
            server.stop(kind.quickly)


@functools.cache
def shared(kind: type[SqlServer]) -> SqlServer:
    """The one server of ``kind`` for all tests of this process; it ends with the process."""
    stack = contextlib.ExitStack()
    server = stack.enter_context(running(kind))
    atexit.register(stack.close)
    return server


def _write_certificate(
    path: pathlib.Path, name: str, key: ec.EllipticCurvePrivateKey, signed_by: ec.EllipticCurvePrivateKey
) -> None:
    """A certificate of ``key``; one that it signs itself is an authority's."""
    now = datetime.datetime.now(datetime.UTC)
    issuer = "the test's own authority"
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=key is signed_by, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signed_by, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _new_name() -> str:
    return f"policyd_{uuid.uuid4().hex[:12]}"


def _children(process: int) -> list[int]:
    """The processes that ``process`` has started."""
    found = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]
