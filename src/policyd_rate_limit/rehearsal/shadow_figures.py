"""Reads what ``policyd-rate-limit shadow --json`` has written: what rules in shadow would have refused, and to whom."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.limits import Limit, shown
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MOST_BYTES: Final = 16 << 20
"""The most bytes of such a file: some 80,000 ids."""

_LATEST: Final = 1 << 40
"""No second is later."""

_WHAT: Final = "what `policyd-rate-limit shadow --json` writes"


class ToldId(NamedTuple):
    """So many requests of ``key`` (``user:alice``) would have been ``refused``, from ``first`` to ``last``.

    Unix seconds. ``limit``: the one that would have refused most of them.
    """

    key: str
    refused: int
    first: int
    last: int
    limit: Limit


class ToldRule(NamedTuple):
    """By key, whom a rule would have refused; ``refused`` requests in all, also of ids that are not named.

    ``is_whole``: all ids are named.
    """

    ids: Mapping[str, ToldId]
    refused: int
    is_whole: bool


class ShadowFigures(NamedTuple):
    """What ``file`` tells by rule, of requests from the Unix second ``since`` until ``until``."""

    file: str
    since: int
    until: int
    rules: Mapping[str, ToldRule]


def read_shadow(path: Path) -> ShadowFigures | None:
    """What the file at ``path`` tells, which is known by its content; None: it is a configuration, or may be one.

    Raises ConfigError where the file cannot be read, or is neither.
    """
    may_be_configuration = path.suffix in (".conf", ".yaml", ".yml")
    if path.suffix == ".conf":
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if may_be_configuration:  # whoever loads it says so
            return None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _problem(path, "a file that can be read", reason) from None
    if may_be_configuration and not data.lstrip().startswith(b"{"):
        return None
    try:
        value = _parsed(path, data)
    except ConfigError:
        if may_be_configuration:
            return None
        raise
    if may_be_configuration and not (isinstance(value, dict) and {"since", "time", "rules"} <= value.keys()):
        return None
    return _Reading(path).figures(value)


def _problem(path: Path, expected: str, found: str, *, line: int = 0, member: str = "") -> ConfigError:
    return ConfigError([Problem(str(path), line, member, expected, found)])


def _parsed(path: Path, data: bytes) -> object:
    if len(data) > MOST_BYTES:
        raise _problem(path, f"at most {quantity(MOST_BYTES, 'byte')}", "more")
    expected = f"{_WHAT}, or a configuration, whose name ends in .yaml or .conf"
    try:
        return json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise _problem(path, expected, f"no JSON: {error.msg}", line=error.lineno) from None
    except UnicodeDecodeError as error:
        raise _problem(path, expected, f"the byte 0x{data[error.start]:02x}, which is no UTF-8") from None
    except (ValueError, RecursionError):
        raise _problem(path, expected, "JSON with numbers too long, or values too deep") from None


class _Reading:
    """Makes figures of the values of one file; each complaint names the member that is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def figures(self, value: object) -> ShadowFigures:
        """All of it. Raises ConfigError."""
        if not isinstance(value, dict) or not {"since", "time", "rules"} <= value.keys():
            found = f"JSON with {', '.join(map(shown, value))}" if isinstance(value, dict) and value else shown(value)
            raise _problem(self._path, f"{_WHAT}: an object with since, time and rules", found)
        since = self._number(value, "", "since")
        until = self._number(value, "", "time", least=since)
        rules = self._member(value, "", "rules", dict, "an object of rules by name")
        return ShadowFigures(
            str(self._path), since, until, {name: self._rule(f"rules.{name}.", rule) for name, rule in rules.items()}
        )

    def _rule(self, place: str, rule: object) -> ToldRule:
        if not isinstance(rule, dict):
            raise self._wrong(place[:-1], "an object", rule)
        refused = self._number(rule, place, "refused")
        others = self._member(rule, place, "other_ids", dict, "an object with ids and refused")
        unnamed = [self._number(others, f"{place}other_ids.", name) for name in ("ids", "refused")]
        ids: dict[str, ToldId] = {}
        named = self._member(rule, place, "ids", list, "a list of ids")
        for told in self._ids(place, named):
            before = ids.get(told.key)
            ids[told.key] = told if before is None else _both(before, told)
        return ToldRule(ids, refused, not any(unnamed))

    def _ids(self, place: str, ids: list[object]) -> Iterator[ToldId]:
        for number, one in enumerate(ids):
            at = f"{place}ids[{number}]."
            if not isinstance(one, dict):
                raise self._wrong(at[:-1], "an object", one)
            counter = self._member(one, at, "key", str, "text such as 'person|user:alice'")
            limit = self._member(one, at, "limit", list, "a pair such as [10, 60]")
            if len(limit) != len(Limit._fields) or not all(_is_number(part) for part in limit):
                raise self._wrong(f"{at}limit", "a pair such as [10, 60]", limit)
            first = self._number(one, at, "since")
            yield ToldId(
                prefix_and_key(counter)[1],
                self._number(one, at, "refused"),
                first,
                self._number(one, at, "last", least=first),
                Limit(*limit),
            )

    def _number(self, values: dict[str, object], place: str, name: str, least: int = 0) -> int:
        value: Any = values.get(name)
        if not _is_number(value) or not least <= value <= _LATEST:
            raise self._wrong(f"{place}{name}", f"a whole number from {least} on", value)
        return int(value)

    def _member(self, values: dict[str, object], place: str, name: str, kind: type, expected: str) -> Any:
        value = values.get(name)
        if not isinstance(value, kind):
            raise self._wrong(f"{place}{name}", expected, value)
        return value

    def _wrong(self, member: str, expected: str, found: object) -> ConfigError:
        return _problem(self._path, expected, shown(found), member=member)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _both(one: ToldId, other: ToldId) -> ToldId:
    """One id that two limits of a rule would have refused."""
    most = max(one, other, key=lambda told: told.refused)
    return most._replace(
        refused=one.refused + other.refused, first=min(one.first, other.first), last=max(one.last, other.last)
    )
