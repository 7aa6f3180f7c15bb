"""The configuration: one declaration per setting, read from ``.yaml`` or ``.conf``, checked all at once."""

from policyd_rate_limit.config.apart import load_apart
from policyd_rate_limit.config.checking import Configuration
from policyd_rate_limit.config.finding import find
from policyd_rate_limit.config.loading import import_readers, load
from policyd_rate_limit.config.schema import Settings
from policyd_rate_limit.config.showing import show

__all__ = ["Configuration", "Settings", "find", "import_readers", "load", "load_apart", "show"]
