"""Reads ``.yaml``: YAML 1.1 as PyYAML's safe loader knows it, where ``0666`` is octal.

Three things differ from ``yaml.safe_load``. The line of each value is kept. Keys, and the numbers among the patterns
of rules, are the text that stands in the file: an id such as ``no`` or ``0123`` is a name, neither False nor 83. And
what is read is bounded, since a few lines of references to references can stand for billions of values. No value of
the file appears in a message: it could be a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from policyd_rate_limit.config.source import DEEPEST, MOST_VALUES, Budget, Source, TooMuch
from policyd_rate_limit.domain.limits import shown
from policyd_rate_limit.errors import ConfigError

if TYPE_CHECKING:
    from policyd_rate_limit.config.kind import Place
    from policyd_rate_limit.errors import Problem

# The parser in C, ten times as fast, is not in every build of PyYAML.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_NUMBERS = frozenset({f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp"})  # 22:05 is an int, to YAML 1.1
_DEPTH_OF_PATTERNS = 3  # rules, a name, match or unless
_DEPTH_OF_TABLES = 2  # tables, a name
_EXPECTED = "did not find expected "  # how a message of libyaml begins
_QUOTES = "text that begins with *, @, % or ` needs quotes"
_MOST_EVENTS = 3 * MOST_VALUES  # of the parser: a list and a mapping have two, and each key one
_MOST_SIGNS = 2 * MOST_VALUES
_LONGEST_SCALAR = 64  # characters of a number or a date; the time to read one grows with the square of them


class _Refused(Exception):
    """What stands at a line of the file is not allowed there."""

    def __init__(self, node: yaml.Node, expected: str, found: str) -> None:
        self.line = _line(node)
        self.expected = expected
        self.found = found
        super().__init__(expected)


def read_yaml(text: str, file: str) -> Source:
    """The settings in the text of a ``.yaml`` file. Raises ConfigError."""
    source = Source(file)
    try:
        _check_depth(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is not None and not _is_null(root):
                _Reader(loader, source).read(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_problem(source, error)]) from None
    except yaml.YAMLError:
        raise ConfigError([source.problem(0, "YAML", "characters that it does not allow")]) from None
    except _Refused as refused:
        raise ConfigError([source.problem(refused.line, refused.expected, refused.found)]) from None
    except (TooMuch, RecursionError):
        found = "too many, or too deep inside each other"
        raise ConfigError([source.problem(0, "fewer values", found)]) from None
    return source


def _problem(source: Source, error: yaml.MarkedYAMLError) -> Problem:
    """What PyYAML says is wrong, at the line where what it belongs to begins, if it goes on to the end of the file."""
    mark, begin = error.problem_mark, error.context_mark
    found = _without_names(error.problem or "an error").removeprefix("found ")
    if (error.problem or "").startswith(_EXPECTED):  # signs of YAML's, and nothing of the file
        found = f"no {(error.problem or '').removeprefix(_EXPECTED)}"
    if "undefined alias" in found:
        found = f"an alias that is not defined before; {_QUOTES}"
    elif "an alias" in (error.context or ""):
        found = f"an alias without a name; {_QUOTES}"
    elif "cannot start any token" in found:
        found = f"a character that begins nothing; {_QUOTES}"
    elif "mapping values are not allowed" in found:
        found = f"{found}; text with a colon and a space in it needs quotes"
    if begin is not None and "end of stream" in found and "quoted scalar" in (error.context or ""):
        return source.problem(begin.line + 1, "YAML", "a quote that does not end")
    if begin is not None and error.context and "flow" in error.context and (mark is None or mark.line > begin.line):
        kind = "list" if "sequence" in error.context else "mapping"
        found = f"{found}, in a {kind} that begins in line {begin.line + 1}"
    return source.problem(mark.line + 1 if mark else 0, "YAML", found)


def _check_depth(text: str) -> None:
    """Raise TooMuch before values so many, or so deep, that PyYAML would run out of memory or of stack."""
    # Each of these is a value of its own, but for those inside of text.
    if sum(map(text.count, ",[{")) > _MOST_SIGNS:
        raise TooMuch
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if count > _MOST_EVENTS:
            raise TooMuch
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise TooMuch
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Makes the values of one file from its nodes."""

    def __init__(self, loader: Any, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._budget = Budget()
        self._is_given_twice = False  # so that lines of another value may be known for a place

    def read(self, root: yaml.Node) -> None:
        """Make all values."""
        if not isinstance(root, yaml.MappingNode):
            raise _Refused(root, "settings, such as debug: true", "something else")
        self._source.values = self._mapping(root, (), 0, 0)

    def _value(self, node: yaml.Node, place: Place, depth: int, line: int) -> object:
        """The value of a node at ``place``, of which ``line`` is known."""
        self._budget.spend(1, depth)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, place, depth, line)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [
                self._value(item, (*place, index), depth + 1, self._keep_line((*place, index), _line(item), line))
                for index, item in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        raise _Refused(node, "a list, a mapping or a plain value", "a value of another type")

    def _keep_line(self, place: Place, line: int, around: int) -> int:
        """Keep the ``line`` of ``place``, unless it is that of what is around it, which is then found; ``line``."""
        if line != around or self._is_given_twice:
            self._source.lines[place] = line
        return line

    def _mapping(self, node: yaml.MappingNode, place: Place, depth: int, around: int) -> dict[str, object]:
        result: dict[str, object] = {}
        merged: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                self._merge(value_node, merged, place, depth + 1)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused(key_node, "text as a key", "a list or a mapping")
            key = key_node.value
            if key in result:
                what = f"{shown(key)} is" if not place else "a key that is"
                self._source.warn(_line(key_node), f"{what} given before; this one counts")
                self._is_given_twice = True
            line = self._keep_line((*place, key), _line(key_node), around)
            result[key] = self._value(value_node, (*place, key), depth + 1, line)
        return {**merged, **result}

    def _merge(self, node: yaml.Node, into: dict[str, object], place: Place, depth: int) -> None:
        """Add the mapping, or the mappings, that ``<<`` names; of equal keys the first one counts."""
        self._budget.spend(1, depth)
        if isinstance(node, yaml.MappingNode):
            for key, value in self._mapping(node, place, depth, _line(node)).items():
                into.setdefault(key, value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._merge(item, into, place, depth + 1)
        else:
            raise _Refused(node, "a mapping to merge", "something else")

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> object:
        text = node.value
        is_no = node.tag == f"{_TAG}bool" and _is_of_table(place)  # a name there, or yes, as people write them
        if node.tag == f"{_TAG}str" or is_no or (node.tag in _NUMBERS and _is_pattern(place)):
            self._budget.spend(len(text) >> 4)
            return text
        if len(text) > _LONGEST_SCALAR:
            raise _Refused(node, "text in quotes", "a number or a date that is too long")
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError, TypeError, LookupError, AttributeError, yaml.YAMLError):
            raise _Refused(node, "a plain value, or text in quotes", "a value that YAML cannot read") from None


def _is_pattern(place: Place) -> bool:
    """Whether a value at ``place`` is a pattern of a rule, or one of several, or what a table holds."""
    if place[0] == "tables":
        return _is_of_table(place)
    return len(place) > _DEPTH_OF_PATTERNS and place[0] == "rules" and place[2] in ("match", "unless")


def _is_of_table(place: Place) -> bool:
    """Whether a value at ``place`` is what a table holds."""
    return len(place) > _DEPTH_OF_TABLES and place[0] == "tables"


def _is_null(node: yaml.Node) -> bool:
    """Whether a file holds nothing but comments, or an explicit null."""
    return isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line


def _without_names(problem: str) -> str:
    """A message of PyYAML without the names that it quotes, which could be a password."""
    return re.sub(r"""(["']).{2,}\1""", "…", problem, flags=re.DOTALL)
