"""All settings: those of each file in `settings`, and the path of the configuration.

The sample files, the documentation's table of settings and the messages about wrong values are made from this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policyd_rate_limit.config.kind import Kind, unset_or
from policyd_rate_limit.config.setting import setting
from policyd_rate_limit.config.settings.web import WebSettings

OLD_NAMES = {"limited_netword": "limited_networks"}
"""Old spellings of settings, which go on working."""


@dataclass(frozen=True, init=False)
class Settings(WebSettings):
    """The configuration. Without arguments: the defaults."""

    config_file: str | None = setting(
        unset_or(Kind("a path", str)),
        None,
        "The path of the configuration file in use. It is set by itself.",
        reload=True,
    )

    _broken: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def broken(self) -> Mapping[str, str]:
        """The settings for the report and the alerts that have a mistake, and which; they are at their defaults.

        The daemon serves with them. Whoever needs one fails, and says why.
        """
        return dict(self._broken)

    def mistakes_of(self, *beginnings: str) -> str:
        """What is wrong with the ``broken`` ones whose names begin so, on one line; empty: nothing."""
        return "; ".join(text for name, text in self._broken if name.startswith(beginnings))

    def with_broken(self, broken: Mapping[str, str]) -> Settings:
        """The same settings, of which those in ``broken`` have these mistakes."""
        return self.with_values(_broken=tuple(broken.items()))

    @property
    def least_severe(self) -> str:
        """The level from which on is logged, whether ``log_level`` is set or not."""
        return self.log_level or ("debug" if self.debug else "info")


SETTINGS = Settings.declarations()
"""Every setting by its name, in the order of the documentation."""
