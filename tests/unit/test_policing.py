"""What a reload makes of the policy: nothing before all is ready, and then in an order that loses no answer."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.tables import Tables
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import changes
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.daemon.policing import Policing
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.subjects import make_subjects
from support.mmdb import write_mmdb
from support.wait import until

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # nothing of it depends on the loop

HOUR, DAY = 3_600, 86_400
QUERY = "SELECT limits FROM rate_limits WHERE id = %s"


class Service:
    """Answers by a policy; of overrides it says how much further they look back."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.further = 0

    def override(self, *_: Any) -> int:
        return self.further


class Policed:
    """A policing, and what the store and its engine were told, in order."""

    def __init__(self, directory: Path) -> None:
        self.told: list[tuple[str, object]] = []
        self.settings = Settings(sqlite_config={"database": str(directory / "db.sqlite3")}, limits=((10, HOUR),))
        subjects = make_subjects(self.settings)
        self.store = backend_of(self.settings).make_store(subjects, Memory(Ledger(10), time.time))
        self.store.look_back = lambda seconds: self.told.append(("look back", seconds))  # type: ignore[method-assign]
        self.store.need = lambda seconds: self.told.append(("need", seconds))  # type: ignore[method-assign]
        tables = Tables(self.settings, backend_of(self.settings))
        loop = asyncio.get_running_loop()
        self.policing = Policing(self.settings, subjects, self.store, self, None, tables, loop)  # type: ignore[arg-type]
        self.service = Service(self.policing.policy)
        self.policing.govern(self.service)  # type: ignore[arg-type]

    def enforce(self, wanted: bool) -> None:
        self.told.append(("enforce", wanted))
        self.told.append(("away", self.service.policy.away.action))

    async def reload(self, *, undone: bool = False, **settings: object) -> None:
        """As the daemon does it; ``undone``: another part cannot."""
        new = Settings(**{**{name: getattr(self.settings, name) for name in SETTINGS}, **settings})
        change = changes(self.settings, new)

        def prepare() -> Any:
            with ExitStack() as undo:
                put_into_force = self.policing.prepare(change, undo)
                if not undone:
                    undo.pop_all()
            return put_into_force

        put_into_force = await asyncio.to_thread(prepare)
        if not undone:
            put_into_force()
            self.settings = change.settings


@pytest.fixture
async def policed(tmp_path: Path) -> Policed:
    return Policed(tmp_path)


def looking_up() -> int:
    """How many threads look limits up."""
    return sum(thread.name.startswith("sql_limits") for thread in threading.enumerate())


async def test_a_policy_takes_the_place_of_another(policed: Policed) -> None:
    before = policed.service.policy
    await policed.reload(fail_action="reject")
    after = policed.service.policy
    assert after is policed.policing.policy
    assert (before.refuse.action, after.refuse.action) == (Settings().fail_action, "reject")
    assert ("look back", HOUR) not in policed.told


async def test_a_longer_window_is_read_before_anybody_is_judged_by_it(policed: Policed) -> None:
    def look_back(seconds: int) -> None:
        limits = policed.service.policy.rules[0].subjects.limits_and_setting("user:a")[0]
        policed.told.append((f"look back, limits {limits}", seconds))

    policed.store.look_back = look_back  # type: ignore[method-assign]
    before = policed.service.policy.rules[0].subjects.limits_and_setting("user:a")[0]
    await policed.reload(limits=((10, DAY),))
    assert policed.told[0] == (f"look back, limits {before}", DAY)


async def test_what_a_request_may_still_ask_ends_when_none_waits_any_more(policed: Policed) -> None:
    await policed.reload(sql_limits_by_id=QUERY)
    first = policed.service.policy
    first.waiting = 1
    await policed.reload(sql_limits_by_id="")
    second = policed.service.policy
    second.waiting = 1
    await policed.reload(sql_limits_by_id=QUERY)
    await asyncio.sleep(0.1)
    assert looking_up() == 2
    first.waiting = 0
    await until(lambda: looking_up() == 1)
    assert policed.service.policy.rules[0].sql_limits is not None
    await policed.reload(sql_limits_by_id="")
    policed.service.policy.waiting = 1  # whoever is not answered at the end of the daemon never will be
    await asyncio.wait_for(policed.policing.stop(), 10)
    await until(lambda: looking_up() == 0)


async def test_who_waits_for_the_engine_gets_an_answer(policed: Policed) -> None:
    """It decides until the policy has an action instead, and from when the policy has none any more."""
    await policed.reload(db_error_action="dunno")
    assert policed.told == [("enforce", False), ("away", "dunno")]
    policed.told.clear()
    await policed.reload(db_error_action=None)
    assert policed.told == [("enforce", True), ("away", "dunno")]


async def test_a_table_of_limits_comes_and_goes(policed: Policed) -> None:
    await policed.reload(sql_limits_by_id=QUERY)
    assert policed.service.policy.rules[0].sql_limits is not None
    assert ("look back", HOUR) in policed.told  # nobody has known the windows of the table
    assert looking_up() == 1
    await policed.reload(sql_limits_by_id="")
    assert policed.service.policy.rules[0].sql_limits is None
    await until(lambda: looking_up() == 0)
    await policed.policing.stop()


async def test_what_another_part_fails_at_leaves_no_table(policed: Policed) -> None:
    before = policed.service.policy
    await policed.reload(sql_limits_by_id=QUERY, undone=True)
    assert policed.service.policy is before
    assert not policed.told
    await until(lambda: looking_up() == 0)
    await policed.policing.stop()


async def test_what_cannot_be_prepared_changes_nothing(policed: Policed) -> None:
    before = policed.service.policy
    policed.settings = policed.settings.with_values(backend="redis")
    with pytest.raises(ConfigError, match="no SQL"):
        await policed.reload(backend="redis", sql_limits_by_id=QUERY, limits=((10, DAY),))
    assert policed.service.policy is before
    assert not policed.told


async def test_overrides_that_look_back_further(policed: Policed) -> None:
    """Before the first ones are known nothing has been forgotten yet."""
    policed.service.further = DAY
    policed.policing.heed([])
    policed.policing.heed([])
    policed.service.further = 0
    policed.policing.heed([])
    assert policed.told == [("need", DAY), ("look back", DAY)]
    assert policed.policing.has_begun.is_set()


def looking_after() -> int:
    """How many threads look after a file of countries."""
    return sum(thread.name == "geoip" for thread in threading.enumerate())


FROM_GERMANY = {"x": {"key": "sasl_username", "limits": "1/1h", "match": {"country": "DE"}}}


async def test_a_file_of_countries_comes_is_another_one_and_goes(policed: Policed, tmp_path: Path) -> None:
    one = write_mmdb(tmp_path / "one.mmdb", {"192.0.2.0/24": "DE"})
    other = write_mmdb(tmp_path / "other.mmdb", {"192.0.2.0/24": "FR"})

    def country() -> str:
        countries = policed.service.policy.countries
        assert countries is not None
        return str(countries.country_of("192.0.2.1"))

    await policed.reload(geoip=str(one))
    assert policed.service.policy.countries is None  # no rule asks
    assert looking_after() == 0
    await policed.reload(rules=FROM_GERMANY)
    assert (country(), looking_after()) == ("DE", 1)
    one.unlink()
    await policed.reload(fail_action="reject")  # it goes on with what it knows
    assert (policed.service.policy.refuse.action, country(), looking_after()) == ("reject", "DE", 1)
    before = policed.service.policy
    with pytest.raises(ConfigError, match=r"geoip: expected a file of countries .*No such file or directory"):
        await policed.reload(geoip=str(tmp_path / "none.mmdb"))
    assert policed.service.policy is before
    await policed.reload(geoip=str(other), undone=True)
    await until(lambda: looking_after() == 1)
    assert (policed.service.policy, country()) == (before, "DE")
    await policed.reload(geoip=str(other))
    assert country() == "FR"
    await until(lambda: looking_after() == 1)
    await policed.reload(rules={})
    assert policed.service.policy.countries is None
    await until(lambda: looking_after() == 0)
    await policed.policing.stop()
