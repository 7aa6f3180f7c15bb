"""How the store connects, what it may do there, and what it warns of."""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.storage.administration import Hits, MayNotList, Override
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from storage.hit_rows import row
from storage.redis_stores import SECRET, TIMEOUT, new_store, refused, store_on
from storage.stores import HOUR, admitted, demand
from support.actors import TESTER
from support.daemon import free_port
from support.programs import require
from support.redis_servers import RedisServer


def warnings_of(caplog: pytest.LogCaptureFixture, server: RedisServer, **options: Any) -> list[str]:
    caplog.clear()
    with store_on(server, **options) as store:
        for number in range(3):
            assert admitted(store, demand(f"user:{number}")) == [True]
            store._link.disconnect()
    return [record.getMessage() for record in caplog.records]


def test_what_may_lose_counts_is_told_once(own: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, own) == []
    with own.client() as client:
        client.config_set("appendfsync", "everysec")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        one, two = warnings_of(caplog, own)
        assert "appendfsync is everysec" in one
        assert "maxmemory-policy is allkeys-lru" in two
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", "0")
        (one,) = warnings_of(caplog, own)
        assert "appendonly is off" in one


LEAST_RIGHTS = (
    "~policyd:* +select +time +script|exists +script|load +evalsha +scan "
    "+hget +hmget +hgetall +hkeys +hexists +hset +hsetnx +hdel +get +set +del +exists +type +expire"
)


def test_the_least_rights_that_suffice(own: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """As docs/redis.md names them. What CONFIG would tell may not be asked, and is not missed."""
    with own.client() as client:
        client.execute_command("ACL", "SETUSER", "policyd", "on", f">{SECRET}", "resetchannels", *LEAST_RIGHTS.split())
    options: dict[str, Any] = {"username": "policyd", "password": SECRET, "prefix": "policyd", "db": 1}
    assert warnings_of(caplog, own, **options) == []
    with store_on(own, **options) as store:
        asks = demand("user:b", 9, cost=4, mail="m", settles=True)
        less = demand("user:b", 9, cost=1, mail="m", settles=True)
        assert admitted(store, demand("user:b", 9, mail="m", part="r"), asks, less) == [True] * 3
    for _ in range(10):
        with store_on(own, **options) as store:
            assert admitted(store, demand("user:c", 20)) == [True]
    config = {"url": own.url, **options}
    with (
        store_on(own, **options) as store,
        contextlib.closing(RedisAdministration(config, longest=HOUR, timeout=TIMEOUT)) as administration,
    ):
        administration.set_override(Override("user:b", (), administration.now() + 60), TESTER)
        assert administration.remove_override("user:b", TESTER)
        store.add_hits([Hits("user:b", 60, 1, 1)])
        store.add_history([row("user:b")])
        assert [one.hits for one in administration.hit_history(0)] == [1]
        assert len(administration.audit()) == 2
        store.clean(TIMEOUT)
        administration.forget_hits(administration.hits())
        assert sum(entry.amount for entry in administration.entries(["user:c"], 0)) == 10
        assert administration.reset("user:c", TESTER) == 10
        with own.client() as client:
            client.execute_command("ACL", "SETUSER", "policyd", "-scan")
        with pytest.raises(MayNotList, match="grant \\+scan"):
            list(administration.entries(None, 0))
        with own.client() as client:
            client.execute_command("ACL", "SETUSER", "policyd", "+scan")
        counters = {entry.counter for entry in administration.entries(None, 0)}
        assert "user:b" in counters
        assert "user:c" not in counters
    docs = pathlib.Path(__file__).parents[2] / "docs" / "redis.md"
    assert LEAST_RIGHTS in re.sub(r"\s*\\\n\s*", " ", docs.read_text(encoding="utf-8")).replace("'", "")
    with store_on(own, **{**options, "prefix": "other"}) as store:
        refused(store, "permission|NOPERM")


# Ways to connect


def test_a_wrong_password(tmp_path: pathlib.Path) -> None:
    with RedisServer(tmp_path / "redis", requirepass=f'"{SECRET}"') as server:
        wrong: list[dict[str, Any]] = [{}, {"password": f"not {SECRET}"}, {"username": "nobody", "password": SECRET}]
        for options in wrong:
            with store_on(server, **options) as store:
                refused(store, "NOAUTH|WRONGPASS|[Aa]uthentication|invalid username-password")
        with store_on(server, password=SECRET) as store:
            assert admitted(store, demand()) == [True]
        quoted = "s3cret%2F%23%3F%25"
        with contextlib.closing(new_store({"url": f"redis://:{quoted}@127.0.0.1:{server.port}/0"})) as store:
            assert admitted(store, demand()) == [True]


def test_a_unix_socket(own: RedisServer) -> None:
    config = {"url": f"unix://{own.directory / 'socket'}", "db": 3}
    with contextlib.closing(new_store(config)) as store:
        assert admitted(store, demand(maximum=1), demand(maximum=1)) == [True, False]
    own.kill()
    with contextlib.closing(new_store(config)) as store:
        refused(store, str(own.directory / "socket"))


def test_tls(tmp_path: pathlib.Path) -> None:
    """Only with the certificate of who is asked for."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [
            require("openssl"),
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            *subject,
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    tls = {"tls_port": str(port), "tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_auth_clients": "no"}
    with RedisServer(tmp_path / "redis", **tls):
        url = f"rediss://localhost:{port}/0"
        with contextlib.closing(new_store({"url": url, "ssl_ca_certs": str(certificate)})) as store:
            assert admitted(store, demand(maximum=1), demand(maximum=1)) == [True, False]
        with contextlib.closing(new_store({"url": url})) as store:
            refused(store, "certificate")
        address = url.replace("localhost", "127.0.0.1")
        with contextlib.closing(new_store({"url": address, "ssl_ca_certs": str(certificate)})) as store:
            refused(store, "certificate")
        with contextlib.closing(new_store({"url": address, "ssl_cert_reqs": "none"})) as store:
            assert admitted(store, demand("user:bob")) == [True]


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"url": "http://localhost"}, "url"),
        ({"url": f"redis://:{SECRET}@localhost"}, "url"),
        ({"url": "redis://localhost", "port": "x"}, "url"),
        ({"sentinels": [["localhost"]], "service_name": "x"}, "sentinels"),
        ({"sentinels": "localhost:26379", "service_name": "x"}, "sentinels"),
        ({"sentinels": [["localhost", 26379]]}, "service_name"),
        ({"service_name": "x"}, "service_name"),
        ({"cluster": True, "url": "redis://localhost/1"}, "cluster"),
        ({"cluster": True, "sentinels": [["localhost", 1]], "service_name": "x"}, "cluster"),
        ({"cluster": True, "nodes": [[1]]}, "nodes"),
        ({"pasword": SECRET}, "pasword"),
        ({"ssl_ca_certs": "/x"}, "ssl_ca_certs"),
    ],
)
def test_a_wrong_option_is_named_and_its_value_is_not(config: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as failure:
        new_store(config)
    (problem,) = failure.value.problems
    assert problem.setting == f"redis_config.{setting}"
    assert "s3cret" not in str(problem)


def test_without_the_driver() -> None:
    """One line that says what installs it."""
    program = """
import sys
sys.modules["redis"] = None
from policyd_rate_limit.errors import ConfigError
try:
    import policyd_rate_limit.storage.redis.store
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'policyd-rate-limit[redis]'" in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_driver_is_not_loaded_for_other_databases() -> None:
    program = "import sys, policyd_rate_limit.daemon.start; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
