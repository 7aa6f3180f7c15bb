"""What docs/redis.md tells an administrator to type, as written: it lasts, and its rights suffice for every command."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
from typing import Any

import pytest
from redis import Redis

from support.commands import call
from support.daemon import Client, configuration, mail, running, write_configuration
from support.redis_servers import RedisServer, command_line
from support.wait import wait_until

MANUAL = pathlib.Path(__file__).parents[2] / "docs" / "redis.md"
PASSWORD = "s3cret"
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def type_in(server: RedisServer, block: str) -> None:
    """Have a shell execute the block of the manual that begins with ``# block``, and expect OK from each line."""
    text = MANUAL.read_text(encoding="utf-8")
    lines = text.partition(f"```sh\n# {block}\n")[2].partition("```")[0].replace("PASSWORD", PASSWORD)
    assert lines
    script = re.sub(r"^redis-cli", f"{command_line()} -p {server.port}", lines, flags=re.MULTILINE)
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == ["OK"] * len(re.findall("^redis-cli", lines, re.MULTILINE))


def restart(server: RedisServer) -> None:
    """The server begins with the file that it has written itself."""
    server.kill()
    server.restart()


def rights(client: Redis) -> set[str]:
    """Of the user, in no order, as servers tell them."""
    user: Any = client.acl_getuser("policyd")
    return {*user["commands"], *user["keys"], *user["passwords"]}


@pytest.fixture
def plain(tmp_path: pathlib.Path) -> RedisServer:
    """A server as a distribution configures it."""
    server = RedisServer(tmp_path / "redis")
    for name in ("appendonly", "appendfsync"):
        del server.options[name]
    return server


def test_the_settings_last(plain: RedisServer) -> None:
    with plain, plain.client() as client:
        type_in(plain, "settings")
        restart(plain)
        assert {name: client.config_get(name)[name] for name in DURABLE} == DURABLE


@pytest.mark.parametrize("block", ["keep, without aclfile", "keep, with aclfile"])
def test_the_user_lasts(plain: RedisServer, block: str) -> None:
    if block.endswith("with aclfile"):
        users = plain.directory / "users.acl"
        users.touch()
        plain.options["aclfile"] = str(users)
    with plain, plain.client() as client:
        type_in(plain, "user")
        type_in(plain, block)
        before = rights(client)
        restart(plain)
        assert rights(client) == before
        assert {"+evalsha", "+script|load", "~policyd:*"} <= before


def test_the_user_may_do_what_every_command_needs(plain: RedisServer, tmp_path: pathlib.Path) -> None:
    """The daemon, and each command beside it, with no other right than those that the manual names."""
    with plain:
        type_in(plain, "settings")
        type_in(plain, "user")
        settings = {
            "backend": "redis",
            "redis_config": {"url": plain.url, "username": "policyd", "password": PASSWORD},
            "limits": [[1, 3600]],
            "report_limits": [3600],
        }
        with running(tmp_path, **settings) as daemon, Client(daemon.address) as client:
            answers = [client.ask(**mail("alice", recipient=f"{number}@example.org")) for number in range(2)]
            assert answers[0] == "dunno"
            assert answers[1] != "dunno"
            status = json.loads(run(daemon.path, "status", "--json"))
            assert status["store"]["reachable"] is True
            assert status["store"]["error"] is None
            assert status["store"]["entries"] == 1
            # Who was refused stands in the database once the daemon has written it, about once a second.
            wait_until(lambda: "alice" in run(daemon.path, "status"), "the refusal in the report")
            assert "100%" in run(daemon.path, "status", "alice")
            assert "alice" in run(daemon.path, "top", "--json")
            run(daemon.path, "history", "alice")
            run(daemon.path, "allow", "alice", "5/1h", "--for", "1h")
            run(daemon.path, "block", "bob", "--for", "1h")
            run(daemon.path, "revoke", "bob")
            run(daemon.path, "reset", "alice")
            assert run(daemon.path, "--clean") == "0 records deleted\n"
            findings = json.loads(run(daemon.path, "doctor", "--json", ends=None))["findings"]
            of_database = [one for one in findings if one["check"].startswith("database")]
            assert [one["severity"] for one in of_database] == ["ok"], of_database


def test_status_without_the_right_to_list_ids(plain: RedisServer, tmp_path: pathlib.Path) -> None:
    """The store works, and status says so: it is not away."""
    with plain, plain.client() as client:
        type_in(plain, "user")
        client.execute_command("ACL", "SETUSER", "policyd", "-scan")
        settings = {"backend": "redis", "redis_config": {"url": plain.url, "username": "policyd", "password": PASSWORD}}
        path = write_configuration(tmp_path, configuration(tmp_path, **settings))
        page = run(path, "status")
        assert "AWAY" not in page
        assert "ids may not be listed" in page
        assert "grant +scan" in page
        store = json.loads(run(path, "status", "--json"))["store"]
        assert (store["reachable"], store["entries"]) == (True, None)
        assert "scan" in store["error"]


def run(path: pathlib.Path, *arguments: str, ends: int | None = 0) -> str:
    """What a command prints; ``ends``: with which status, None: any."""
    done = call(path, *arguments)
    assert ends is None or done.returncode == ends, (arguments, done.stdout, done.stderr)
    return done.stdout
