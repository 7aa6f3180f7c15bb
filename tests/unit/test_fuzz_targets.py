"""The targets of `make fuzz`: each bears its seeds, and some hundred inputs made of them, in every run of the tests."""

from __future__ import annotations

import random

import pytest

from fuzz import targets

ROUNDS = 100


def mutated(seed: bytes, random_: random.Random) -> bytes:
    """``seed`` with a few bytes flipped, cut out, doubled or put in."""
    data = bytearray(seed)
    for _ in range(random_.randint(1, 4)):
        at, length = random_.randint(0, len(data)), random_.randint(1, 8)
        match random_.randrange(4):
            case 0:
                data[at : at + 1] = bytes([random_.randrange(256)])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case _:
                data[at:at] = random_.randbytes(length)
    return bytes(data)


@pytest.mark.parametrize("name", targets.names())
def test_a_target_bears_its_seeds(name: str) -> None:
    target = targets.load(name)
    assert target.SEEDS
    for seed in target.SEEDS:
        target.one_input(seed)


@pytest.mark.parametrize("name", targets.names())
def test_a_target_bears_what_is_made_of_its_seeds(name: str) -> None:
    target = targets.load(name)
    random_ = random.Random(name)
    for _ in range(ROUNDS):
        target.one_input(mutated(random_.choice(target.SEEDS), random_))
