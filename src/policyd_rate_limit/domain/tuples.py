"""Making named tuples of what is at hand, many thousand times a second."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T", bound=tuple[Any, ...])


def maker(kind: type[_T]) -> Callable[[Any], _T]:
    """What makes a ``kind`` of a tuple of all its fields, in half the time that its constructor takes."""
    return cast("Callable[[Any], _T]", partial(tuple.__new__, kind))
