"""Who may see and change whom, whatever way they name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit import config
from policyd_rate_limit.admin.desk import Desk, NotAnId
from policyd_rate_limit.admin.overrides import ChangedMeanwhile
from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.administration import Actor, Override
from policyd_rate_limit.web import authority as authorities
from policyd_rate_limit.web import changes, sights
from policyd_rate_limit.web.accounts import authority
from policyd_rate_limit.web.authority import Authority, Forbidden, Role, is_no_looser
from policyd_rate_limit.web.visitors import Visitor
from support.web_site import World

ROOT = Visitor("root", Authority(Role.OPERATE), "192.0.2.1", "x")
VIEWER = Visitor("viewer", Authority(Role.VIEW), "192.0.2.1", "x")
LOCAL = Visitor("local", authority("operate", ["example.org", "Bücher.example"]), "192.0.2.1", "x")
OTHER = Visitor("other", authority("operate", ["example.org"]), "192.0.2.2", "y")
PROGRAM = Visitor("dovecot", Authority(Role.DOVECOT), "192.0.2.1", "")

HOUR = 3600


@pytest.fixture
def desk(world: World) -> Iterator[Desk]:
    """Limits 10/1m and 150/1d for users and for senders."""
    with world.site.open_desk() as opened:
        yield opened


OTHERS = [
    "alice",
    "alice@example.com",
    "alice@EXAMPLE.COM",
    "user:alice@example.com",
    "sender:alice@example.com",
    "alice@sub.example.org",
    "alice@example.org.example.com",
    "alice@example.org@example.com",
    "example.com",
    "192.0.2.1",
    "client:192.0.2.1",
    "user:alice@xn--bcher-kva.example.com",
    "alice@notexample.org",
    "alice@example.org\n@example.com",
    "alice@example.org ",
    f"{'a' * 400}@example.org",  # known by a digest, of which nobody can say whose it is
]
OWN = [
    "alice@example.org",
    "ALICE@EXAMPLE.ORG",
    "user:alice@Example.Org",
    "alice@example.org.",
    "alice@bücher.example",
    "alice@BÜCHER.example",
    "user:alice@xn--bcher-kva.example",
    "alice@xn--BCHER-kva.example",
    "alice@bücher。example",
]


@pytest.mark.parametrize("name", OTHERS)
def test_nobody_of_another_domain_is_seen_or_changed(desk: Desk, name: str) -> None:
    for attempt in (
        lambda: sights.standings_of(desk, LOCAL.authority, name),
        lambda: sights.stranger_of(desk, LOCAL.authority, name),
        lambda: sights.history_of(desk, LOCAL.authority, name, "hour", last=1, most=1),
        lambda: changes.block(desk, LOCAL, name, HOUR, ""),
        lambda: changes.allow(desk, LOCAL, name, (Limit(1, 60),), HOUR, ""),
        lambda: changes.revoke(desk, LOCAL, name),
        lambda: changes.reset(desk, LOCAL, name),
    ):
        with pytest.raises((Forbidden, ValueError)):
            attempt()
    assert desk.overrides() == {}


@pytest.mark.parametrize("name", OWN)
def test_whoever_is_of_the_domain_is_seen_and_blocked_however_it_is_written(desk: Desk, name: str) -> None:
    assert {one.key for one in sights.standings_of(desk, LOCAL.authority, name)} == set(desk.keys(name))
    done = changes.block(desk, LOCAL, name, HOUR, "stolen")
    assert {one.key for one in done.overrides} == set(desk.keys(name))


def test_roles(desk: Desk) -> None:
    for visitor in (VIEWER, PROGRAM):
        for attempt in (
            lambda who=visitor: changes.block(desk, who, "alice", HOUR, ""),
            lambda who=visitor: changes.allow(desk, who, "alice", (), HOUR, ""),
            lambda who=visitor: changes.revoke(desk, who, "alice"),
            lambda who=visitor: changes.reset(desk, who, "alice"),
        ):
            with pytest.raises(Forbidden):
                attempt()
    assert sights.standings_of(desk, VIEWER.authority, "alice")
    with pytest.raises(Forbidden):
        sights.standings_of(desk, PROGRAM.authority, "alice")
    assert changes.allow(desk, ROOT, "alice", (), HOUR, "").overrides
    assert changes.revoke(desk, ROOT, "alice")["user:alice"]
    assert changes.reset(desk, ROOT, "alice") == {"user:alice": 0}


@pytest.mark.parametrize(
    ("limits", "may"),
    [
        ((Limit(0, 1),), True),
        ((Limit(10, 60), Limit(150, 86400)), True),
        ((Limit(5, 60), Limit(100, 86400)), True),
        ((Limit(10, 86400),), True),
        ((Limit(10, 60),), False),
        ((Limit(10, 59), Limit(150, 86400)), False),
        ((Limit(11, 60), Limit(150, 86400)), False),
        ((Limit(10, 60), Limit(151, 86400)), False),
        ((), False),
    ],
)
def test_an_administrator_of_a_domain_lowers_and_never_raises(desk: Desk, limits: Limits, may: bool) -> None:
    name = "alice@example.org"
    if may:
        assert changes.allow(desk, LOCAL, name, limits, HOUR, "").overrides[0].limits == limits
    else:
        with pytest.raises(Forbidden, match="may lower"):
            changes.allow(desk, LOCAL, name, limits, HOUR, "")
        assert desk.overrides() == {}


def test_an_administrator_of_a_domain_leaves_room_for_the_overrides_of_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "MOST_IN_FORCE", 2)
    for name in ("a@example.org", "b@example.org"):
        changes.block(desk, LOCAL, name, HOUR, "")
    with pytest.raises(StoreFull, match=r"^2 overrides are in force"):
        changes.block(desk, LOCAL, "c@example.org", HOUR, "")
    assert changes.block(desk, LOCAL, "a@example.org", 2 * HOUR, "in place of the one before").overrides
    assert changes.block(desk, ROOT, "c@example.org", HOUR, "").overrides


def test_what_somebody_else_has_blocked_stays_blocked(desk: Desk) -> None:
    name = "alice@example.org"
    changes.block(desk, ROOT, name, 2 * HOUR, "stolen")
    for attempt in (
        lambda: changes.revoke(desk, LOCAL, name),
        lambda: changes.reset(desk, LOCAL, name),
        lambda: changes.allow(desk, LOCAL, name, (Limit(10, 60), Limit(150, 86400)), 3 * HOUR, ""),
        lambda: changes.block(desk, LOCAL, name, HOUR, "that ends earlier"),
    ):
        with pytest.raises(Forbidden):
            attempt()
    assert changes.block(desk, LOCAL, name, 3 * HOUR, "that ends later").overrides


def test_what_somebody_has_raised_may_be_lowered_again(desk: Desk) -> None:
    name = "alice@example.org"
    changes.allow(desk, ROOT, name, (Limit(5000, 86400),), 2 * HOUR, "newsletter")
    assert changes.revoke(desk, LOCAL, name) == {f"user:{name}": True}
    changes.allow(desk, ROOT, name, (Limit(5000, 86400),), 2 * HOUR, "newsletter")
    assert changes.block(desk, LOCAL, name, HOUR, "stolen").overrides


@pytest.mark.parametrize("by_whom", [ROOT, OTHER])
def test_two_who_change_the_same_id_at_once_cannot_raise(
    desk: Desk, by_whom: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else sets between the check of a change and the change itself is what it is checked by."""
    name, asked = "alice@example.org", (Limit(8, 60), Limit(100, 86400))
    changes.allow(desk, ROOT, name, (Limit(50, 60), Limit(900, 86400)), HOUR, "newsletter")
    check_override, check_revoke = Authority.check_override, Authority.check_revoke
    others: list[Limits] = []

    def between() -> None:
        if others:
            changes.allow(desk, by_whom, name, others.pop(0), 3 * HOUR, "between")

    def checked_override(self: Authority, *given: Any) -> Mapping[str, Override] | None:
        found = check_override(self, *given)
        if self is LOCAL.authority:
            between()
        return found

    def checked_revoke(self: Authority, *given: Any) -> Mapping[str, Override] | None:
        found = check_revoke(self, *given)
        between()
        return found

    monkeypatch.setattr(Authority, "check_override", checked_override)
    monkeypatch.setattr(Authority, "check_revoke", checked_revoke)
    others[:] = [(Limit(3, 60), Limit(90, 86400))]
    with pytest.raises(Forbidden):
        changes.revoke(desk, LOCAL, name)
    assert desk.overrides()[f"user:{name}"].limits == (Limit(3, 60), Limit(90, 86400))
    with monkeypatch.context() as unchecked:
        unchecked.setattr(Authority, "check_override", check_override)
        changes.allow(desk, ROOT, name, (Limit(50, 60), Limit(900, 86400)), HOUR, "newsletter")
    others[:] = [changes.BLOCK]
    with pytest.raises(Forbidden):
        changes.allow(desk, LOCAL, name, asked, 3 * HOUR, "")
    assert desk.overrides()[f"user:{name}"].limits == changes.BLOCK
    with monkeypatch.context() as unchecked:
        unchecked.setattr(Authority, "check_override", check_override)
        changes.revoke(desk, ROOT, name)
    # What is still lower is set in place of it, and what changes for ever is given up.
    others[:] = [(Limit(9, 60), Limit(120, 86400))]
    assert changes.allow(desk, LOCAL, name, asked, 3 * HOUR, "").overrides[0].limits == asked
    others[:] = [(Limit(8, 60), Limit(100 - number, 86400)) for number in range(changes.TRIES)]
    with pytest.raises(ChangedMeanwhile, match="look at it again"):
        changes.allow(desk, LOCAL, name, changes.BLOCK, 3 * HOUR, "")
    assert desk.overrides()[f"user:{name}"].note == "between"


RULES = """
limits: [[10, 60]]
rules:
  written-to: {key: recipient, limits: 20/1h}
  domain: {key: sasl_domain, limits: 100/1h}
"""


def test_what_a_name_stands_for_beside_those_of_the_domain_is_left_alone(tmp_path: Path) -> None:
    """Who writes to alice is somebody else, and a rule for recipients is no reason to see nothing of hers either."""
    world = World(tmp_path, settings=with_rules(tmp_path, RULES))
    with world.site.open_desk() as desk:
        for name in ("alice@example.org", "user:alice@example.org"):
            assert len(desk.keys(name)) > 1
            assert [one.key for one in sights.standings_of(desk, LOCAL.authority, name)] == [
                "user:alice@example.org",
                "domain|sasl_domain:example.org",
            ]
            done = changes.block(desk, LOCAL, name, HOUR, "")
            assert [one.key for one in done.overrides] == ["user:alice@example.org"]
            assert sights.close_up_of(desk, LOCAL.authority, world.site.watcher, name).changes
        for name in ("bob@example.com", "sasl_domain:example.com", "recipient:bob@example.com"):
            with pytest.raises(Forbidden):
                changes.block(desk, LOCAL, name, HOUR, "")
        with pytest.raises(Forbidden):
            changes.block(desk, LOCAL, "alice@example.org", HOUR, "", "written-to")
        with pytest.raises(NotAnId, match=r"^there is no rule other$"):  # nor which there are
            changes.block(desk, LOCAL, "alice@example.org", HOUR, "", "other")
        with pytest.raises(NotAnId, match=r"^alice@example.org is the key of no rule$"):
            changes.block(desk, LOCAL, "alice@example.org", HOUR, "", "domain")
        done = changes.block(desk, LOCAL, "sasl_domain:example.org", HOUR, "")
        assert [one.key for one in done.overrides] == ["domain|sasl_domain:example.org"]
        changes.block(desk, LOCAL, "recipient:bob@example.org", HOUR, "")  # a user of this odd name
        assert desk.overrides().pop("user:recipient:bob@example.org")
        changes.revoke(desk, ROOT, "user:recipient:bob@example.org")
        assert set(desk.overrides()) == {"user:alice@example.org", "domain|sasl_domain:example.org"}
    world.close()


def with_rules(directory: Path, rules: str) -> Settings:
    """The usual settings of a site, with ``rules`` beside them."""
    path = directory / "policyd.yaml"
    path.write_text(f"sqlite_config: {{database: {directory / 'db.sqlite3'}}}\npidfile: {directory / 'pid'}\n{rules}")
    return config.load(path).settings


def test_in_lists_others_are_left_out(world: World, desk: Desk) -> None:
    for name in ("alice@example.org", "bob@example.com"):
        changes.allow(desk, ROOT, name, (Limit(1, 60),), HOUR, "")
    contents = sights.overview_of(world.settings, desk, LOCAL.authority).contents
    assert contents is not None
    assert [one.key for one in contents.overrides] == ["user:alice@example.org"]
    assert (contents.counted, contents.heaviest) == (None, [])
    stranger = sights.stranger_of(desk, LOCAL.authority, "bobb@example.org")
    assert stranger is not None
    assert "user:bob@example.com" not in stranger.nearest


def test_the_audit_trail_is_told_who_and_from_where() -> None:
    assert ROOT.actor == Actor("root", "web 192.0.2.1")
    assert PROGRAM.actor == Actor("dovecot", "api 192.0.2.1")


limits_of_any = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=3, unique_by=lambda pair: pair[1]
).map(lambda pairs: tuple(Limit(*pair) for pair in pairs))


@given(new=limits_of_any, old=limits_of_any, gaps=st.lists(st.integers(0, 4), max_size=12))
def test_whatever_limits_that_are_no_looser_admit_the_others_admit(new: Limits, old: Limits, gaps: list[int]) -> None:
    """Whoever sends as fast as the new limits let them never runs into the old ones."""
    if not is_no_looser(new, old):
        return
    admitted: list[int] = []
    now = 1000
    for gap in gaps:
        now += gap

        def admits(limit: Limit, now: int = now) -> bool:
            return sum(date > now - limit.seconds for date in admitted) < limit.maximum

        if all(map(admits, new)):
            assert all(map(admits, old))
            admitted.append(now)
