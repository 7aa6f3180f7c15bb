"""``--clean`` leaves what the limits that a table gives to a rule still need."""

from __future__ import annotations

import pathlib
import time

import pytest

from policyd_rate_limit.admin.maintenance import delete_old_records
from policyd_rate_limit.config.loading import load
from policyd_rate_limit.domain.charge import Charge, Demand
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.replica import Memory

HOUR, DAY = 3600, 86_400


@pytest.mark.parametrize(
    ("rows", "deleted"), [("alice 9/1h, 50/30d\n", 0), ("alice nonsense\nbob 50/30d", 2), ("alice 50/1d", 2), ("", 2)]
)
def test_what_a_table_gives_to_a_rule_is_needed(tmp_path: pathlib.Path, rows: str, deleted: int) -> None:
    tiers, database, file = tmp_path / "tiers", tmp_path / "db.sqlite3", tmp_path / "x.yaml"
    tiers.write_text(rows)
    file.write_text(
        f"tables: {{tiers: 'file:{tiers}'}}\n"
        "rules:\n"
        "  mailbox: {key: sasl_username, limits: 5/1h, overrides: $tiers}\n"
        "  domain: {key: sasl_domain, limits: 5/1h}\n"
        f"sqlite_config: {{database: {database}}}\n"
    )
    now = time.time()

    def admit(counter: str, ago: float) -> None:
        clock = lambda: now - ago  # noqa: E731 - of this one store
        store = LogStore(
            lambda: SqliteLog(database, clock),
            Memory(Ledger(100), clock),
            longest=HOUR,
            counters_of_old_id=lambda _: (),
        )
        (verdict,) = store.admit([Demand((Charge(counter, 1, (Limit(9, HOUR),)),))], (), 5)
        assert verdict.admitted
        store.close()

    admit("mailbox|user:alice", 10 * DAY)
    admit("domain|sasl_domain:bob", 9 * DAY)
    admit("mailbox|user:carol", 0)
    assert delete_old_records(load(file).settings) == deleted
