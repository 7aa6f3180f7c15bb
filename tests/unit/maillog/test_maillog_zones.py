"""The zone of dates that have none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from policyd_rate_limit.maillog import zones
from policyd_rate_limit.maillog.zones import host_zone

if TYPE_CHECKING:
    from datetime import tzinfo


def _offsets(zone: tzinfo) -> list[timedelta | None]:
    return [datetime(2026, month, 1, tzinfo=zone).utcoffset() for month in (1, 7)]


BERLIN = [timedelta(hours=1), timedelta(hours=2)]


@pytest.mark.parametrize("name", ["Europe/Berlin", ":Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin"])
def test_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TZ", name)

    assert _offsets(host_zone()) == BERLIN


@pytest.mark.parametrize("name", ["", "No/Such", "../../etc/passwd"])
def test_of_the_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TZ", name)
    monkeypatch.setattr(zones, "LOCALTIME", Path("/usr/share/zoneinfo/Europe/Berlin"))

    assert _offsets(host_zone()) == (BERLIN if not name else _offsets(UTC))


def test_where_the_host_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr(zones, "LOCALTIME", tmp_path / "localtime")
    assert host_zone() is UTC

    (tmp_path / "localtime").write_bytes(b"no zone")
    assert host_zone() is UTC
