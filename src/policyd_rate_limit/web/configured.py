"""The configuration while the web page runs: read again when its file has changed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit import config
from policyd_rate_limit.errors import ConfigError

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings

_logger = logging.getLogger(__name__)


class Configured:
    """The settings in force, from those at the start on. For many threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Path(settings.config_file) if settings.config_file else None
        self._lock = threading.Lock()
        self._seen = _look(self._path)

    def settings(self) -> Settings:
        """Those that were read last."""
        return self._settings

    def version(self) -> tuple[int, ...]:
        """Another one as soon as the file is another."""
        return _look(self._path)

    def read(self) -> Settings:
        """Those of the file, which is read if it has changed; with a mistake in it they stay as they were."""
        with self._lock:
            seen = _look(self._path)
            if self._path is not None and seen != self._seen:
                self._seen = seen
                try:
                    self._settings = config.load(self._path).settings
                    _logger.info("%s has changed, and is used as it is now", self._path)
                except ConfigError as error:
                    _logger.error("the configuration stays as it was: %s", error.problems[0])
            return self._settings


def _look(path: Path | None) -> tuple[int, ...]:
    if path is None:
        return ()
    try:
        facts = path.stat()
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size
