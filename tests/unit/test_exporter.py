"""The little HTTP that a scraper needs, within its bounds."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from policyd_rate_limit.observe import exporter as exporter_module
from policyd_rate_limit.observe.exporter import MOST_BYTES, MOST_CONNECTIONS, Exporter
from policyd_rate_limit.observe.health import Health
from support.wait import wait_until

PATIENCE = 20.0


class ScrapedExporter:
    """An exporter with one gauge, on a socket of its own."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.health = Health(True, "ok")
        self.asked_by: set[str] = set()
        registry = CollectorRegistry()
        self.gauge = Gauge("a_gauge", "Something.", registry=registry)
        self.exporter = Exporter(listener, registry, self._is_well)
        self.exporter.start()

    def _is_well(self) -> Health:
        self.asked_by.add(threading.current_thread().name)
        return self.health

    def ask(self, target: str, method: str = "GET", **fields: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        connection = http.client.HTTPConnection(self.address[0], self.address[1], timeout=PATIENCE)
        try:
            connection.request(method, target, headers=fields)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read().decode()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)


def ended(client: socket.socket) -> bool:
    """Whether the other end closes the connection, without a word."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.fixture
def scraped() -> Iterator[ScrapedExporter]:
    scraped = ScrapedExporter()
    yield scraped
    scraped.exporter.stop()
    assert not scraped.exporter._thread.is_alive()


def test_metrics_as_text_and_as_openmetrics(scraped: ScrapedExporter) -> None:
    scraped.gauge.set(7)
    status, kind, body = scraped.ask("/metrics?name=x")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert [sample.value for family in text_string_to_metric_families(body) for sample in family.samples] == [7.0]
    status, kind, body = scraped.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
    families = parse_openmetrics(body)  # type: ignore[no-untyped-call]  # the package has no types there
    assert [sample.value for family in families for sample in family.samples] == [7.0]


def test_health(scraped: ScrapedExporter) -> None:
    assert scraped.ask("/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    scraped.health = Health(False, "the store's thread is stuck")
    assert scraped.ask("/healthz")[::2] == (503, "the store's thread is stuck\n")
    assert scraped.asked_by == {"metrics"}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 405), ("DELETE", "/healthz", 405)],
)
def test_anything_else_is_refused(scraped: ScrapedExporter, method: str, target: str, status: int) -> None:
    assert scraped.ask(target, method)[0] == status


def test_head_has_no_body(scraped: ScrapedExporter) -> None:
    status, _, body = scraped.ask("/healthz", "HEAD")
    assert (status, body) == (200, "")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics SPDY/3\r\n\r\n", b"400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"request=smtpd_access_policy\nprotocol_state=RCPT\n\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (2 * MOST_BYTES), b"431"),
        (b"\xff\x00\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request(scraped: ScrapedExporter, data: bytes, status: bytes) -> None:
    with scraped.connect() as client:
        client.sendall(data)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 " + status)
    assert scraped.ask("/healthz")[0] == 200


def test_silent_connections_keep_nobody_from_an_answer(scraped: ScrapedExporter) -> None:
    silent = [scraped.connect() for _ in range(2 * MOST_CONNECTIONS)]
    for _ in range(2 * MOST_CONNECTIONS):
        assert scraped.ask("/healthz")[0] == 200
        silent.append(scraped.connect())
    assert len(scraped.exporter._connections) <= MOST_CONNECTIONS
    assert ended(silent[0])
    for client in silent:
        client.close()
    assert scraped.ask("/healthz")[0] == 200  # it was accepted after all others
    wait_until(lambda: not scraped.exporter._connections, "all have gone")


def test_the_longest_silent_of_whoever_has_most_is_closed(
    scraped: ScrapedExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = iter(["few", *["many"] * (MOST_CONNECTIONS - 1), "new", "few"])
    monkeypatch.setattr(exporter_module, "peer_of", lambda _socket: next(peers))
    clients = []
    for _ in range(MOST_CONNECTIONS):
        clients.append(scraped.connect())
        wait_until(lambda: len(scraped.exporter._connections) == len(clients), "it is connected")
    for victim in clients[1:3]:
        clients.append(scraped.connect())
        assert ended(victim)
    assert len(scraped.exporter._connections) == MOST_CONNECTIONS
    for client in clients:
        client.close()
    wait_until(lambda: not scraped.exporter._connections, "all have gone")


def test_whoever_sends_nothing_loses_his_connection(scraped: ScrapedExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_module, "REQUEST_SECONDS", 0.05)
    with scraped.connect() as silent:
        assert ended(silent)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/plain;version=x", "text/plain"),
        ("application/openmetrics-text; version=1..0", "application/openmetrics-text"),
        ("application/openmetrics-text; version=", "application/openmetrics-text"),
        ("application/openmetrics-text;version=99999999999999999999.1;escaping=x", "application/openmetrics-text"),
        ("application/openmetrics-text;q=x", "application/openmetrics-text"),
        ("application/openmetrics-text;q=nan, text/plain;q=0.5", "application/openmetrics-text"),
        ("application/openmetrics-text;q=0", "text/plain"),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "application/openm"),
        (";q=x", "text/plain"),
        (";;;,,,==", "text/plain"),
        ("\xe9;q=\xff", "text/plain"),
        ("a," * 3000, "text/plain"),
        ("text/plain; escaping=allow-utf-8; version=1.0.0", "text/plain"),
    ],
)
def test_whatever_is_accepted_there_is_an_answer(
    scraped: ScrapedExporter, accept: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    scraped.gauge.set(7)
    status, found, body = scraped.ask("/metrics", Accept=accept)
    assert status == 200
    assert found.startswith(kind)
    assert "a_gauge 7.0" in body
    assert not caplog.records


def test_who_goes_away_is_nobodys_problem(scraped: ScrapedExporter, caplog: pytest.LogCaptureFixture) -> None:
    for data in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n"):
        client = scraped.connect()
        client.sendall(data)
        client.close()
    assert scraped.ask("/healthz")[0] == 200
    wait_until(lambda: not scraped.exporter._connections, "all are gone")
    assert not caplog.records


def test_a_fault_of_ours_is_logged_and_ends_nothing(scraped: ScrapedExporter, caplog: pytest.LogCaptureFixture) -> None:
    scraped.gauge.set_function(lambda: 1 / 0)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        scraped.ask("/metrics")
    assert scraped.ask("/healthz")[0] == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_it_stops_although_somebody_is_connected(scraped: ScrapedExporter) -> None:
    with scraped.connect() as client:
        wait_until(lambda: len(scraped.exporter._connections) == 1, "it is connected")
        scraped.exporter.stop()
        assert not scraped.exporter._thread.is_alive()
        assert ended(client)
