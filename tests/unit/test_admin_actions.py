"""What administrators do to ids, and what programs read of it, without any command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

import policyd_rate_limit.admin
from policyd_rate_limit.admin import facts, overrides
from policyd_rate_limit.admin.desk import Desk, NotAnId
from policyd_rate_limit.admin.standing import standings
from policyd_rate_limit.admin.strangers import stranger
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.storage.administration import Actor, Hits, Override
from support.actors import TESTER
from support.policies import subjects

NOW = 1_000_000


class Kept:
    """A store in memory, as far as administrators ask it."""

    def __init__(self) -> None:
        self.charged = [Entry("user:alice", 3, NOW - 10, "", "")]
        self.by_key: dict[str, Override] = {}
        self.asked_by: list[tuple[str, str, Actor]] = []

    def now(self) -> int:
        return NOW

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        return (one for one in self.charged if one.date >= since and (keys is None or one.counter in keys))

    def overrides(self) -> list[Override]:
        return list(self.by_key.values())

    def set_override(self, override: Override, by: Actor) -> None:
        self.asked_by.append(("override", override.key, by))
        self.by_key[override.key] = override

    def remove_override(self, key: str, by: Actor, note: str = "") -> bool:
        self.asked_by.append(("revoke", key, by))
        return self.by_key.pop(key, None) is not None

    def reset(self, key: str, by: Actor, note: str = "") -> int:
        self.asked_by.append(("reset", key, by))
        taken = sum(entry.amount for entry in self.charged if entry.counter == key)
        self.charged = [entry for entry in self.charged if entry.counter != key]
        return taken

    def hits(self) -> list[Hits]:
        return [Hits("user:alice", 60, 2, 0)]


@pytest.fixture
def desk() -> Desk:
    everybody = subjects((Limit(5, 60),), limit_by_sender=True)
    rules = [Rule(DEFAULT, everybody, stages(None))]
    return Desk(Kept(), everybody, rules, longest=60, table=None, max_ids=100)  # type: ignore[arg-type]  # as much as is asked


def told(value: facts.Facts) -> Any:
    """``value`` as a program reads it."""
    return json.loads(json.dumps(value))


def test_an_override_and_its_end(desk: Desk) -> None:
    put = overrides.override(desk, "user:alice", (Limit(0, 1),), 60, "stolen", by=TESTER)
    assert put.overrides == desk.store.overrides() == [Override("user:alice", (Limit(0, 1),), NOW + 60, "stolen")]
    assert told(facts.of_overridden("alice", put)) == {
        "id": "alice",
        "time": NOW,
        "overrides": [{"key": "user:alice", "limits": [[0, 1]], "until": NOW + 60, "note": "stolen"}],
        "on_record": True,
        "nearest": [],
    }
    [standing] = standings(desk, "user:alice")
    [key] = told(facts.of_standings("user:alice", [standing], None, NOW))["keys"]
    assert (key["source"], key["override"]["note"], key["free_in"]) == ("override", "stolen", None)
    assert key["hits"] == [{"seconds": 60, "hits": 2, "last": None}]
    ended = overrides.revoke(desk, "alice", by=TESTER)
    assert ended == {"user:alice": True, "sender:alice": False}
    assert told(facts.of_revoked("alice", ended)) == {"id": "alice", "revoked": ["user:alice"]}
    assert not any(overrides.revoke(desk, "alice", by=TESTER).values())


def test_the_store_is_told_who_asks_for_each_change(desk: Desk) -> None:
    store = desk.store
    assert isinstance(store, Kept)
    somebody = Actor("carol", "192.0.2.7 by the web page")
    overrides.override(desk, "user:alice", (), 60, "", by=somebody)
    overrides.revoke(desk, "alice", by=TESTER)
    overrides.reset(desk, "user:alice", by=somebody)
    assert store.asked_by == [
        ("override", "user:alice", somebody),
        ("revoke", "user:alice", TESTER),
        ("revoke", "sender:alice", TESTER),
        ("reset", "user:alice", somebody),
    ]


def test_whoever_is_not_on_record_is_said_to_be_strange(desk: Desk) -> None:
    put = overrides.override(desk, "user:alcie", (), 60, "", by=TESTER)
    assert put.stranger is not None  # though it has an override by now
    assert told(facts.of_overridden("alcie", put))["nearest"] == ["user:alice"]
    assert stranger(desk, "user:alcie") is None  # now it is on record
    assert stranger(desk, "user:alice") is None


def test_what_was_counted_is_taken_back(desk: Desk) -> None:
    taken = overrides.reset(desk, "alice", by=TESTER)
    assert taken == {"user:alice": 3, "sender:alice": 0}
    assert told(facts.of_reset("alice", taken))["reset"] == [
        {"key": "user:alice", "mails": 3},
        {"key": "sender:alice", "mails": 0},
    ]
    assert standings(desk, "user:alice")[0].usages[0].used == 0


@pytest.mark.parametrize("name", ["", "@example.org", "*@example.org"])
def test_nothing_is_put_in_force_for_what_is_no_id(desk: Desk, name: str) -> None:
    with pytest.raises(NotAnId):
        overrides.override(desk, name, (), 60, "", by=TESTER)
    assert not desk.store.overrides()


def test_no_command_line_is_needed() -> None:
    names = sorted(path.stem for path in Path(policyd_rate_limit.admin.__file__).parent.glob("*.py"))
    modules = ", ".join(f"policyd_rate_limit.admin.{name}" for name in names if name != "__init__")
    script = f"import sys, {modules}; print(*{{'click', 'rich', 'policyd_rate_limit.cli'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
