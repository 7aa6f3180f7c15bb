"""The metrics and the health of a real daemon, and that documentation, dashboard and alerts speak of the same ones."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import pathlib
import re
import socket
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.daemon import Client, Daemon, connect, free_port, mail
from support.wait import wait_until

ROOT = pathlib.Path(__file__).parents[2]
PREFIX = "policyd_rate_limit_"
PATIENCE = 20.0

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, PATIENCE)


def get(address: Any, target: str) -> tuple[int, str]:
    """Status and body."""
    if isinstance(address, str):
        connection: http.client.HTTPConnection = _UnixConnection(address)
    else:
        connection = http.client.HTTPConnection(address[0], address[1], timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read().decode()


def scrape(daemon: Daemon) -> Samples:
    """All samples by name and labels."""
    status, body = get(daemon.settings["metrics_address"], "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[PREFIX + name, tuple(sorted(labels.items()))]


def metered(directory: pathlib.Path, **settings: Any) -> Daemon:
    return Daemon(directory, **{"metrics_address": ["127.0.0.1", free_port()], **settings})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """For the tests that only read, or count what they add."""
    of_robots = {"sasl_username": "robot", "policy_context": "robots"}
    rules = {"robots": {"key": "sasl_username", "match": of_robots, "limits": "2/1h", "warn": 50, "block": "1h"}}
    settings = {"limits": [[3, 60]], "limits_by_id": {"free": [], "tight": [[0, 7]]}, "limit_by_sender": True}
    with metered(tmp_path_factory.mktemp("daemon"), rules=rules, **settings) as daemon:
        with Client(daemon.address) as client:
            client.ask(**mail("tight"))  # a limit has a series once it has refused something
            for _ in range(3):  # and a rule once it has warned of something, and blocked somebody
                client.ask(**mail("robot", policy_context="robots"))
        yield daemon


def test_what_is_asked_is_counted(daemon: Daemon) -> None:
    before = scrape(daemon)
    with Client(daemon.address) as client:
        for _ in range(5):
            client.ask(**mail("alice"))
        client.ask(**mail("free"))
        client.ask(**mail("tight"))
        client.ask(**mail("alice", sasl_username="", sender="bob@example.org"))
        client.ask(**mail("alice", protocol_state="MAIL"))
        client.ask(**mail("alice", sasl_username="", sender=""))
        during = scrape(daemon)
    after = scrape(daemon)

    def more(name: str, **labels: str) -> float:
        key = PREFIX + name, tuple(sorted(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert more("decisions_total", kind="user", verdict="admitted") == 3
    assert more("decisions_total", kind="user", verdict="refused") == 3
    assert more("decisions_total", kind="user", verdict="not-limited") == 1
    assert more("decisions_total", kind="sender", verdict="admitted") == 1
    assert more("decisions_total", kind="none", verdict="not-counted") == 1
    assert more("decisions_total", kind="none", verdict="not-limited") == 1
    assert more("refusals_total", limit="3/1m") == 2
    assert more("refusals_total", limit="0/7s") == 1
    assert more("answer_seconds_count") == 10
    assert more("answer_seconds_bucket", le="+Inf") == 10
    assert 0 < more("answer_seconds_sum") < 10 * PATIENCE
    assert more("batch_demands_sum") == more("batch_demands_count") == 7  # one after the other
    assert value(during, "connections") == 1
    assert more("connections_accepted_total") >= 1
    assert value(after, "ids") >= 2
    assert value(after, "store_up", backend="SQLite") == 1
    assert value(after, "journal_size_bytes") > 1 << 20
    assert after["process_resident_memory_bytes", ()] > 1 << 20


def test_bad_clients_are_counted_by_kind(daemon: Daemon) -> None:
    before = scrape(daemon)
    with connect(daemon.address) as client:
        client.sendall(b"request=something_else\n\n")
        assert client.recv(1) == b""
    after = scrape(daemon)
    assert value(after, "bad_clients_total", kind="protocol") - value(before, "bad_clients_total", kind="protocol") == 1


def test_no_id_is_in_the_metrics(daemon: Daemon) -> None:
    before = scrape(daemon)
    with Client(daemon.address) as client:
        for number in range(500):
            secret = f'secret{number}\udcff"}} 1\\'
            client.ask(**mail(secret, client_address=f"2001:db8::{number:x}", sender=f"<{secret}>", helo_name=secret))
    samples = scrape(daemon)
    assert set(samples) == set(before)
    assert "secret" not in get(daemon.settings["metrics_address"], "/metrics")[1]


def test_health_says_that_the_database_is_away_and_that_it_is_back(tmp_path: pathlib.Path) -> None:
    with metered(tmp_path, db_timeout=0.1) as daemon, Client(daemon.address) as client:
        assert client.ask(**mail("alice")) == "dunno"
        address = daemon.settings["metrics_address"]
        assert get(address, "/healthz") == (200, "ok\n")
        with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert client.ask(**mail("alice")) == "dunno"
            status, text = get(address, "/healthz")
            assert status == 200
            assert re.fullmatch(r"ok, but the database has been away for \d+ s\n", text)
            samples = scrape(daemon)
            assert value(samples, "store_up", backend="SQLite") == 0
            assert value(samples, "store_away_seconds") > 0
            assert value(samples, "journal_batches") == 1
            assert 0 < value(samples, "journal_bytes") < value(samples, "journal_size_bytes")
            other.execute("ROLLBACK")
        wait_until(lambda: get(address, "/healthz") == (200, "ok\n"), "the database is back")
        samples = scrape(daemon)
        assert value(samples, "journal_batches") == value(samples, "journal_bytes") == 0


def test_a_unix_socket_and_scrapers_that_hang(tmp_path: pathlib.Path) -> None:
    """They hold up nobody; the file is not for everybody, and goes with the daemon."""
    path = tmp_path / "run" / "metrics"
    with metered(tmp_path, metrics_address=str(path)) as daemon:
        assert path.stat().st_mode & 0o777 == 0o660
        with contextlib.ExitStack() as hanging:
            for number in range(30):
                with contextlib.suppress(ConnectionError):
                    scraper = hanging.enter_context(connect(str(path)))
                    scraper.sendall(b"GET /metrics HTTP/1.1\r\n"[: number or None])
            with Client(daemon.address) as client:
                assert client.ask(**mail("alice")) == "dunno"
            assert daemon.stop() == 0
        assert not path.exists()


def test_metrics_are_still_there_while_the_daemon_stops(tmp_path: pathlib.Path) -> None:
    with metered(tmp_path) as daemon:
        assert get(daemon.settings["metrics_address"], "/healthz")[0] == 200
        assert daemon.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            get(daemon.settings["metrics_address"], "/healthz")
        assert "Traceback" not in daemon.log_text()


def test_an_address_that_is_taken_is_told(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        daemon = metered(tmp_path, metrics_address=[host, port])
        daemon.start(wait=False)
        assert daemon.process.wait(PATIENCE) == 6
        assert f"{host}:{port}" in daemon.log_text()
        assert "Traceback" not in daemon.log_text()


# --- What speaks of them


@functools.cache
def documented() -> dict[str, set[str]]:
    """The metrics of docs/monitoring.md, each with its labels."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE)
    return {name: set(re.findall("`([a-z]+)`", labels)) for name, kind, labels in rows if kind}


def test_every_metric_is_documented_and_no_other(daemon: Daemon) -> None:
    _, body = get(daemon.settings["metrics_address"], "/metrics")
    found: dict[str, set[str]] = {}
    kinds: dict[str, str] = {}
    for family in text_string_to_metric_families(body):
        if family.name.startswith(PREFIX):
            name = family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
            found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
            kinds[name] = family.type
    assert found == documented()
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \|", text, re.MULTILINE)) == kinds


def expressions() -> list[Any]:
    """All queries of the dashboard, the alerts and the documentation."""
    dashboard = json.loads((ROOT / "packaging" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    alerts = yaml.safe_load((ROOT / "packaging" / "prometheus-alerts.yaml").read_text(encoding="utf-8"))
    manual = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    found = {f"{panel['title']}": [t["expr"] for t in panel["targets"]] for panel in dashboard["panels"]}
    found |= {f"${one['name']}": [one["query"]["query"]] for one in dashboard["templating"]["list"][1:]}
    found |= {rule["alert"]: [rule["expr"]] for group in alerts["groups"] for rule in group["rules"]}
    questions = manual[manual.index("| question |") :]
    found |= {
        question: [query] for question, query in re.findall(r"^\| ([^|]+\?) \| `([^`]+)`", questions, re.MULTILINE)
    }
    assert len(found) > 30
    return [pytest.param(query, id=title) for title, queries in found.items() for query in queries]


@pytest.mark.parametrize("query", expressions())
def test_every_query_names_what_there_is(daemon: Daemon, query: str) -> None:
    labels_of: dict[str, set[str]] = {"up": {"job", "instance"}}
    for name, labels in scrape(daemon):
        labels_of.setdefault(name, {"job", "instance"}).update(key for key, _ in labels)
    words = set(re.findall(r"\b(?:policyd_rate_limit|process)_\w+|\bup\b", query))
    assert words
    assert words <= set(labels_of)
    known = set().union(*(labels_of[word] for word in words))
    matched = [label for inside in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)(?==)", inside)]
    grouped = [label for inside in re.findall(r"by \(([^)]*)\)", query) for label in re.split(", *", inside)]
    assert set(matched) | set(grouped) <= known
    for label in ("verdict", "kind"):
        for values in re.findall(rf'{label}=~?"([^"]*)"', query):
            there = {dict(labels).get(label) for name, labels in scrape(daemon) if name in words}
            assert set(values.split("|")) <= there
    assert query.count("(") == query.count(")")


def test_every_metric_is_on_the_dashboard() -> None:
    text = (ROOT / "packaging" / "grafana-dashboard.json").read_text(encoding="utf-8")
    assert [name for name in documented() if PREFIX + name not in text] == []


def test_the_alerts_say_what_is_to_be_known() -> None:
    alerts = yaml.safe_load((ROOT / "packaging" / "prometheus-alerts.yaml").read_text(encoding="utf-8"))
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads((ROOT / "packaging" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
