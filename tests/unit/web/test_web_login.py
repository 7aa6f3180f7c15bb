"""Logging in and out, and how long that lasts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest

from policyd_rate_limit.web import checks
from policyd_rate_limit.web.checks import PasswordChecks
from policyd_rate_limit.web.passwords import USUAL, Cost, hash_password, read_hash
from policyd_rate_limit.web.sessions import ABSOLUTE_SECONDS, IDLE_SECONDS, MOST_OF_ONE
from support.web_site import CHEAP, PASSWORD, URL, World

COOKIE = "__Host-session"


def test_from_login_to_logout(world: World) -> None:
    world.add("anna")
    browser = world.browser()
    assert browser.get("/").headers["location"] == "/login"
    answer = browser.post("/login", data={"name": "anna", "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly",
        "path=/",
        "samesite=strict",
        "secure",
    }
    page = browser.get("/")
    assert page.status_code == 200
    token = form_token(page.text)
    stolen = browser.cookies[COOKIE]
    assert browser.post("/logout", data={"form_token": token}).headers["location"] == "/login"
    browser.cookies.set(COOKIE, stolen, domain="limits.example.org")
    assert browser.get("/").status_code == 303


def test_through_a_tunnel_the_site_is_localhost(world: World) -> None:
    world.add("anna")
    browser = world.browser("http://localhost:8080")
    answer = browser.post("/login", data={"name": "anna", "password": PASSWORD})
    assert answer.status_code == 303


def test_the_id_of_a_session_is_not_the_one_from_before_the_login(world: World) -> None:
    world.add("anna")
    world.add("mallory")
    browser = world.browser()
    fixed = world.logged_in("mallory").cookies[COOKIE]
    browser.cookies.set(COOKIE, fixed, domain="limits.example.org")
    answer = browser.post("/login", data={"name": "anna", "password": PASSWORD})
    assert answer.status_code == 303
    begun = re.match(f"{COOKIE}=([^;]+)", answer.headers["set-cookie"])
    assert begun is not None
    assert begun[1] != fixed
    other = world.browser()
    other.cookies.set(COOKIE, fixed, domain="limits.example.org")
    assert other.get("/").status_code == 303, "the session from before has ended"
    invented = world.browser()
    invented.cookies.set(COOKIE, "an id that somebody has chosen", domain="limits.example.org")
    assert invented.get("/").status_code == 303


def test_idle_sessions_and_old_ones_end(world: World) -> None:
    world.add("anna")
    browser = world.logged_in("anna")
    world.clock.now += IDLE_SECONDS - 1
    assert browser.get("/").status_code == 200
    world.clock.now += IDLE_SECONDS
    assert browser.get("/").status_code == 303
    browser = world.logged_in("anna")
    for _ in range(ABSOLUTE_SECONDS // (IDLE_SECONDS - 60) + 1):
        world.clock.now += IDLE_SECONDS - 60
        last = browser.get("/login").status_code
    assert last == 200, "it is the form again, and no redirect to the first page"


def test_a_change_of_password_role_or_domains_ends_sessions(world: World) -> None:
    changes: tuple[Callable[[], None], ...] = (
        lambda: world.add("anna", password="another password of hers"),
        lambda: world.add("anna", "view"),
        lambda: world.add("anna", "view", "example.org"),
        lambda: world.put(world.accounts._replace(accounts={})),
    )
    for change in changes:
        world.add("anna")
        browser = world.logged_in("anna")
        assert browser.get("/").status_code == 200
        change()
        assert browser.get("/").status_code == 303


def test_an_account_has_so_many_sessions_and_ends_nobody_elses(world: World) -> None:
    world.add("anna")
    world.add("bert")
    bert = world.logged_in("bert")
    browsers = [world.logged_in("anna") for _ in range(MOST_OF_ONE + 1)]
    assert [browser.get("/").status_code for browser in browsers] == [303] + [200] * MOST_OF_ONE
    assert bert.get("/").status_code == 200


def test_a_file_that_others_may_read_lets_nobody_in(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.add("anna")
    browser = world.logged_in("anna")
    world.path.chmod(0o644)
    world.clock.now += 2
    assert browser.get("/").status_code == 303
    assert "found mode 0644" in caplog.text
    world.path.chmod(0o640)
    world.clock.now += 2
    world.logged_in("anna")


def test_no_account_is_told_apart_by_what_is_answered(world: World) -> None:
    world.add("anna")
    world.add("proxied", password=None)
    answers = set()
    for name in ("anna", "proxied", "nobody"):
        answer = world.browser().post("/login", data={"name": name, "password": "wrong, and long enough"})
        answers.add((answer.status_code, answer.text, tuple(sorted(answer.headers.items()))))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 403


def test_a_name_that_there_is_not_takes_the_same_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("anna")
    world.add("proxied", password=None)
    checked: list[Cost] = []

    def check(_: str, kept: str) -> bool:
        checked.append(read_hash(kept)[0])
        return True

    monkeypatch.setattr(checks, "is_password", check)
    for name in ("proxied", "nobody", "x" * 100, ""):
        answer = world.browser().post("/login", data={"name": name, "password": "whatever it is"})
        assert answer.status_code == 403, "whatever the check says"
    world.logged_in("anna", "whatever it is")
    assert checked == [CHEAP] * 5
    assert inspect.signature(PasswordChecks).parameters["cost"].default == USUAL
    assert inspect.signature(hash_password).parameters["cost"].default == USUAL


def test_a_form_from_another_origin_logs_nobody_in(world: World) -> None:
    world.add("anna")
    for headers in (
        {"origin": "https://evil.example.org"},
        {"origin": "null"},
        {"origin": "http://limits.example.org"},
        {"origin": f"{URL}.evil.example.org"},
        {"origin": URL, "sec-fetch-site": "cross-site"},
        {"origin": URL, "sec-fetch-site": "same-site"},
    ):
        answer = world.browser().post("/login", data={"name": "anna", "password": PASSWORD}, headers=headers)
        assert answer.status_code == 403, headers
        assert "set-cookie" not in answer.headers


def form_token(page: str) -> str:
    """The token of the forms of ``page``."""
    found = re.search('name="form_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]
