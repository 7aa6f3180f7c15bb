"""Guessing of passwords is slowed down, and keeps nobody else out."""

from __future__ import annotations

import pytest

from policyd_rate_limit.web import guessing as module
from policyd_rate_limit.web.guessing import FREE_GUESSES, FREE_GUESSES_OF_PLACE, LONGEST_PAUSE, Guessing
from policyd_rate_limit.web.visitors import place_of
from support.web_site import PASSWORD, Clock, World


def test_a_place_that_guesses_an_account_waits_longer_and_longer() -> None:
    clock = Clock()
    guessing = Guessing(clock)
    pauses = []
    for _ in range(FREE_GUESSES + 12):
        guessing.begin("anna", "192.0.2.1")
        pauses.append(guessing.pause("anna", "192.0.2.1"))
        clock.now += pauses[-1]
        assert guessing.pause("anna", "192.0.2.1") == 0
    assert pauses[: FREE_GUESSES - 1] == [0] * (FREE_GUESSES - 1)
    assert pauses[FREE_GUESSES - 1 : FREE_GUESSES + 2] == [2, 4, 8]
    assert pauses[-1] == LONGEST_PAUSE


def test_nobody_else_waits() -> None:
    guessing = Guessing(Clock())
    for _ in range(FREE_GUESSES_OF_PLACE - 1):
        guessing.begin("anna", "192.0.2.1")
    assert guessing.pause("anna", "192.0.2.2") == 0
    assert guessing.pause("bert", "192.0.2.1") == 0


def test_one_password_for_many_accounts_is_guessing_too() -> None:
    guessing = Guessing(Clock())
    for number in range(FREE_GUESSES_OF_PLACE):
        guessing.begin(f"user{number}", "192.0.2.1")
    assert guessing.pause("anna", "192.0.2.1") > 0
    assert guessing.pause("anna", "192.0.2.2") == 0


def test_who_knows_one_password_guesses_no_faster() -> None:
    guessing = Guessing(Clock())
    for _ in range(FREE_GUESSES_OF_PLACE):
        guessing.begin("anna", "192.0.2.1")
        guessing.begin("mallory", "192.0.2.1")
        guessing.right("mallory", "192.0.2.1")
    assert guessing.pause("bert", "192.0.2.1") > 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 10)
    guessing = Guessing(Clock())
    for number in range(50):
        guessing.begin("anna", f"192.0.2.{number}")
    assert len(guessing._of_pair) == len(guessing._of_place) == 10


def test_an_ipv6_network_is_one_place() -> None:
    assert place_of("2001:db8::1") == place_of("2001:db8::ffff:1") != place_of("2001:db8:0:1::1")
    assert place_of("192.0.2.1") != place_of("192.0.2.2")
    assert place_of("local") == "local"


def test_at_the_login(world: World) -> None:
    world.add("anna")
    for name in ("anna", "nobody"):
        browser = world.browser()
        statuses = [
            browser.post("/login", data={"name": name, "password": "a wrong password"}).status_code
            for _ in range(FREE_GUESSES + 1)
        ]
        assert statuses == [403] * FREE_GUESSES + [429]
    kept_out = world.browser().post("/login", data={"name": "anna", "password": PASSWORD})
    assert (kept_out.status_code, kept_out.headers["retry-after"]) == (429, "3")
    world.clock.now += 3
    world.logged_in("anna")
