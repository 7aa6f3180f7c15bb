"""Dovecot asks whether somebody may log in, and blocks answer."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Actor, Override
from policyd_rate_limit.web.blocks import FRESH_SECONDS, STALE_SECONDS
from policyd_rate_limit.web.changes import BLOCK
from support.web_site import URL, World, program

PATH = "/dovecot/auth-policy"
RULES = {
    "person": {"key": "sasl_username", "limits": ["100/1h"]},
    "trial": {"key": "sasl_username", "limits": ["10/1h"], "shadow": True},
}


def put(world: World, *keys: str, limits: Any = BLOCK, seconds: int = 3600) -> None:
    """Overrides of ``keys``."""
    with world.site.open_desk() as desk:
        for key in keys:
            desk.store.set_override(Override(key, limits, desk.store.now() + seconds), Actor("anna", "here"))


def asked(client: TestClient, login: str) -> int:
    """What Dovecot is told about ``login``."""
    answer = client.post(PATH, params={"command": "allow"}, json={"login": login, "remote": "192.0.2.1"})
    assert answer.status_code == 200, answer.text
    status: int = answer.json()["status"]
    return status


def test_whoever_is_blocked_is_kept_out_and_nobody_else(world: World) -> None:
    world.settings = Settings(sqlite_config=world.settings.sqlite_config, rules=RULES)
    client = program(world, "dovecot")
    put(world, "user:alice", "person|user:bob@xn--bcher-kva.example", "user:ünal")
    put(world, "trial|user:carol", "sender:dave", "client:192.0.2.1", "person|sasl_domain:example.org")
    put(world, "user:erin", limits=(Limit(1, 60),))
    for blocked in ("alice", "ALICE", "bob@bücher.example", "Bob@BÜCHER.example", "Ünal"):
        assert asked(client, blocked) == -1, blocked
    for other in ("carol", "dave", "erin", "alice@example.org", "192.0.2.1", "", "x" * 5000, "user:alice"):
        assert asked(client, other) == 0, other


def test_a_block_holds_within_two_seconds_and_ends(world: World) -> None:
    client = program(world, "dovecot")
    assert asked(client, "alice") == 0
    put(world, "user:alice", seconds=100)
    world.clock.now += FRESH_SECONDS
    assert asked(client, "alice") == -1
    (world.path.parent / "db.sqlite3").rename(world.path.parent / "away")
    (world.path.parent / "db.sqlite3").mkdir()
    world.clock.now += 90
    assert asked(client, "alice") == -1, "while the database is away, what was known counts"
    world.clock.now += 20
    assert asked(client, "alice") == 0
    world.clock.now += STALE_SECONDS
    answer = client.post(PATH, params={"command": "allow"}, json={"login": "alice"})
    assert answer.status_code == 503, "auth_policy_reject_on_fail then says what is to become of it"


def test_what_makes_no_sense(world: World) -> None:
    client = program(world, "dovecot")
    for params, body, status in (
        ({"command": "report"}, b'{"login": "alice", "success": true}', 200),
        ({"command": "other"}, b'{"login": "alice"}', 400),
        ({}, b'{"login": "alice"}', 400),
        ({"command": "allow"}, b"", 400),
        ({"command": "allow"}, b"[" * 5000, 400),
        ({"command": "allow"}, b"[]", 422),
        ({"command": "allow"}, b'{"login": 1}', 422),
    ):
        assert client.post(PATH, params=params, content=body).status_code == status, (params, body)
    assert client.get(PATH).status_code == 405


@pytest.mark.parametrize("role", ["view", "operate"])
def test_no_other_token_asks(world: World, role: str) -> None:
    assert program(world, role).post(PATH, params={"command": "allow"}, json={"login": "a"}).status_code == 403
    anybody = TestClient(world.app, base_url=URL)
    assert anybody.post(PATH, params={"command": "allow"}, json={"login": "a"}).status_code == 401
