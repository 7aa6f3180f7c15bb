"""A file of countries that is damaged is refused, or says of each address a country or none: never an error."""

from __future__ import annotations

import logging
import pathlib
import tempfile

from policyd_rate_limit.tables.country_file import NoCountries, read_countries
from support.mmdb import Unsigned, mmdb

ADDRESSES = ("192.0.2.1", "198.51.100.200", "1.2.3.4", "2001:db8::1", "ffff::", "::ffff:192.0.2.1")
_WORLD = {
    "192.0.2.0/24": "DE",
    "198.51.100.0/25": {"registered_country": {"iso_code": "FR"}, "asn": Unsigned(7)},
    "1.0.0.0/8": {"country": "Austria", "country_code": "AT", "more": [{"a": "b"}, True]},
    "2001:db8::/32": "NO",
}
SEEDS = (
    *(mmdb(_WORLD, record_size=size) for size in (24, 28, 32)),
    mmdb({"192.0.2.0/24": "DE", "128.0.0.0/2": {}}, ip_version=4),
    b"",
    b"\xab\xcd\xefMaxMind.com\xe0",
)
_DIRECTORY = tempfile.TemporaryDirectory()
_PATH = pathlib.Path(_DIRECTORY.name) / "countries.mmdb"
_SILENT = logging.getLogger("policyd_rate_limit.tables.country_file")


def one_input(data: bytes) -> None:
    """Read ``data`` as a file, and ask it."""
    _PATH.write_bytes(data)
    try:
        countries = read_countries(str(_PATH))
    except NoCountries:
        return
    was_disabled, _SILENT.disabled = _SILENT.disabled, True
    try:
        found = [countries.country_of(address) for address in ADDRESSES]
    finally:
        _SILENT.disabled = was_disabled
    assert all(code == "" or (len(code) == 2 and code.isascii() and code.isupper()) for code in found)
    assert len(countries.date) >= len("1-01-01")
    countries.why_old(0.0)
