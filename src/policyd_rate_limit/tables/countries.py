"""Whom rules ask for the country of a client: a file, which is reread when it is another one."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.config.rules import names_in
from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.tables.country_file import CountryFile, NoCountries, Signature, read_countries, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.config import Settings

LOOK_SECONDS: Final = 1.0
"""Between two looks whether the file is another one."""

_DAY: Final = 86_400
_EXPECTED: Final = "a file of countries (MaxMind DB, .mmdb), since rules ask for country"

_logger = logging.getLogger(__name__)


def asks_for_countries(settings: Settings) -> bool:
    """Whether any rule looks at the country of a client."""
    return any("country" in names_in(rule) for rule in settings.rules)


def open_countries(settings: Settings) -> CountryFile:
    """The file that ``geoip`` names. Raises ConfigError: it is not to be had."""
    place = settings.config_file or "configuration"
    if settings.geoip is None:
        raise ConfigError([Problem(place, 0, "geoip", _EXPECTED, "none")])
    try:
        return read_countries(settings.geoip)
    except NoCountries as error:
        raise ConfigError([Problem(place, 0, "geoip", _EXPECTED, f"{error}: {settings.geoip}")]) from error
    except ImportError as error:
        wanted = "a reader of MaxMind DB, which this installs: pip install 'policyd-rate-limit[geoip]'"
        raise ConfigError([Problem(place, 0, "geoip", wanted, f"none ({error})")]) from error


class Countries:
    """Goes on with what it knows, whatever becomes of the file; a better one is read once nobody writes to it.

    ``file``: as it was read. ``clock``: Unix seconds.
    """

    def __init__(self, file: CountryFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock
        self._seen: object = file.signature  # what was there at the last look
        self._refused: object = None  # what is there, and cannot be read
        self._fault = ""
        self._old_told = float("-inf")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._file.path

    def country_of(self, address: str) -> str:
        """As :meth:`CountryFile.country_of`, by the newest file that could be read."""
        return self._file.country_of(address)

    def start(self) -> None:
        """Look after the file, in a thread."""
        self._thread = threading.Thread(target=self._run, name="geoip", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End that, at once; whoever asks still gets an answer."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        """Wait for its end, for so long at the most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            self.look()
            if self._stopping.wait(LOOK_SECONDS):
                return

    def look(self) -> None:
        """See whether the file is another one, and has been the same for two looks; if so, read it. It may block."""
        try:
            found: object = signature_of(Path(self.path).stat())
        except OSError as error:
            found = error.strerror or str(error)
        if found != self._seen:
            self._seen = found  # it may still be written
        elif not isinstance(found, tuple):
            self._tell(f"it cannot be read ({found})")
        elif found == self._file.signature:
            # Or that would be found out only with the next one.
            self._tell("" if os.access(self.path, os.R_OK) else f"uid {os.geteuid()} may not read it, nor the next one")
        elif found != self._refused:
            self._read(found)
        self._mind_age()

    def _read(self, found: Signature) -> None:
        try:
            self._file = read_countries(self.path)
        except NoCountries as error:
            self._refused = found
            self._tell(f"the new file is {error}")
        except Exception:
            self._refused = found
            _logger.exception("geoip: %s cannot be read", self.path)
        else:
            self._refused, self._fault = None, ""
            _logger.info("geoip: %s read, %s of %s", self.path, self._file.kind, self._file.date)

    def _tell(self, fault: str) -> None:
        """Say once what is wrong, and once that it no longer is."""
        if fault and fault != self._fault:
            _logger.warning("geoip: %s: %s; countries stay those of %s", self.path, fault, self._file.date)
        elif self._fault and not fault:
            _logger.info("geoip: %s can be read again", self.path)
        self._fault = fault

    def _mind_age(self) -> None:
        """Say once a day that the file is old, if it is."""
        now = self._clock()
        if not _DAY > now - self._old_told >= 0:
            old = self._file.why_old(now)
            if old is not None:
                self._old_told = now
                _logger.warning("%s", old)
