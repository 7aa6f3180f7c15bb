"""Checking every setting that a file gives."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.config.references import wrong_references
from policyd_rate_limit.config.remarks import remarks
from policyd_rate_limit.config.rules import names_in
from policyd_rate_limit.config.schema import OLD_NAMES, SETTINGS, Settings
from policyd_rate_limit.config.setting import SettingsError
from policyd_rate_limit.config.tolerance import tolerate
from policyd_rate_limit.domain.ids import canonical_id
from policyd_rate_limit.domain.limits import shown
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config.kind import Place
    from policyd_rate_limit.config.source import Source

OF_DEFAULT = frozenset({"limits", "limits_by_id", "sql_limits_by_id"})
"""The settings that make the rule ``default``; beside others there is one only where one of these is written."""

_MOST_HINTS = 20  # since to find the nearest name takes a millisecond
_WORD = re.compile(r"[\w-]*")
_LONGEST_NAME = 100

# Those of other backends than the one in use are left alone.
_OPTIONS = {database.setting: backend for backend, database in DATABASES.items()}


class Configuration(NamedTuple):
    """The settings, and what the administrator should know about the file they come from."""

    settings: Settings
    warnings: tuple[str, ...]


def check(source: Source) -> Configuration:
    """The settings of a file that was read. Raises ConfigError with every problem."""
    spelled = _spelled(source)
    given: dict[str, Any] = {"config_file": source.file}
    for setting, name in spelled.items():
        if source.values[name] is not None or not SETTINGS[setting].may_be_empty:
            given[setting] = _tolerated(source, setting, name)
    settings = _validated(source, given, spelled)
    if settings.rules and not given.keys() & OF_DEFAULT:
        settings = settings.with_values(limits=())
    _check_countries(source, settings)
    _warn_of_equal_ids(source, settings)
    if settings.report and settings.report_to is None and "report_to" not in settings.broken:
        broken = "report is on, and report_to is not set: the report goes to nobody"
        source.warn(source.line(("report",)), broken)
        settings = settings.with_broken({**settings.broken, "report_to": broken})
    for remark in remarks(settings):
        first, *rest = remark.place
        source.warn(source.line((spelled.get(str(first), first), *rest)), remark.text)
    return Configuration(settings, source.warnings)


def _tolerated(source: Source, setting: str, name: str) -> object:
    """The value of ``setting``, spelled ``name``, as its kind can read it; what is odd about it is warned of."""
    reading = tolerate(setting, source.values[name])
    for odd in reading.oddities:
        place = (name, *odd.place)
        found = "a value that is not shown" if SETTINGS[setting].secret else shown(odd.value)
        source.warn(source.line(place), f"{_spell(place)}: found {found}: {odd.meaning}")
    return reading.value


def _validated(source: Source, given: dict[str, Any], spelled: dict[str, str]) -> Settings:
    """The settings of the values ``given``, of those in the file that are ``spelled`` so.

    What nobody is limited by keeps its default where it is wrong, and is warned of. Raises ConfigError.
    """
    try:
        return _consistent(given)
    except SettingsError as error:
        problems = list(_problems(source, error, spelled))
    backend = given.get("backend", SETTINGS["backend"].default)
    beside = [(name, problem) for name, problem in problems if _is_beside(name, backend)]
    broken: dict[str, str] = {}
    for name, problem in beside:
        reporting = SETTINGS[name].reporting
        source.warn(
            problem.line, f"{problem.statement}; {'only what needs it fails' if reporting else 'it is not used'}"
        )
        if reporting:
            broken.setdefault(name, str(problem))
        given.pop(name, None)
    wrong = [problem for name, problem in problems if not _is_beside(name, backend)]
    if wrong:
        raise ConfigError(sorted(wrong, key=lambda problem: problem.line), source.warnings) from None
    try:
        return _consistent(given).with_broken(broken)
    except SettingsError as error:
        wrong = [problem for _, problem in _problems(source, error, spelled)]
        raise ConfigError(sorted(wrong, key=lambda problem: problem.line), source.warnings) from None


def _consistent(given: dict[str, Any]) -> Settings:
    """The settings of the values ``given``. Raises SettingsError, also for what is wrong between two of them."""
    settings = Settings(**given)
    faults = wrong_references(settings)
    if faults:
        raise SettingsError(faults)
    return settings


def _is_beside(name: str, backend: object) -> bool:
    """Whether mail is limited as it should be whatever the setting ``name`` is."""
    return SETTINGS[name].reporting or (name in _OPTIONS and backend in _OPTIONS.values() and _OPTIONS[name] != backend)


def _spelled(source: Source) -> dict[str, str]:
    """The settings that a file gives, each with the name that it has there; odd names are warned of."""
    spelled: dict[str, str] = {}
    unknown: list[str] = []
    for name in source.values:
        setting = OLD_NAMES.get(name, name)
        if name == "config_file":
            source.warn(source.line((name,)), "config_file is the path of this file, whatever it is set to")
        elif setting not in SETTINGS:
            unknown.append(name)
        elif setting != name and setting in source.values:
            source.warn(source.line((name,)), f"{name} is the old name of {setting}, which is here too and counts")
        else:
            spelled[setting] = name
            if setting != name:
                source.warn(source.line((name,)), f"{name} is the old name of {setting}")
    _warn_of_unknown(source, [name for name in unknown if name not in source.helpers])
    return spelled


def _warn_of_unknown(source: Source, names: list[str]) -> None:
    """Warn of names that are no settings, and say which setting each most likely means."""
    known = {setting.lower(): setting for setting in SETTINGS}
    for index, name in enumerate(names):
        # Where a colon or a comma went wrong, YAML takes a value, which may be a secret, for a name or a part of one.
        word = _WORD.match(name)[0]  # type: ignore[index]  # the pattern matches any text, even an empty one
        near = get_close_matches(word.lower()[:_LONGEST_NAME], known, 1) if index < _MOST_HINTS else []
        hint = f"; did you mean {known[near[0]]}?" if near else ""
        shown = _one_line(word) + "…" * (word != name) if near or source.values[name] is not None else "without a value"
        source.warn(source.line((name,)), f"unknown setting {shown}{hint}")


def _problems(source: Source, error: SettingsError, spelled: dict[str, str]) -> Iterator[tuple[str, Problem]]:
    """What is wrong with the value of which setting. Nothing of a secret one is shown."""
    for name, faults in error.faults.items():
        setting = SETTINGS[name]
        for fault in faults:
            place = (spelled.get(name, name), *fault.place)
            expected = fault.expected or setting.kind.expected
            found = "a value that is not shown" if setting.secret else shown(fault.value)
            yield name, source.problem(source.line(place), expected, found, _spell(place))


def _spell(place: Place) -> str:
    """``limits[1]``, ``limits_by_id.alice``."""
    first, *rest = place
    return str(first) + "".join(f"[{key}]" if isinstance(key, int) else f".{_one_line(key)}" for key in rest)


def _one_line(key: object) -> str:
    text = str(key)
    return text if text.isprintable() and len(text) <= _LONGEST_NAME else shown(text)


def _check_countries(source: Source, settings: Settings) -> None:
    """See that rules ask for countries only where there is a file of them. Raises ConfigError."""
    if settings.geoip is not None:
        return
    problems = [
        source.problem(
            source.line(("rules", rule.name)),
            "geoip, the path of a file that says which country an address is in, since this rule names country",
            "none",
            f"rules.{rule.name}",
        )
        for rule in settings.rules
        if "country" in names_in(rule)
    ]
    if problems:
        raise ConfigError(problems, source.warnings)


def _warn_of_equal_ids(source: Source, settings: Settings) -> None:
    """Warn of ids that are spelled differently, and are one."""
    seen: dict[str, str] = {}
    for name in settings.limits_by_id:
        other = seen.setdefault(canonical_id(name), name)
        if other != name:
            line = source.line(("limits_by_id", name))
            source.warn(line, f"{shown(name)} and {shown(other)} in limits_by_id are one id; the last one counts")
