"""The countries of addresses, from a file in the format of MaxMind DB, such as DB-IP, MaxMind and IPinfo publish.

https://maxmind.github.io/MaxMind-DB/
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from policyd_rate_limit.domain.networks import MOST_ADDRESS, parse_address, parse_network
from policyd_rate_limit.system.throttle import Throttle

MOST_BYTES: Final = 256 << 20
"""The most of one file, all of which is kept in memory. Those of countries have some 10 MB, those of cities 60 MB."""

REMEMBERED: Final = 16_384
"""The most addresses whose country is remembered, some 200 bytes each."""

OLD_DAYS: Final = 90
"""A file of more days is wrong about many addresses. Publishers build one each month, or more often."""

_DAY: Final = 86_400
_LAST_MOMENT: Final = 253_402_300_799  # of the year 9999
_TROUBLE_SECONDS: Final = 3600.0  # between two lines about what cannot be read in a file
_SEPARATOR: Final = 16  # zeros between the search tree and the data
_CODE: Final = re.compile("[A-Za-z]{2}")
_UNKNOWN: Final = ("ZZ", "XX")  # codes of ISO 3166-1 that stand for no country
_LOCAL: Final = tuple(
    map(
        parse_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.168.0.0/16", "::", "::1", "fc00::/7", "fe80::/10"),
        ),
    )
)
_WIDTHS: Final = {4: 32, 6: 128}
# By version: the first bits of each, and how many bits follow.
_LOCAL_BITS: Final = {
    version: tuple(
        (local.bits >> width - local.length, width - local.length) for local in _LOCAL if local.version == version
    )
    for version, width in _WIDTHS.items()
}
# All over IPv4, where any file that knows countries knows some.
_TRIED: Final = tuple(f"{first}.{first * 37 % 256}.{first * 91 % 256}.1" for first in range(1, 224))

_logger = logging.getLogger(__name__)


class NoCountries(ValueError):
    """A file cannot be read, or is none with countries. The text says what it is instead."""


Signature = tuple[int, ...]
"""What differs once a file is another one, or was written to, or its rights have changed."""


def signature_of(facts: os.stat_result) -> Signature:
    """That of a file of which ``stat`` said ``facts``."""
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class CountryFile:
    """What one file says, as it was when it was read: nothing that becomes of it on disk changes that.

    ``built``: when its publisher made it, in Unix seconds; ``date``: on which day (``2026-11-01``). ``kind``: what its
    publisher calls it.
    """

    def __init__(self, path: str, reader: Any, signature: Signature) -> None:
        metadata = reader.metadata()
        self.path = path
        self.signature = signature
        self.built = int(metadata.build_epoch)
        if not 0 <= self.built <= _LAST_MOMENT:
            raise NoCountries("a damaged one")
        self.date = datetime.fromtimestamp(self.built, UTC).strftime("%Y-%m-%d")
        self.kind = str(metadata.database_type)
        self._remembered = lru_cache(REMEMBERED)(_Records(path, reader, int(metadata.ip_version)).country_of)

    def country_of(self, address: str) -> str:
        """The country of ``address``, as two letters of ISO 3166-1 in upper case.

        Empty where it has none, as a private one, or where none is known. It never fails.
        """
        return self._remembered(address) if len(address) <= MOST_ADDRESS else ""

    def why_old(self, now: float) -> str | None:
        """What there is to say of its age at ``now`` (Unix seconds); None: it is not old."""
        days = int(now - self.built) // _DAY
        if days <= OLD_DAYS:
            return None
        return f"geoip: {self.path} was built on {self.date}, {days} days ago: addresses have moved since"


class _Records:
    """The records of one file; apart from what remembers them, so that an old file goes by reference counts."""

    def __init__(self, path: str, reader: Any, ip_version: int) -> None:
        self._path = path
        self._reader = reader
        self._ip_version = ip_version
        self._may_log = Throttle(_TROUBLE_SECONDS, time.monotonic).hit

    def country_of(self, text: str) -> str:
        address = parse_address(text)
        if address is None or (address.version == 6 and self._ip_version == 4):
            return ""
        for first_bits, others in _LOCAL_BITS[address.version]:
            if address.bits >> others == first_bits:
                return ""
        try:
            return code_in(self._reader.get(str(address)))
        except Exception as error:  # noqa: BLE001 - a damaged file makes a reader fail in any way, and no request
            log_it, _ = self._may_log()
            if log_it:
                _logger.warning("geoip: %s says nothing of %s that can be read: %s", self._path, address, error)
            return ""


def code_in(record: object) -> str:
    """The country that the ``record`` of an address names; empty: none.

    ``country_code`` and ``country`` (IPinfo), ``country.iso_code`` (DB-IP, MaxMind); where MaxMind does not know in
    which country an address is used, that in which it is registered.
    """
    if not isinstance(record, dict):
        return ""
    for name in ("country_code", "country", "registered_country"):
        found = record.get(name)
        code = found.get("iso_code") if isinstance(found, dict) else found
        if isinstance(code, str) and _CODE.fullmatch(code) and code.upper() not in _UNKNOWN:
            return code.upper()
    return ""


def read_countries(path: str) -> CountryFile:
    """Read the file at ``path`` into memory.

    It is copied, and the copy mapped: who writes to a file that is mapped ends the process that has it mapped.
    Raises NoCountries, ImportError where the library is not installed.
    """
    import maxminddb  # of an extra

    try:
        with (
            os.fdopen(
                os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb"
            ) as file,  # a FIFO is not waited for
            os.fdopen(os.memfd_create("geoip", os.MFD_CLOEXEC), "w+b") as copy,
        ):
            before = os.fstat(file.fileno())
            _check(before)
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            signature = signature_of(before)
            if signature_of(os.fstat(file.fileno())) != signature or copy.tell() != before.st_size:
                raise NoCountries("a file that somebody writes to")
            try:
                reader = maxminddb.open_database(f"/proc/self/fd/{copy.fileno()}")
                metadata = reader.metadata()
                separator = os.pread(copy.fileno(), _SEPARATOR, metadata.node_count * metadata.record_size // 4)
                found = CountryFile(path, reader, signature)
                records = [record for record in map(reader.get, _TRIED) if record is not None]
            except (OSError, NoCountries):
                raise
            except Exception as error:
                raise NoCountries("another file, or a part of one") from error
    except OSError as error:
        raise NoCountries(f"one that cannot be read ({error.strerror or error})") from error
    if separator != bytes(_SEPARATOR):
        raise NoCountries("a damaged one")
    if records and not any(map(code_in, records)):
        raise NoCountries(f"one without countries ({found.kind})")
    return found


def _check(facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise NoCountries("no file, but something else of that name")
    if facts.st_size > MOST_BYTES:
        raise NoCountries(f"one of {facts.st_size:,} bytes, of which {MOST_BYTES:,} are the most")
