"""Errors about drivers: one that is not installed, or that is given an unknown option."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def missing_driver(database: str, extra: str, error: ImportError) -> ConfigError:
    """The Python package that speaks to ``database`` is not installed."""
    wanted = f"a driver for {database}, which this installs: pip install 'policyd-rate-limit[{extra}]'"
    return ConfigError([Problem("configuration", 0, "backend", wanted, f"none ({error})")])


def check_options(setting: str, function: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """:raises ConfigError: there are ``options`` that are not ``known``. (Their values may be secret.)"""
    known = frozenset(known)
    problems = [
        Problem("configuration", 0, f"{setting}.{name}", f"a keyword argument of {function}", "another name")
        for name in options
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
