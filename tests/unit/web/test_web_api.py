"""The API: what it answers, to whom, and that its description holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth
from starlette.testclient import TestClient

from policyd_rate_limit.domain.limits import LONGEST_OVERRIDE
from policyd_rate_limit.web.api import openapi
from policyd_rate_limit.web.api.operations import OPERATIONS
from policyd_rate_limit.web.security import MOST_BODY
from support.web_site import URL, World, program

API = "/api/v1"
EXAMPLES = 5  # of each operation, what is allowed and what is not
EXCLUDED = [ignored_auth]


def test_from_block_to_revoke(world: World) -> None:
    client = program(world)
    blocked = client.post(f"{API}/block", json={"id": "alice", "seconds": 3600, "note": "stolen"})
    assert blocked.status_code == 200, blocked.text
    assert blocked.json()["overrides"][0]["limits"] == [[0, 1]]
    (standing,) = client.get(f"{API}/status/alice").json()["keys"]
    assert (standing["key"], standing["source"], standing["override"]["note"]) == ("user:alice", "override", "stolen")
    assert [one["key"] for one in client.get(f"{API}/status").json()["overrides"]] == ["user:alice"]
    assert client.post(f"{API}/revoke", json={"id": "alice"}).json() == {"id": "alice", "revoked": ["user:alice"]}
    raised = client.post(f"{API}/allow", json={"id": "alice", "limits": [[5000, 86400]], "seconds": 60})
    assert raised.json()["overrides"][0]["limits"] == [[5000, 86400]]
    assert client.post(f"{API}/reset", json={"id": "alice"}).json() == {
        "id": "alice",
        "reset": [{"key": "user:alice", "mails": 0}],
    }
    assert client.get(f"{API}/history/alice", params={"by": "day"}).json()["buckets"] == []
    assert client.get(f"{API}/top").json()["senders"] == []


def test_every_change_is_in_the_audit_trail(world: World) -> None:
    client = program(world)
    client.post(f"{API}/block", json={"id": "alice", "seconds": 3600, "note": "stolen"})
    client.post(f"{API}/revoke", json={"id": "alice", "note": "has a new password"})
    client.post(f"{API}/reset", json={"id": "alice", "note": "and may send again"})
    client.post(f"{API}/allow", json={"id": "bob@example.org", "limits": [[5, 60]], "seconds": 60, "note": "ticket"})
    told = client.get(f"{API}/audit").json()["entries"]
    assert [(one["who"], one["action"], one["subject"], one["note"]) for one in told] == [
        ("token t0", "allow", "user:bob@example.org", "ticket"),
        ("token t0", "reset", "user:alice", "and may send again"),
        ("token t0", "revoke", "user:alice", "has a new password"),
        ("token t0", "block", "user:alice", "stolen"),
    ]
    assert {one["from_where"] for one in told} == {"api testclient"}
    of_alice = client.get(f"{API}/audit", params={"id": "alice", "number": 1, "before": told[1]["number"]}).json()
    assert of_alice["entries"] == [told[2]]
    assert client.get(f"{API}/audit", params={"since": told[0]["date"] + 100}).json()["entries"] == []
    local = program(world, "view", "example.org")
    assert local.get(f"{API}/audit").status_code == 403
    assert local.get(f"{API}/audit", params={"id": "alice"}).status_code == 403
    assert local.get(f"{API}/audit", params={"id": "bob@example.org"}).json()["entries"] == [told[0]]


def test_an_id_may_hold_what_a_path_may_not(world: World) -> None:
    client = program(world)
    for name in ("user:a/b", "user:a?b#c", "user:..", "user:ä ö", "user:a\nb", "user:\\"):
        answer = client.get(f"{API}/status/{quoted(name)}")
        assert answer.status_code == 200, name
        assert answer.json()["keys"][0]["key"] == name, name


def quoted(name: str) -> str:
    """``name`` in a path."""
    return "".join(f"%{byte:02X}" for byte in name.encode())


def test_who_gets_in(world: World) -> None:
    anybody = TestClient(world.app, base_url=URL)
    for headers in (
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer " + "x" * 5000},
        {"authorization": "Basic YW5uYTphbm5h"},
        {"authorization": "Bearer w\xe4"},
    ):
        answer = anybody.get(f"{API}/status/alice", headers={k: v.encode("latin-1") for k, v in headers.items()})
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith("Bearer realm=")
        assert answer.headers["content-type"] == "application/problem+json"
    world.add("anna")
    browser = world.logged_in("anna")
    assert browser.get(f"{API}/status/alice").status_code == 401, "a session of a browser is no token"


def test_a_token_ends(world: World) -> None:
    client = program(world, expires=int(world.clock.now) + 100)
    assert client.get(f"{API}/status/alice").status_code == 200
    world.clock.now += 200
    assert client.get(f"{API}/status/alice").status_code == 401
    client = program(world)
    assert client.get(f"{API}/status/alice").status_code == 200
    world.put(world.accounts._replace(tokens={}))
    assert client.get(f"{API}/status/alice").status_code == 401, "it was revoked, and is replayed"


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("block", {"seconds": 60}),
    ("allow", {"seconds": 60, "limits": [[5000, 60]]}),
    ("revoke", {}),
    ("reset", {}),
]


@pytest.mark.parametrize(("name", "body"), CHANGES)
def test_a_role_reaches_nothing_above_itself(world: World, name: str, body: dict[str, Any]) -> None:
    for role in ("view", "dovecot"):
        answer = program(world, role).post(f"{API}/{name}", json={"id": "alice", **body})
        assert (answer.status_code, answer.json()["status"]) == (403, 403)
    local = program(world, "operate", "example.org")
    for other in ("bob@example.com", "BOB@Example.COM", "user:bob@example.com", "192.0.2.1", "bob"):
        assert local.post(f"{API}/{name}", json={"id": other, **body}).status_code in (403, 404), other
    own = local.post(f"{API}/{name}", json={"id": "alice@example.org", **body})
    assert own.status_code == (200 if name in ("block", "revoke") else 403)


def test_a_token_for_dovecot_sees_nothing(world: World) -> None:
    client = program(world, "dovecot")
    for path in ("status", "status/alice", "top", "history/alice"):
        assert client.get(f"{API}/{path}").status_code == 403


def test_who_is_bound_to_domains_sees_nobody_else(world: World) -> None:
    root, local = program(world), program(world, "view", "example.org")
    for name in ("alice@example.org", "bob@example.com"):
        root.post(f"{API}/block", json={"id": name, "seconds": 60})
    seen = local.get(f"{API}/status")
    assert [one["key"] for one in seen.json()["overrides"]] == ["user:alice@example.org"]
    assert "example.com" not in seen.text
    assert local.get(f"{API}/status/bob@example.com").status_code == 403
    assert local.get(f"{API}/history/bob@example.com").status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "parameter"),
    [
        ({}, 422, "id"),
        ({"id": "alice"}, 422, "seconds"),
        ({"id": "alice", "seconds": "60"}, 422, "seconds"),
        ({"id": "alice", "seconds": True}, 422, "seconds"),
        ({"id": "alice", "seconds": 0}, 422, "seconds"),
        ({"id": "alice", "seconds": 1e300}, 422, "seconds"),
        ({"id": "", "seconds": 60}, 422, "id"),
        ({"id": ["alice"], "seconds": 60}, 422, "id"),
        ({"id": "alice", "seconds": 60, "note": "x" * 1001}, 422, "note"),
        ({"id": "alice", "seconds": 60, "by": "root"}, 422, "by"),
        ({"id": "alice", "seconds": 60, "rule": "none such"}, 404, "id"),
        ({"id": "alice", "seconds": LONGEST_OVERRIDE + 1}, 422, "seconds"),
        ({"id": "example.org", "seconds": 60}, 404, "id"),
        ([], 422, None),
        ("alice", 422, None),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, body: object, status: int, parameter: str | None) -> None:
    answer = program(world).post(f"{API}/block", json=body)
    assert (answer.status_code, answer.json().get("parameter")) == (status, parameter), answer.text


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ([[10, 60], [20, 60]], 409),
        ([[10, 0]], 422),
        ([[-1, 60]], 422),
        ([[10, 60, 1]], 422),
        ([[10.5, 60]], 422),
        (["10/1m"], 422),
        ("10/1m", 422),
        ([[1, second] for second in range(1, 34)], 422),
        ([[1, 10**300]], 422),
    ],
)
def test_limits_that_are_none(world: World, limits: object, status: int) -> None:
    answer = program(world).post(f"{API}/allow", json={"id": "alice", "seconds": 60, "limits": limits})
    assert (answer.status_code, answer.json().get("parameter")) == (status, "limits")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"id": "alice", "id": "bob", "seconds": 60}', 400),
        (b'{"id": "alice", "seconds": NaN}', 400),
        (b"[" * 30_000, 400),
        (b'{"id": "\xff", "seconds": 60}', 400),
        (b'{"id": "\\ud800", "seconds": 60}', 422),
        (b" " * (MOST_BODY + 1), 413),
    ],
)
def test_a_body_that_is_none(world: World, content: bytes, status: int) -> None:
    client = program(world)
    answer = client.post(f"{API}/block", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert client.post(f"{API}/block", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(f"{API}/block", data={"id": "alice", "seconds": "60"}).status_code == 415


def test_other_paths_and_methods_are_told_to_programs(world: World) -> None:
    client = program(world)
    for method, path, status in (
        ("GET", "/none", 404),
        ("GET", "/", 404),
        ("DELETE", "/status", 405),
        ("GET", "/block", 405),
        ("PUT", "/status/alice", 405),
    ):
        answer = client.request(method, API + path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_the_database_is_away(world: World) -> None:
    client = program(world)
    (world.path.parent / "db.sqlite3").mkdir()
    answer = client.get(f"{API}/status/alice")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_every_change_of_the_table_is_guarded_by_a_role() -> None:
    paths = openapi.document()["paths"]
    assert {path.removeprefix("/") for path, methods in paths.items() if "post" in methods} == {
        name for name, _ in CHANGES
    }, "each is in the tests of roles above"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_description_holds(world: World, mode: GenerationMode) -> None:
    """Schemathesis asks what the description allows, and what it does not, and looks at all answers."""
    token = program(world).headers["authorization"]
    headers = {"authorization": token, "host": "limits.example.org"}
    schema = schemathesis.openapi.from_asgi(f"{API}/openapi.json", world.app, headers=headers)
    asked = 0
    described: Iterator[Any] = schema.get_all_operations()
    for found in described:
        operation = found.ok()
        try:
            cases = operation.as_strategy(generation_mode=mode)
        except Unsatisfiable:
            continue

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=cases)
        def ask(case: Any) -> None:
            case.call_and_validate(headers=headers, excluded_checks=EXCLUDED)

        ask()
        asked += 1
    assert asked == len(OPERATIONS)
