"""A daemon that was stopped in the middle of opening the file keeps nobody else from it."""

from __future__ import annotations

import fcntl
import pathlib
import time

import pytest

from policyd_rate_limit.storage.log.sqlite import files
from policyd_rate_limit.storage.log.sqlite import log as sqlite


def test_a_lock_that_is_never_let_go(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, sqlite):
        monkeypatch.setattr(module, "OPEN_PATIENCE", 0.05)
    path = tmp_path / "db.sqlite3"
    with pathlib.Path(f"{path}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        log = sqlite.SqliteLog(path, time.time)
        log.begin(1.0)
        assert log.prepare(lambda _old: ())
        log.commit()
        log.close()
