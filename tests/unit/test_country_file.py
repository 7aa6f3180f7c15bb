"""The countries of addresses, as files of several publishers have them."""

from __future__ import annotations

import gc
import os
import pathlib
import shutil
import weakref
from typing import Any

import maxminddb
import pytest

from policyd_rate_limit.tables import country_file
from policyd_rate_limit.tables.country_file import NoCountries, code_in, read_countries
from support.mmdb import BUILT, Unsigned, dbip, mmdb, write_mmdb

WORLD = {"192.0.2.0/24": "DE", "198.51.100.0/25": "fr", "2001:db8::/32": "NO", "203.0.113.7/32": "ZZ"}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "countries.mmdb"


@pytest.fixture(params=["with the C library", "in Python alone"], autouse=True)
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both readers of the library; Debian's and most wheels have the first."""
    if request.param == "in Python alone":
        monkeypatch.setattr(maxminddb, "_extension", None)
    elif getattr(maxminddb, "_extension", None) is None:
        pytest.skip("maxminddb was built without its C library")


@pytest.mark.parametrize("record_size", [24, 28, 32])
@pytest.mark.parametrize(
    ("address", "country"),
    [
        ("192.0.2.1", "DE"),
        ("192.0.2.255", "DE"),
        ("::ffff:192.0.2.1", "DE"),
        ("192.0.3.0", ""),
        ("198.51.100.127", "FR"),
        ("198.51.100.128", ""),
        ("2001:db8::1", "NO"),
        ("2001:DB8:ffff:ffff::", "NO"),
        ("2001:db9::", ""),
        ("203.0.113.7", ""),  # ZZ: nobody knows
        ("", ""),
        ("unknown", ""),
        ("192.0.2.1.", ""),
        ("192.0.2.1" + "0" * 1000, ""),
        ("x" * 100_000, ""),
    ],
)
def test_an_address_has_the_country_of_its_network(
    path: pathlib.Path, address: str, country: str, record_size: int
) -> None:
    assert read_countries(str(write_mmdb(path, WORLD, record_size=record_size))).country_of(address) == country


@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1"),
        *("0.0.0.0", "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:10.1.2.3"),
    ],
)
def test_local_addresses_have_no_country_whatever_the_file_says(path: pathlib.Path, address: str) -> None:
    everywhere = read_countries(str(write_mmdb(path, {"::/1": "DE", "8000::/1": "DE"})))
    assert everywhere.country_of("1.2.3.4") == "DE"
    assert everywhere.country_of("fec0::1") == "DE"
    assert everywhere.country_of(address) == ""


def test_a_file_of_ipv4_alone_knows_none_of_ipv6(path: pathlib.Path) -> None:
    countries = read_countries(str(write_mmdb(path, {"192.0.2.0/24": "DE"}, ip_version=4)))
    assert countries.country_of("192.0.2.1") == "DE"
    assert countries.country_of("2001:db8::1") == ""


@pytest.mark.parametrize(
    ("record", "country"),
    [
        (dbip("AT"), "AT"),
        ({"country": {"iso_code": "AT"}, "registered_country": {"iso_code": "US"}}, "AT"),
        ({"registered_country": {"iso_code": "US"}, "traits": {"is_anycast": True}}, "US"),
        ({"country": {"names": {"en": "Austria"}}, "registered_country": {"iso_code": "US"}}, "US"),
        ({"country": "Austria", "country_code": "AT", "continent_code": "EU", "asn": "AS1"}, "AT"),
        ({"country": "AT", "country_name": "Austria"}, "AT"),
        ({"country_code": "at"}, "AT"),
        ({"country": "ZZ"}, ""),
        ({"country": {"iso_code": "Austria"}}, ""),
        ({"country": {"iso_code": "ÄÖ"}}, ""),
        ({"country": {"iso_code": 7}}, ""),
        ({"country": ["AT"]}, ""),
        ({"autonomous_system_number": 1}, ""),
        ("AT", ""),
        (None, ""),
    ],
)
def test_what_publishers_call_a_country(record: Any, country: str) -> None:
    assert code_in(record) == country


def test_a_file_says_what_it_is_and_when_it_is_old(path: pathlib.Path) -> None:
    countries = read_countries(str(write_mmdb(path, WORLD)))
    assert (countries.kind, countries.date) == ("DBIP-Country-Lite (compat=Country)", "2026-09-21")
    assert countries.why_old(BUILT - 86_400) is None  # a clock may be wrong
    assert countries.why_old(BUILT + 91 * 86_400 - 1) is None
    old = countries.why_old(BUILT + 91 * 86_400)
    assert old == f"geoip: {path} was built on 2026-09-21, 91 days ago: addresses have moved since"


def test_what_was_read_stays_whatever_becomes_of_the_file(path: pathlib.Path) -> None:
    countries = read_countries(str(write_mmdb(path, WORLD)))
    path.write_bytes(b"")  # in place, as a copy over it begins
    assert [countries.country_of(one) for one in ("192.0.2.1", "2001:db8::1")] == ["DE", "NO"]


def mapped() -> int:
    """How many files of countries are in memory."""
    return pathlib.Path("/proc/self/maps").read_text().count("memfd:geoip")


def test_an_old_file_takes_its_memory_along(path: pathlib.Path) -> None:
    gc.collect()
    gc.disable()
    try:
        before = mapped()
        countries = read_countries(str(write_mmdb(path, WORLD)))
        countries.country_of("192.0.2.1")
        gone = weakref.ref(countries)
        assert mapped() == before + 1
        del countries
        assert gone() is None
        assert mapped() == before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (b"", "another file, or a part of one"),
        (b"country,code\n", "another file, or a part of one"),
        (mmdb(WORLD)[:-200], "another file, or a part of one"),
        (mmdb(WORLD)[1000:], "another file, or a part of one"),
        (mmdb(WORLD, built=1 << 62), "a damaged one"),  # after the last day that there is
        (mmdb(WORLD)[:300] + mmdb(WORLD)[303:], "a damaged one"),
        (mmdb({"0.0.0.0/1": {"autonomous_system_number": Unsigned(1)}}, kind="ASN"), r"one without countries \(ASN\)"),
    ],
)
def test_what_is_no_file_of_countries_is_refused(path: pathlib.Path, written: bytes, found: str) -> None:
    path.write_bytes(written)
    with pytest.raises(NoCountries, match=f"^{found}$"):
        read_countries(str(path))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("fifo", "no file, but something else of that name"),
        ("none", "one that cannot be read (No such file or directory)"),
        ("", "one that cannot be read (Is a directory)"),
    ],
)
def test_what_is_no_file_is_not_waited_for(tmp_path: pathlib.Path, name: str, found: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NoCountries) as refused:
        read_countries(str(tmp_path / name))
    assert str(refused.value) == found


def test_a_file_that_is_too_large_is_not_read(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = write_mmdb(path, WORLD).stat().st_size
    monkeypatch.setattr(country_file, "MOST_BYTES", size)
    assert read_countries(str(path)).country_of("192.0.2.1") == "DE"
    monkeypatch.setattr(country_file, "MOST_BYTES", size - 1)
    with pytest.raises(NoCountries, match=f"^one of {size:,} bytes, of which {size - 1:,} are the most$"):
        read_countries(str(path))


def test_a_file_that_is_written_to_is_not_read(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mmdb(path, WORLD)
    copy = shutil.copyfileobj

    def meanwhile(source: Any, target: Any, length: int) -> None:
        copy(source, target, length)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(shutil, "copyfileobj", meanwhile)
    with pytest.raises(NoCountries, match="a file that somebody writes to"):
        read_countries(str(path))


def test_damage_within_makes_no_request_fail_and_is_logged_once(
    path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = mmdb(WORLD)
    begin = whole.index(b"\x00" * 16)
    # Of the data: a map of more entries than there are.
    path.write_bytes(whole[: begin + 16] + b"\xfc" * 40 + whole[begin + 56 :])
    countries = read_countries(str(path))
    assert [countries.country_of(f"192.0.2.{number}") for number in range(3)] == ["", "", ""]
    assert len([one for one in caplog.messages if "says nothing of 192.0.2" in one]) == 1
