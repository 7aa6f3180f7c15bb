"""Reads ``.conf``: Python syntax that is read, never run.

Allowed are assignments of literals, lists, tuples, sets and mappings of them, arithmetic on them, names assigned
earlier, and ``from policyd_rate_limit.const import ...``. The syntax tree is walked and only these are understood;
anything else is a problem with its line, but for imports that nothing uses: they are left out. No value of the file
appears in a message: it could be a password.
"""

from __future__ import annotations

import ast
import operator
import os
import re
import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any

from policyd_rate_limit import const
from policyd_rate_limit.config.source import MOST_TOKENS, Budget, Source, TooMuch
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.config.kind import Place

_CONST = {name: value for name, value in vars(const).items() if name.isupper()}
_ALLOWED = "an assignment of literals, of arithmetic on them and of names assigned before"

# A text, a comment (which counts, too: it is cheap), a name or a number, the beginning of a list or a mapping.
_TOKEN = re.compile(
    r"""'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|\#[^\n]*|\w+|[\[({]""",
    re.DOTALL,
)

_LARGEST = 1 << 128  # no number of a setting is larger; what is made of two such takes no time
_LARGEST_POWER = 128

_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}


class _Refused(Exception):
    """What stands at a place in the file is not allowed there."""

    def __init__(self, node: ast.AST, expected: str, found: str) -> None:
        self.line = getattr(node, "lineno", 0)
        self.expected = expected
        self.found = found
        super().__init__(expected)


class _Skipped(Exception):
    """A value is made from one that was refused before."""


def read_conf(text: str, file: str) -> Source:
    """The settings in the text of a ``.conf`` file. Raises ConfigError with every problem."""
    source = Source(file)
    if _has_too_many(text):
        raise ConfigError([source.problem(0, f"fewer than {MOST_TOKENS} values", "more")])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about backslashes in text
            tree = ast.parse(text, os.devnull)  # Python opens what it is told here, to show a line of it
    except SyntaxError as error:
        # What Python says of it, not the text of the line, which could hold a password.
        raise ConfigError([source.problem(error.lineno or 0, "Python syntax", error.msg)]) from None
    except (ValueError, RecursionError, MemoryError):
        raise ConfigError([source.problem(0, "Python syntax", "values that lie too deep")]) from None
    reader = _Reader(source)
    try:
        for statement in tree.body:
            reader.read(statement)
    except (TooMuch, RecursionError):
        found = "too many, or too deep inside each other"
        reader.problems.append(source.problem(statement.lineno, "fewer values", found))
    if reader.problems:
        raise ConfigError(reader.problems)
    return source


def _has_too_many(text: str) -> bool:
    """Whether ``text`` has more values and names than a file may have: Python's parser takes kilobytes for each."""
    if len(text) <= MOST_TOKENS:
        return False
    return sum(1 for _ in islice(_TOKEN.finditer(text), MOST_TOKENS + 1)) > MOST_TOKENS


class _Reader:
    """Makes the values of one file from its syntax tree."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._names: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._refused: set[str] = set()
        self._unimported: set[str] = set()
        self._modules: set[str] = set()
        self._budget = Budget()
        self._is_given_twice = False  # so that lines of another value may be known for a place

    def read(self, statement: ast.stmt) -> None:
        """Understand one statement, or remember its problem. Raises TooMuch and RecursionError."""
        try:
            self._read(statement)
        except _Skipped:
            pass
        except _Refused as refused:
            self.problems.append(self.source.problem(refused.line, refused.expected, refused.found))
        else:
            return
        # What is made from these names later on is not told as a problem of its own.
        stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
        self._refused.update(node.id for node in stored if isinstance(node.ctx, ast.Store))

    def _read(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Expr(ast.Constant(str())):
                pass  # a docstring
            case ast.ImportFrom("policyd_rate_limit.const", names, 0):
                self._import(statement, names)
            case ast.ImportFrom("policyd_rate_limit", [ast.alias("const", name)], 0):
                self._modules.add(name or "const")
            case ast.Import(names) | ast.ImportFrom(_, names):
                # What uses one of these is a problem, with its line.
                self.source.warn(statement.lineno, "an import is not run: it is left out")
                self._unimported.update((alias.asname or alias.name).partition(".")[0] for alias in names)
            case ast.Assign(targets, value):
                self._assign(targets, value)
            case _:
                raise _Refused(statement, _ALLOWED, _described(statement))

    def _import(self, statement: ast.stmt, names: list[ast.alias]) -> None:
        for alias in names:
            if alias.name == "*":
                self._names.update(_CONST)
                self._sizes.update(dict.fromkeys(_CONST, 1))
                continue
            if alias.name not in _CONST:
                raise _Refused(statement, f"an import of {', '.join(_CONST)}", "another name")
            name = alias.asname or alias.name
            self._names[name] = _CONST[alias.name]
            self._sizes[name] = 1

    def _assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        before = self._budget.left
        if len(names) < len(targets):
            raise _Refused(value, "a name to the left of =", "something else")
        self._is_given_twice = self._is_given_twice or names[0] in self._names
        result = self._value(value, (names[0],), 0, targets[0].lineno)
        self._refused.difference_update(names)
        for name in names:
            self._names[name] = self.source.values[name] = result
            self._sizes[name] = before - self._budget.left
            self.source.lines[(name,)] = targets[0].lineno

    def _value(self, node: ast.expr, place: Place, depth: int, line: int = 0) -> Any:
        """The value of an expression, at ``place`` in a setting, of which ``line`` is known."""
        self._budget.spend(1, depth)
        match node:
            case ast.Constant(int() | float() as value):
                return self._number(node, value)
            case ast.Constant(None):
                return None
            case ast.Constant(str() | bytes() as value):
                self._budget.spend(len(value) >> 4)
                return value
            case ast.Name(name):
                return self._named(node, name)
            case ast.Attribute(ast.Name(module), name) if module in self._modules and name in _CONST:
                return _CONST[name]
            case ast.List(items):
                return self._items(items, place, depth, line)
            case ast.Tuple(items) | ast.Set(items):
                return tuple(self._items(items, place, depth, line))
            case ast.Dict(keys, values):
                return self._mapping(keys, values, place, depth, line)
            case ast.UnaryOp(op, operand) if type(op) in _UNARY:
                number = self._number(node, self._value(operand, (), depth + 1))
                return self._computed(node, _UNARY[type(op)], number)
            case ast.BinOp(left, op, right) if type(op) in _BINARY:
                return self._binary(node, op, self._value(left, (), depth + 1), self._value(right, (), depth + 1))
        raise _Refused(node, _ALLOWED, _described(node))

    def _named(self, node: ast.expr, name: str) -> Any:
        if name in self._refused:
            raise _Skipped
        if name not in self._names and name in self._unimported:
            raise _Refused(node, _ALLOWED, "a name that is imported: imports are not run")
        if name not in self._names:
            raise _Refused(node, "a name assigned before, or text in quotes", "a name that is not assigned before")
        self.source.helpers.add(name)
        self._budget.spend(self._sizes[name])
        return self._names[name]

    def _items(self, items: list[ast.expr], place: Place, depth: int, around: int) -> list[Any]:
        return [self._inside(item, place, index, depth, around) for index, item in enumerate(items)]

    def _inside(self, node: ast.expr, place: Place, key: object, depth: int, around: int) -> Any:
        """The value of what is at ``key`` of the value at ``place``, of which the line ``around`` is known."""
        if not place:
            return self._value(node, (), depth + 1)
        inner = (*place, key)
        if node.lineno != around or self._is_given_twice:  # else the line of what is around it is found
            self.source.lines[inner] = node.lineno
        return self._value(node, inner, depth + 1, node.lineno)

    def _mapping(
        self, keys: list[ast.expr | None], values: list[ast.expr], place: Place, depth: int, around: int
    ) -> dict[object, Any]:
        result: dict[object, Any] = {}
        for key_node, value_node in zip(keys, values, strict=True):
            if key_node is None:
                raise _Refused(value_node, "key: value", "an unpacking")
            key = self._value(key_node, (), depth + 1)
            try:
                hash(key)
            except TypeError:
                raise _Refused(key_node, "text as a key", "something else") from None
            if key in result:
                self.source.warn(key_node.lineno, "a key that is given before; this one counts")
                self._is_given_twice = True
            result[key] = self._inside(value_node, place, key, depth, around)
        return result

    def _binary(self, node: ast.expr, op: ast.operator, left: Any, right: Any) -> Any:
        if isinstance(op, ast.Add) and type(left) is type(right) and isinstance(left, str | list | tuple):
            return left + right  # both are paid for
        left, right = self._number(node, left), self._number(node, right)
        if isinstance(op, ast.Pow | ast.LShift) and not -_LARGEST_POWER <= right <= _LARGEST_POWER:
            raise _Refused(node, f"powers up to {_LARGEST_POWER}", "a larger one")
        return self._computed(node, _BINARY[type(op)], left, right)

    def _number(self, node: ast.expr, value: Any) -> Any:
        if not isinstance(value, int | float):
            raise _Refused(node, "arithmetic on numbers, or a sum of two texts or of two lists", "something else")
        if not -_LARGEST <= value <= _LARGEST:
            raise _Refused(node, "numbers below 2**128", "a larger one")
        return value

    def _computed(self, node: ast.expr, function: Callable[..., Any], *operands: Any) -> Any:
        try:
            result = function(*operands)
        except (ArithmeticError, TypeError, ValueError):
            raise _Refused(node, "arithmetic that has a result", "one that has none") from None
        if isinstance(result, complex):
            raise _Refused(node, "arithmetic on real numbers", "a complex result")
        return result


_DESCRIBED = {
    ast.Import: "an import",
    ast.ImportFrom: "an import",
    ast.FunctionDef: "a function",
    ast.ClassDef: "a class",
    ast.AnnAssign: "an annotation",
    ast.AugAssign: "an assignment that changes a value",
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.Subscript: "an index",
    ast.Lambda: "a function",
    ast.JoinedStr: "formatted text",
    ast.Compare: "a comparison",
    ast.BoolOp: "a condition",
    ast.IfExp: "a condition",
    ast.If: "a condition",
    ast.NamedExpr: "an assignment inside an expression",
    ast.Starred: "an unpacking",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
}


def _described(node: ast.AST) -> str:
    """What ``node`` is, in words; nothing of what it holds."""
    if isinstance(node, ast.Expr):
        return _described(node.value)
    return _DESCRIBED.get(type(node), "something else")
