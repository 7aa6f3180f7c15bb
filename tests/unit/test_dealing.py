"""Tests that take long are dealt to all processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.dealing import deal


def seconds(item: tuple[int, int]) -> int:
    return item[1]


def test_each_process_begins_with_what_takes_long() -> None:
    items = [(0, 0), (1, 5), (2, 0), (3, 90), (4, 0), (5, 60), (6, 60), (7, 0), (8, 0)]
    assert [number for number, _ in deal(items, seconds, 2)] == [3, 6, 0, 2, 5, 1, 4, 7, 8]
    assert [number for number, _ in deal(items, seconds, 1)] == [3, 5, 6, 1, 0, 2, 4, 7, 8]


@given(st.lists(st.integers(0, 3)), st.integers(1, 6))
def test_every_item_is_dealt_once(lengths: list[int], processes: int) -> None:
    items = list(enumerate(lengths))
    dealt = deal(items, seconds, processes)
    assert sorted(dealt) == items
    # Each part begins with what takes long, the longest first, and no part has two more of them than another.
    sizes: list[int] = []
    counts: list[int] = []
    for process in range(processes):
        sizes.append((len(items) - sum(sizes)) // (processes - process))
        part = [seconds(item) for item in dealt[sum(sizes[:-1]) : sum(sizes)]]
        counts.append(len([one for one in part if one]))
        assert part == sorted(part, reverse=True)
    assert max(counts) - min(counts) <= max(sizes) - min(sizes) + 1
