"""What every answer carries, what no request may be, and forms that other sites send."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from policyd_rate_limit.web import security
from policyd_rate_limit.web.access import changed, seen
from policyd_rate_limit.web.origins import FORM_TOKEN
from policyd_rate_limit.web.security import HEADERS, MOST_BODY, MOST_HEAD
from policyd_rate_limit.web.visitors import ON_UNIX_SOCKET, Visitor
from support.web_site import PASSWORD, URL, World, program

PATHS = ("/login", "/", "/none", "/static/none", "/api/v1/status", "/api/v1/openapi.json", "/dovecot/auth-policy")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_what_browsers_are_to_heed(world: World, path: str) -> None:
    answer = world.browser().get(path)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    if not path.startswith("/static"):
        assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


def test_without_tls_nobody_is_told_to_use_it(tmp_path: Any) -> None:
    world = World(tmp_path, url=None)
    try:
        answer = world.browser("http://localhost:8080").get("/login")
        assert (answer.status_code, "strict-transport-security" in answer.headers) == (200, False)
    finally:
        world.close()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.org",
        "limits.example.org.evil.example",
        "limits.example.org:8443",
        "limits.example.org@evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "localhost:80:80",
        "localhost:http",
        "0.0.0.0",
        "192.0.2.1",
        "[::]",
        "",
    ],
)
def test_a_host_that_is_another_is_not_served(world: World, host: str) -> None:
    for path in ("/login", "/api/v1/openapi.json"):
        answer = world.browser().get(path, headers={"host": host})
        assert answer.status_code == 421
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["limits.example.org", "LIMITS.example.org", "localhost", "127.0.0.1:1", "[::1]:80"])
def test_a_host_that_is_ours_is_served(world: World, host: str) -> None:
    assert world.browser().get("/login", headers={"host": host}).status_code == 200


def test_a_body_that_is_too_long_is_refused(world: World) -> None:
    world.add("anna")
    for content in ("x" * (MOST_BODY + 1), iter([b"x" * MOST_BODY, b"x"])):
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = world.browser().post("/login", content=content, headers=headers)
        assert answer.status_code == 413
    for length in ("-1", "x", "9" * 30, "1_0"):
        assert world.browser().post("/login", headers={"content-length": length}).status_code == 413


def test_forms_are_few_fields_of_text(world: World) -> None:
    world.add("anna")
    browser = world.browser()
    files = browser.post("/login", data={"name": "anna", "password": PASSWORD}, files={"x": b"x"})
    assert files.status_code == 415
    assert browser.post("/login", json={"name": "anna", "password": PASSWORD}).status_code == 415
    many = browser.post("/login", data={f"field{number}": "x" for number in range(100)})
    assert many.status_code == 400
    twice = browser.post(
        "/login",
        content=f"name=anna&password={PASSWORD}&name=other",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert twice.status_code == 303, "the first of each name counts"


async def test_who_sends_a_body_too_slowly_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_SECONDS", 0.05)
    sent: list[Any] = []

    async def drip() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = _scope("POST", "/login", {"origin": URL, "content-type": "application/x-www-form-urlencoded"})
    await world.app(scope, drip, send)
    assert sent[0]["status"] == 408


async def test_who_leaves_amid_a_body_is_no_error_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def leave() -> Any:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pytest.fail("nobody is there any more")

    await world.app(
        _scope("POST", "/login", {"origin": URL, "content-type": "application/x-www-form-urlencoded"}), leave, send
    )
    assert not caplog.records


def test_an_error_of_the_program_says_nothing_of_itself(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request) -> Response:
        raise RuntimeError("a secret")

    world.app.add_route("/fail", fail, methods=["GET"])
    answer = world.browser().get("/fail")
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert "a secret" in caplog.text


def test_the_head_of_a_request_is_bounded(world: World) -> None:
    assert world.browser().get("/login", headers={"x": "y" * MOST_HEAD}).status_code == 400
    assert world.browser().get("/login?" + "y" * MOST_HEAD).status_code == 400


def _scope(method: str, path: str, headers: dict[str, str]) -> Any:
    headers = {"host": "limits.example.org", **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": None,
        "server": None,
    }


@pytest.fixture
def changes(world: World) -> list[str]:
    """Who has changed something by the form at ``/change``; ``/form`` has its token."""
    done: list[str] = []

    async def change(_: Request, visitor: Visitor, form: Any) -> Response:
        done.append(f"{visitor.name} {form.get('what')}")
        return PlainTextResponse("done")

    async def form(_: Request, visitor: Visitor) -> Response:
        return PlainTextResponse(f'name="{FORM_TOKEN}" value="{visitor.form_token}"')

    world.app.add_route("/change", changed(change), methods=["POST"])
    world.app.add_route("/form", seen(form), methods=["GET"])
    return done


def token_of(browser: TestClient) -> str:
    """What the forms of ``browser`` carry."""
    found = re.search('value="([^"]+)"', browser.get("/form").text)
    assert found is not None
    return found[1]


def test_a_form_of_this_site_changes_something(world: World, changes: list[str]) -> None:
    world.add("anna")
    browser = world.logged_in("anna")
    token = token_of(browser)
    assert browser.post("/change", data={FORM_TOKEN: token, "what": "a"}).status_code == 200
    del browser.headers["origin"]
    data = {FORM_TOKEN: token, "what": "b"}
    assert browser.post("/change", data=data, headers={"referer": f"{URL}/form"}).status_code == 200
    assert changes == ["anna a", "anna b"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.org"},
        {"origin": "null"},
        {"origin": "https://limits.example.org.evil.example"},
        {"origin": "http://limits.example.org"},
        {"origin": "http://localhost"},
        {"origin": URL, "sec-fetch-site": "cross-site"},
        {"origin": URL, "sec-fetch-site": "none"},
        {"origin": "", "referer": f"https://evil.example.org/?{URL}"},
    ],
)
def test_a_form_of_another_site_changes_nothing(world: World, changes: list[str], headers: dict[str, str]) -> None:
    world.add("anna")
    browser = world.logged_in("anna")
    data = {FORM_TOKEN: token_of(browser), "what": "a"}
    assert browser.post("/change", data=data, headers=headers).status_code == 403
    assert browser.post("/logout", data=data, headers=headers).status_code == 403
    assert changes == []
    assert browser.get("/form").status_code == 200, "nor does it log anybody out"
    # With the form of another site browsers send no cookie of this one, but heed the answer.
    answer = world.browser().post("/logout", data={"what": "a"}, headers=headers)
    assert answer.status_code == 403
    assert not {"set-cookie", "clear-site-data"} & set(answer.headers)


def test_a_form_without_the_token_of_this_login_changes_nothing(world: World, changes: list[str]) -> None:
    world.add("anna")
    world.add("mallory")
    browser = world.logged_in("anna")
    other = token_of(world.logged_in("mallory"))
    before = token_of(world.logged_in("anna"))
    for data in ({"what": "a"}, {FORM_TOKEN: ""}, {FORM_TOKEN: other}, {FORM_TOKEN: before}, {FORM_TOKEN: "ü"}):
        assert browser.post("/change", data=data).status_code == 403, data
    assert browser.post("/change?what=a").status_code == 415
    assert changes == []


def test_a_role_that_looks_changes_nothing(world: World, changes: list[str]) -> None:
    world.add("vera", "view")
    browser = world.logged_in("vera")
    assert browser.post("/change", data={FORM_TOKEN: token_of(browser)}).status_code == 403
    assert world.browser().post("/change", data={}).headers["location"] == "/login"
    assert changes == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/%00",
        "/static/",
        "//evil.example.org/",
        "/login/../api/v1/status",
        "/login/",
        "/api/v1/status/",
        "/static",
        "/%2e%2e/etc/passwd",
        "/" + "a" * 3000,
    ],
)
def test_paths_lead_nowhere_else(world: World, path: str) -> None:
    answer = world.browser().get(path)
    assert answer.status_code in (303, 401, 404), answer.text
    assert answer.headers.get("location", "/login") == "/login"


def test_what_is_sent_does_not_come_back_as_markup(world: World) -> None:
    world.add("anna")
    markup = "<script>alert(1)</script>"
    for answer in (
        world.browser().get(f"/{markup}"),
        world.browser().post("/login", data={"name": markup, "password": markup}),
        world.logged_in("anna").get(f"/?{markup}"),
        world.browser().get("/login", headers={"x-forwarded-for": markup}),
    ):
        assert markup not in answer.text


def test_no_header_is_forged(world: World) -> None:
    world.add("anna")
    answer = world.browser().post("/login", data={"name": "anna\r\nSet-Cookie: x=y", "password": PASSWORD})
    assert "set-cookie" not in answer.headers
    answer = program(world).get("/api/v1/status/user:%0d%0aSet-Cookie:%20x=y")
    assert "set-cookie" not in answer.headers


class OnUnixSocket:
    """The application, as the proxy reaches it."""

    def __init__(self, world: World) -> None:
        self._app = world.app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, ON_UNIX_SOCKET: True}, receive, send)


def proxied(world: World, **headers: str) -> TestClient:
    """A browser whose proxy adds ``headers``."""
    return TestClient(
        OnUnixSocket(world),
        base_url=URL,
        headers={"origin": URL, **{name.replace("_", "-"): value for name, value in headers.items()}},
        follow_redirects=False,
    )


@pytest.fixture
def believing(tmp_path: Any) -> Any:
    """A site that believes X-Remote-User."""
    made = World(tmp_path, user_header="X-Remote-User")
    yield made
    made.close()


def test_whom_the_proxy_has_logged_in(believing: World) -> None:
    believing.add("anna", password=None)
    assert proxied(believing, x_remote_user="anna").get("/").status_code == 200
    assert proxied(believing, x_remote_user="nobody").get("/").status_code == 303
    assert proxied(believing, x_remote_user="").get("/").status_code == 303
    assert proxied(believing, x_remote_user="Anna").get("/").status_code == 303
    assert proxied(believing).get("/").status_code == 303
    twice = proxied(believing).get("/", headers=[("x-remote-user", "anna"), ("x-remote-user", "bert")])
    assert twice.status_code == 400
    by_tcp = believing.browser(**{"x-remote-user": "anna"})
    assert by_tcp.get("/").status_code == 303, "anybody on this host can connect there"
    assert believing.browser().post("/login", data={"name": "anna", "password": ""}).status_code == 403


def test_a_site_that_was_not_told_so_believes_no_header(world: World) -> None:
    world.add("anna")
    assert proxied(world, x_remote_user="anna").get("/").status_code == 303


def test_the_proxy_says_where_somebody_is(believing: World, caplog: pytest.LogCaptureFixture) -> None:
    believing.add("anna")
    for forwarded, place in (
        ("192.0.2.7", "192.0.2.7"),
        ("10.1.1.1, 192.0.2.8", "192.0.2.8"),
        ("evil\x1b[31m, 2001:DB8::1", "2001:db8::1"),
        ("::ffff:192.0.2.9", "192.0.2.9"),
    ):
        caplog.clear()
        browser = proxied(believing, x_forwarded_for=forwarded)
        browser.post("/login", data={"name": "anna", "password": "wrong"})
        said = [one.getMessage() for one in caplog.records if one.name.startswith("policyd_rate_limit")]
        assert said == [f"web: wrong password for anna from {place}"]
    for wrong in ("192.0.2.7, unknown", "x", "192.0.2.0/24", ","):
        browser = proxied(believing, x_forwarded_for=wrong)
        assert browser.post("/login", data={"name": "anna", "password": PASSWORD}).status_code == 400
    caplog.clear()
    believing.browser(**{"x-forwarded-for": "192.0.2.7"}).post("/login", data={"name": "anna", "password": "wrong"})
    assert "192.0.2.7" not in caplog.text, "on loopback anybody could say so"
