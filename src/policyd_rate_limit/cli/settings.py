"""The configuration as each action of the command needs it."""

from __future__ import annotations

import logging
from pathlib import Path

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.system import logs

_log = logging.getLogger(__name__)


def load(path: Path | None) -> Settings:
    """Load the configuration, send the log to standard error and say there what is odd in the configuration.

    Raises ConfigError.
    """
    configuration = config.load(path)
    logs.configure(debug=configuration.settings.debug)
    for warning in configuration.warnings:
        _log.warning("%s", warning)
    return configuration.settings
