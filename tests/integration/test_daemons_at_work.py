"""Several daemons on one store: the page, the API and the commands tell which are at work, and which fell silent."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.admin.daemons import SILENT_SECONDS, judged
from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.config import Settings
from policyd_rate_limit.storage.log import daemons as of_log
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.tables import RedisTables
from policyd_rate_limit.system import pidfile
from support.commands import call
from support.daemon import Daemon
from support.stores_for_daemons import STORES
from support.wait import wait_until
from support.web_pages import Page
from support.web_site import World, program


def settings_of(daemon: Daemon) -> Settings:
    """What its file says."""
    return config.load(daemon.path)[0]


def backdate(desk: Desk, process: int) -> None:
    """Have the daemon of that ``process`` been heard of longer ago than one that is at work ever was."""
    (beat,) = (one for one in desk.store.heartbeats() or () if one.process == process)
    old = beat._replace(heard=beat.heard - SILENT_SECONDS - 1)
    if isinstance(desk.store, LogAdministration):
        of_log.beat(desk.store.open(), old, 10, is_first=False)
    else:
        assert isinstance(desk.store, RedisAdministration)
        RedisTables(desk.store.keys.prefix, desk.store.run).daemons.beat(old, is_first=False)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb", "redis"])
def test_who_is_silent_is_told(tmp_path: Path, kind: str) -> None:
    with STORES[kind](tmp_path) as store:
        one = Daemon(tmp_path / "one", **store.settings)
        two = Daemon(tmp_path / "two", **store.settings)

        with one, two, open_desk(settings_of(one), as_account=False) as desk:

            def states() -> dict[int, str]:
                process = pidfile.running(settings_of(one).pidfile)
                found = judged(desk.store.heartbeats() or (), desk.store.now(), process)
                return {daemon.heartbeat.process: daemon.state for daemon in found}

            first, second = one.process.pid, two.process.pid
            wait_until(lambda: states() == {first: "working", second: "working"}, "both are known")
            two.kill()
            backdate(desk, second)
            assert states() == {first: "working", second: "silent"}
            said = call(one.path, "status").stdout
            assert "daemons of this store: 1 at work, 1 silent" in said
            if kind == "sqlite":  # the others: tests/storage/test_doctor_database.py
                assert "has been silent since" in call(one.path, "doctor", "--ignore", "postfix").stdout
            _page_tells(tmp_path, one)
            two.start()  # it takes the place of the one that was killed
            wait_until(lambda: states() == {first: "working", two.process.pid: "working"}, "it is back")
            # One that runs, and that the database does not hear of.
            one.process.send_signal(signal.SIGSTOP)
            backdate(desk, first)
            assert states() == {first: "cut off", two.process.pid: "working"}
            one.process.send_signal(signal.SIGCONT)
            assert two.stop() == 0
            wait_until(lambda: two.process.pid not in states(), "who ends is not missed")


def _page_tells(tmp_path: Path, one: Daemon) -> None:
    world = World(tmp_path, settings=settings_of(one))
    try:
        world.add("anna", "view")
        world.add("clara", "view", "example.org")
        with world.browser() as running:
            wait_until(lambda: world.site.watcher.picture().is_complete, "the store is read")
            assert running.get("/login").status_code == 200
            page = Page(world.logged_in("anna").get("/").text)
            assert "Daemons: trouble 1 silent, 1 at work, runs on this host, process" in page.text
            assert page.text.index("A daemon that is silent") < page.text.index("Nobody is limited")
            assert "Daemons" not in Page(world.logged_in("clara").get("/").text).text
            (silent, working) = program(world, "view").get("/api/v1/status").json()["daemons"]
            assert (silent["state"], working["state"], working["process"]) == ("silent", "working", one.process.pid)
            assert working["since"] <= working["heard"]
            assert program(world, "view", "example.org").get("/api/v1/status").json()["daemons"] is None
    finally:
        world.close()
