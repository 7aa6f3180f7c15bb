"""What rules in shadow would have refused, and who has changed what: beside real daemons on a database."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policyd_rate_limit.system.accounts import login_name
from support.commands import ask, call
from support.daemon import Client, admitted, running, write_configuration
from support.stores_for_daemons import STORES, SharedStore
from support.wait import wait_until

SHADOW: dict[str, Any] = {
    "shy": {"key": "sasl_username", "limits": "2/1h", "shadow": True},
    "quiet": {"key": "sender", "limits": "100/1h", "shadow": True},
}


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[SharedStore]:
    """An empty store."""
    with STORES[request.param](tmp_path) as empty:
        yield empty


@pytest.mark.long(4)
def test_what_rules_in_shadow_would_have_refused(tmp_path: pathlib.Path, store: SharedStore) -> None:
    began = int(time.time())
    settings: dict[str, Any] = {"limits": [[1_000, 60]], "rules": SHADOW, **store.settings}
    told: list[dict[str, Any]] = []

    def is_told() -> bool:
        told.append(ask(two.path, "shadow", "--since", "2h"))
        return bool(told[-1]["rules"]["shy"]["refused"] == 6)

    with (
        running(tmp_path / "one", **settings) as one,
        running(tmp_path / "two", **settings) as two,
        Client(one.address) as client,
        Client(two.address) as other,
    ):
        assert admitted(client, "alice", 5) == 5
        assert admitted(other, "alice", 2) == 2
        assert admitted(other, "bob", 3) == 3
        wait_until(is_told, "what all would have refused")
    found = told[-1]
    assert found["since"] % 3_600 == 0
    assert found["since"] <= began - 7_200 + 60
    quiet, shy = (found["rules"].pop(name) for name in ("quiet", "shy"))
    assert found["rules"] == {}  # of the rule that is in force nothing
    assert (shy["shadow"], shy["state"], shy["blocks"]) == (True, "in shadow", 0)
    assert [(who["id"], who["key"], who["limit"], who["refused"]) for who in shy["ids"]] == [
        ("alice", "shy|user:alice", [2, 3_600], 5),
        ("bob", "shy|user:bob", [2, 3_600], 1),
    ]
    assert all(began - 60 <= who["since"] <= who["last"] <= time.time() + 60 for who in shy["ids"])
    assert (quiet["refused"], quiet["ids"], quiet["state"]) == (0, [], "in shadow")


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_it_is_told_in_words_also_of_rules_that_have_left_the_shadow(
    tmp_path: pathlib.Path, store: SharedStore
) -> None:
    with running(tmp_path / "host", rules=SHADOW, **store.settings) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 7) == 7
        assert admitted(client, "bob", 3) == 3
        daemon.stop()  # which brings all that waits
        said = call(daemon.path, "shadow", "-n", "1").stdout.splitlines()
        assert said[0].startswith("quiet: in shadow; it would have refused nothing since ")
        assert said[2].startswith("shy: in shadow; it would have refused 6 requests since ")
        assert said[3].split() == ["ID", "LIMIT", "REFUSED", "FIRST", "LAST"]
        assert said[4].split()[:3] == ["shy|user:alice", "2/1h", "5"]
        assert said[5] == "of others: 1 request"
        write_configuration(daemon.directory, {**daemon.settings, "rules": {"shy": {**SHADOW["shy"], "shadow": False}}})
        assert {name: rule["state"] for name, rule in ask(daemon.path, "shadow")["rules"].items()} == {
            "shy": "in force"
        }
        write_configuration(daemon.directory, {**daemon.settings, "rules": {"quiet": SHADOW["quiet"]}})
        assert "shy: there is no such rule any more" in call(daemon.path, "shadow").stdout


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_who_has_changed_what(tmp_path: pathlib.Path, store: SharedStore) -> None:
    with running(tmp_path / "host", limits=[[5, 600]], **store.settings) as daemon, Client(daemon.address) as client:
        assert call(daemon.path, "audit").stdout == "nothing was changed, as far as is kept\n"
        assert admitted(client, "alice", 1) == 1
        ask(daemon.path, "block", "alice", "--for", "1h", "--note", "stolen")
        ask(daemon.path, "allow", "bob", "7/1m", "9/1h", "--for", "1h")
        ask(daemon.path, "revoke", "alice")
        ask(daemon.path, "reset", "alice")
        found = ask(daemon.path, "audit")
        assert [(one["action"], one["subject"]) for one in found["entries"]] == [
            ("reset", "user:alice"),
            ("revoke", "user:alice"),
            ("allow", "user:bob"),
            ("block", "user:alice"),
        ]
        assert found["entries"][0]["detail"] == "1 mail taken back"
        assert found["entries"][2]["detail"].startswith("7/1m, 9/1h until ")
        assert found["entries"][3]["note"] == "stolen"
        for entry in found["entries"]:
            assert (entry["who"], entry["from_where"]) == (login_name(), f"shell on {os.uname().nodename}")
            assert abs(entry["date"] - time.time()) < 60
        assert [one["action"] for one in ask(daemon.path, "audit", "Bob", "--since", "1h")["entries"]] == ["allow"]
        assert [one["action"] for one in ask(daemon.path, "audit", "-n", "1")["entries"]] == ["reset"]
        assert ask(daemon.path, "audit", "no such account")["entries"] == []
        headings, newest = call(daemon.path, "audit", "alice").stdout.splitlines()[:2]
        assert headings.split() == ["WHEN", "WHO", "FROM", "DID", "TO", "HOW"]
        assert "1 mail taken back" in newest
        assert call(daemon.path, "audit", "--since", "9").returncode == 64
