"""In which order tests run on several processes, so that all of these end at about the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def deal(items: Sequence[T], seconds: Callable[[T], int], processes: int) -> list[T]:
    """``items`` in an order in which each of ``processes`` begins with some of those that take long.

    pytest-xdist gives each process an equal part of the list, one part after the other, before one that has done its
    own takes the end of another's (``--dist worksteal``). What takes long must not be in the first part alone.
    ``seconds``: how long one takes, 0 where that is not worth mentioning. Of equal ones the order stays.
    """
    long = sorted(filter(seconds, items), key=seconds, reverse=True)
    heads: list[list[T]] = []
    sizes: list[int] = []
    for process in range(processes):
        sizes.append((len(items) - sum(sizes)) // (processes - process))
        heads.append(long[process::processes][: sizes[-1]])
    left = [item for process, size in enumerate(sizes) for item in long[process::processes][size:]]
    rest = iter([*left, *(item for item in items if not seconds(item))])
    return [
        item
        for head, size in zip(heads, sizes, strict=True)
        for item in [*head, *(next(rest) for _ in range(size - len(head)))]
    ]
