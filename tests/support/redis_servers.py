"""Redis or Valkey as a child process of the tests: one server, a Cluster of three masters, a master with Sentinels.

``POLICYD_TEST_REDIS`` may name the url of a server that takes the place of the single one, its database is emptied;
``POLICYD_TEST_REDIS_SERVER`` the program to start, such as ``valkey-server``. Else it is whichever is installed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from support.daemon import free_port
from support.programs import SEARCHED, require
from support.wait import wait_until

START_SECONDS = 20.0
SLOTS = 16_384
_NO_RETRY = Retry(NoBackoff(), 0)


def program() -> pathlib.Path:
    """The server's program; the test ends where there is none."""
    wanted = os.environ.get("POLICYD_TEST_REDIS_SERVER")
    if wanted is None and shutil.which("valkey-server", path=SEARCHED):
        wanted = "valkey-server"
    return require(wanted or "redis-server")


def command_line() -> pathlib.Path:
    """The program that comes with :func:`program`, by which the manual speaks to the server."""
    return require("valkey-cli" if "valkey" in program().name else "redis-cli")


class External:
    """The server that ``POLICYD_TEST_REDIS`` names; nothing stops or changes it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self) -> Redis:
        """A client of the tests' own."""
        return Redis.from_url(self.url, retry=_NO_RETRY, protocol=2, decode_responses=True)


@contextlib.contextmanager
def single(directory: pathlib.Path) -> Iterator[RedisServer | External]:
    """The server that the environment names, or a new one."""
    url = os.environ.get("POLICYD_TEST_REDIS")
    if url:
        yield External(url)
    else:
        with RedisServer(directory) as server:
            yield server


class RedisServer:
    """A server on a port of its own, durable to the last answer, whose files are in ``directory``.

    ``options`` are those of its configuration file, in addition.
    """

    def __init__(self, directory: pathlib.Path, **options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(directory),
            "unixsocket": str(directory / "socket"),
            "logfile": str(directory / "log"),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": '""',
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def file(self) -> pathlib.Path:
        """Its configuration."""
        return self.directory / "server.conf"

    @property
    def url(self) -> str:
        """As ``redis_config`` has it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *arguments: str, wait: bool = True) -> RedisServer:
        """Start it; unless ``wait`` is false, return once it answers."""
        self.file.write_text("".join(f"{name} {value}\n" for name, value in self.options.items()))
        return self.restart(*arguments, wait=wait)

    def restart(self, *arguments: str, wait: bool = True) -> RedisServer:
        """Start it with its configuration file as it is."""
        self.process = subprocess.Popen([program(), self.file, *arguments])
        if wait:
            with self.client() as client:
                wait_until(lambda: _answers(client), "Redis answers", START_SECONDS)
        return self

    def client(self) -> Redis:
        """A client of the tests' own."""
        password = self.options.get("requirepass", "").strip('"') or None
        return Redis(port=self.port, password=password, retry=_NO_RETRY, protocol=2, decode_responses=True)

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _answers(client: Redis) -> bool:
    with contextlib.suppress(RedisError):
        return bool(client.ping())
    return False


@contextlib.contextmanager
def cluster(directory: pathlib.Path) -> Iterator[list[RedisServer]]:
    """Three masters that share the slots."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(3):
            server = RedisServer(
                directory / f"node{number}",
                cluster_enabled="yes",
                cluster_node_timeout="2000",
                cluster_port=str(free_port()),
            )
            servers.append(stack.enter_context(server))
        clients: list[Any] = [stack.enter_context(server.client()) for server in servers]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, server.options["cluster-port"])

        def complete() -> bool:
            return all(
                "cluster_state:ok" in (told := str(client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)))
                and "cluster_known_nodes:3" in told
                for client in clients
            )

        wait_until(complete, "the Cluster is complete", START_SECONDS)
        yield servers


class Replicated:
    """A master, a replica, and three Sentinels that make the replica master once the master is gone."""

    SERVICE = "limits"

    def __init__(self, directory: pathlib.Path) -> None:
        self.master = RedisServer(directory / "master")
        self.replica = RedisServer(directory / "replica", replicaof=f"127.0.0.1 {self.master.port}")
        self.sentinels = [_Sentinel(directory / f"sentinel{number}", self.master) for number in range(3)]

    def config(self) -> dict[str, Any]:
        """The ``redis_config``."""
        return {
            "sentinels": [["127.0.0.1", sentinel.port] for sentinel in self.sentinels],
            "service_name": self.SERVICE,
        }

    def __enter__(self) -> Replicated:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.master)
            stack.enter_context(self.replica)
            for sentinel in self.sentinels:
                stack.enter_context(sentinel)
            for sentinel in self.sentinels:
                client: Any = stack.enter_context(sentinel.client())
                wait_until(lambda: self._complete(client), "Sentinel knows all", START_SECONDS)  # noqa: B023 - at once
            self._stack = stack.pop_all()
        return self

    def _complete(self, client: Any) -> bool:
        told = client.sentinel_master(self.SERVICE)
        return int(told["num-other-sentinels"]) == 2 and int(told["num-slaves"]) == 1

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Sentinel(RedisServer):
    """One of three, of which two have to agree."""

    def __init__(self, directory: pathlib.Path, master: RedisServer) -> None:
        super().__init__(directory)
        service = Replicated.SERVICE
        self.options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(directory),
            "logfile": str(directory / "log"),
            "sentinel monitor": f"{service} 127.0.0.1 {master.port} 2",
            "sentinel down-after-milliseconds": f"{service} 1000",
            "sentinel failover-timeout": f"{service} 10000",
        }

    def start(self, *arguments: str, wait: bool = True) -> RedisServer:
        return super().start("--sentinel", *arguments, wait=wait)
