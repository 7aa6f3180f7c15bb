"""The configuration as each action of the command needs it."""

from __future__ import annotations

import logging
from pathlib import Path

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.system import logs

_log = logging.getLogger(__name__)


def load(path: Path | None, *, serves: bool = False) -> Settings:
    """Load the configuration, and say what is odd in it, where the daemon logs to if it ``serves``, else on stderr.

    Raises ConfigError.
    """
    configuration = config.load(path)
    settings = configuration.settings
    if serves:
        logs.configure(level=settings.least_severe, to=settings.log_to, form=settings.log_format)
    else:
        logs.configure(level=settings.least_severe)
    for warning in configuration.warnings:
        _log.warning("%s", warning)
    return settings
