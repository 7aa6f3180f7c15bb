"""Writes a ``.conf`` as ``.yaml``: the same settings in the same order, with the comments of the file."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from policyd_rate_limit.config.checking import check
from policyd_rate_limit.config.conf_file import read_conf
from policyd_rate_limit.config.kinds import PERMISSION
from policyd_rate_limit.config.schema import OLD_NAMES, SETTINGS
from policyd_rate_limit.config.yaml_file import read_yaml
from policyd_rate_limit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ONE_LINE = 1 << 30  # columns

# What ends a line, or may not stand, in a comment of YAML 1.1, and does neither in one of Python.
_NOT_IN_A_COMMENT = re.compile("[^\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


class Conversion(NamedTuple):
    """A configuration in YAML."""

    text: str
    notes: tuple[str, ...]
    """What is not as it was, each on one line that begins with the place in the old file."""
    secret: bool
    """Whether a setting is in it that may hold a password."""


def convert(text: str, file: str) -> Conversion:
    """The text of the ``.conf`` named ``file`` as YAML that gives the same settings.

    Raises ConfigError: the file is wrong, or holds what YAML cannot.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads it
    source = read_conf(text, file)
    before = check(source).settings
    writer = _Writer(text, file, source.values, source.helpers)
    # Nobody shall have to trust this: what was written is read.
    try:
        written = writer.write()
        after = check(read_yaml(written, file)).settings
    except (ConfigError, UnicodeEncodeError):
        raise ConfigError([source.problem(0, "what YAML can hold", "a text that it cannot")]) from None
    for name in SETTINGS:
        if _plain(getattr(before, name)) != _plain(getattr(after, name)):
            raise ConfigError([source.problem(source.line((name,)), "what YAML can hold", "something else", name)])
    secret = any(setting.secret and name in writer.written for name, setting in SETTINGS.items())
    return Conversion(written, tuple(writer.notes), secret)


class _Part(NamedTuple):
    """A statement, or an entry of a mapping: its lines in the old file, from 1, and in the new one."""

    first: int
    last: int
    lines: list[str]


class _Writer:
    """Goes through a file, statement by statement, with what stands between them."""

    def __init__(self, text: str, file: str, values: dict[str, object], helpers: set[str]) -> None:
        self.notes: list[str] = []
        self.written: set[str] = set()
        self._file = file
        self._values = values
        self._helpers = helpers
        self._old = text.split("\n")
        self._statements = ast.parse(text).body
        self._comments = {
            token.start[0]: _NOT_IN_A_COMMENT.sub("\ufffd", token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        }
        self._last = {
            target.id: statement
            for statement in self._statements
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }

    def write(self) -> str:
        """The whole file in YAML."""
        # Whoever is innermost takes the comments first: entries before their statement, statements before the file.
        parts = [_Part(*_extent(statement), list(self._say(statement))) for statement in self._statements]
        return "\n".join(self._together(parts, 1, len(self._old))).strip("\n") + "\n"

    def _together(self, parts: list[_Part], first: int, last: int) -> list[str]:
        """``parts`` with the comments and the empty lines of the lines from ``first`` to ``last``."""
        out: list[str] = []
        for number, part in enumerate(parts):
            out += self._between(first, part.first - 1)
            out += self._comments_of(part.first, part.last - 1)
            shared = number + 1 < len(parts) and parts[number + 1].first == part.last
            out += _with_comment(part.lines, "" if shared else self._comments.pop(part.last, ""))
            first = max(first, part.last + 1)
        return out + self._between(first, last)

    def _between(self, first: int, last: int) -> list[str]:
        """The comments and the empty lines of lines that hold nothing else."""
        lines = range(first, last + 1)
        return [
            self._comments.pop(line, "") for line in lines if line in self._comments or not self._old[line - 1].strip()
        ]

    def _comments_of(self, first: int, last: int) -> list[str]:
        return [self._comments.pop(line) for line in range(first, last + 1) if line in self._comments]

    def _say(self, statement: ast.stmt) -> Iterator[str]:
        """The lines of YAML for one statement, if there are any."""
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            for line in str(statement.value.value).strip().split("\n"):
                yield _NOT_IN_A_COMMENT.sub("\ufffd", f"# {line}".rstrip())
        if isinstance(statement, ast.Import | ast.ImportFrom) and not str(getattr(statement, "module", "")).startswith(
            "policyd_rate_limit"
        ):
            self._note(statement, "an import is left out")
        if not isinstance(statement, ast.Assign):
            return
        for name in dict.fromkeys(target.id for target in statement.targets if isinstance(target, ast.Name)):
            setting = OLD_NAMES.get(name, name)
            if self._last[name] is not statement:
                self._note(statement, f"{name} is given again further down, and stands only there")
            elif setting not in SETTINGS and name in self._helpers:
                self._note(statement, f"{name} is no setting; its value stands where it was used")
            elif name == "config_file":
                self._note(statement, "config_file is the path of the file, whatever it is set to; it is left out")
            elif setting != name and setting in self._values:
                self._note(statement, f"{name} is the old name of {setting}, which is here too; it is left out")
            else:
                if setting != name:
                    self._note(statement, f"{name} is now spelled {setting}")
                self.written.add(setting)
                yield from self._assignment(setting, self._values[name], statement)

    def _assignment(self, setting: str, value: object, statement: ast.Assign) -> list[str]:
        node = statement.value
        first, last = _extent(statement)
        # Entries with lines of their own keep their comments.
        if first == last or not isinstance(node, ast.Dict) or not isinstance(value, dict):
            return _in_yaml(setting, value)
        if not value or len(value) != len(node.keys):
            return _in_yaml(setting, value)
        entries = [
            _Part(_extent(of_key)[0], _extent(of_value)[1], _in_yaml(str(key), item))
            for (key, item), of_key, of_value in zip(value.items(), node.keys, node.values, strict=True)
            if of_key is not None
        ]
        opening = "" if entries[0].first == first else self._comments.pop(first, "")
        inside = self._together(entries, first + 1, last - 1)
        if opening and last in self._comments:
            inside.append(self._comments.pop(last))
        return [f"{setting}:  {opening}".rstrip(), *(f"  {line}".rstrip() for line in inside)]

    def _note(self, statement: ast.stmt, text: str) -> None:
        self.notes.append(f"{self._file}:{statement.lineno}: {text}")


def _extent(node: ast.stmt | ast.expr | None) -> tuple[int, int]:
    """The first and the last line of ``node``."""
    assert node is not None  # noqa: S101 - each setting and each value of it was parsed
    assert node.end_lineno is not None  # noqa: S101 - the parser sets it for each node
    return node.lineno, node.end_lineno


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # the faster one, where there is one
    """Mappings in block style, lists on one line, texts of several lines as they are."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: Any, text: str) -> yaml.Node:
    style = None
    if "\n" in text:
        # A block that ends with empty lines would take in those that follow.
        style = '"' if text.endswith("\n\n") or not text.strip() else "|"
    node: yaml.Node = dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
    return node


def _list(dumper: Any, items: list[object]) -> yaml.Node:
    node: yaml.Node = dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)


def _in_yaml(name: str, value: object) -> list[str]:
    """The lines of ``name: value``. Raises UnicodeEncodeError for half a character, such as "\\ud800"."""
    if name in SETTINGS and SETTINGS[name].kind is PERMISSION and isinstance(value, int):
        return [f"{name}: 0{value:o}"]
    text: str = yaml.dump(
        {name: _with_text_keys(value)},
        Dumper=_Dumper,
        width=_ONE_LINE,
        allow_unicode=True,
        default_flow_style=False,
        sort_keys=False,
    )
    return text.removesuffix("\n").split("\n")


def _with_text_keys(value: object) -> object:
    """``value`` with keys of text, which is what the reader of YAML makes of all keys."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    return value


def _with_comment(lines: list[str], comment: str) -> list[str]:
    """``lines`` with ``comment`` at the end of the first one, where one may stand whatever follows."""
    if not comment:
        return lines
    if not lines or lines[0].startswith("#"):
        return [*lines, comment]
    return [f"{lines[0]}  {comment}", *lines[1:]]


def _plain(value: object) -> object:
    """``value`` without the difference of lists and tuples, which YAML does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
