"""The names of all keys and fields in Redis, which docs/redis.md tells administrators."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from policyd_rate_limit.domain.counter import is_distinct, unit_of
from policyd_rate_limit.storage.redis.encoding import decoded, encoded
from policyd_rate_limit.storage.redis.node import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Charge

DEFAULT_PREFIX = "policyd"
LONGEST_TAG = 300  # no address is longer: characters of a counter that stand in a key as they are
DEMANDS_PER_SCRIPT = 32  # some hundred microseconds, in which the server serves nobody else
LANES: Final = 2
"""As many batches of one writer may be in flight: the server works on one, this daemon on the other.

Not to be tuned: the lowest bit of a lane's name tells the two apart, and the script of one lane knows the other by it.
"""

_T = TypeVar("_T")


class Keys:
    """The names of all keys."""

    def __init__(self, prefix: str, *, clustered: bool) -> None:
        self.prefix = prefix
        self._clustered = clustered
        self._counter, self._mail = encoded(f"{prefix}:c:"), encoded(f"{prefix}:m:")
        self._values = encoded(f"{prefix}:v:")

    @property
    def counters(self) -> bytes:
        """What the keys of all counters begin with."""
        return encoded(f"{self.prefix}:c:{{")

    def name(self, key: bytes) -> str:
        """Of which counter ``key`` is, as far as it says so."""
        tag = decoded(key[len(self.counters) : -1])
        return tag if tag.startswith("#") else tag.partition(":")[2]

    def counter(self, counter: str) -> bytes:
        """The key of ``counter``."""
        return self._counter + encoded(_tag(counter))

    def values(self, counter: str) -> bytes:
        """The key of the different values of ``counter``."""
        return self._values + encoded(_tag(counter))

    def mail(self, counter: str, mail: str) -> bytes:
        """The key of what ``mail`` was charged on ``counter``."""
        return self._mail + encoded(_tag(counter) + mail)

    def counter_and_mail(self, counter: str, mail: bytes) -> tuple[bytes, bytes]:
        """Both, of a ``mail`` that is encoded."""
        tag = encoded(_tag(counter))
        return self._counter + tag, self._mail + tag + mail

    def copy(self, counter: str, source: int) -> bytes:
        """The key of what a copy has brought of ``counter`` from the database ``source``."""
        return encoded(f"{self.prefix}:k:{_tag(counter)}{source:x}")

    def together(self, charges: Sequence[Charge]) -> Sequence[Sequence[Charge]]:
        """``charges`` in groups that one script can decide."""
        if not self._clustered or len(charges) == 1:
            return (charges,)
        groups: dict[int, list[Charge]] = defaultdict(list)
        for charge in charges:
            groups[slot_of(self.counter(charge.counter))].append(charge)
        return list(groups.values())

    def in_scripts(self, asked: Sequence[_T], counter_of: Callable[[_T], str]) -> Iterator[Sequence[_T]]:
        """What is ``asked`` as it goes together in a script, by one counter of each."""
        places: Iterable[Sequence[_T]] = (asked,)
        if self._clustered:
            by_slot: dict[int, list[_T]] = defaultdict(list)
            for item in asked:
                by_slot[slot_of(self.counter(counter_of(item)))].append(item)
            places = by_slot.values()
        for place in places:
            for first in range(0, len(place), DEMANDS_PER_SCRIPT):
                yield place[first : first + DEMANDS_PER_SCRIPT]


def keys_of(config: Mapping[str, Any]) -> Keys:
    """Those that ``config``, which is ``redis_config``, asks for."""
    return Keys(str(config.get("prefix") or DEFAULT_PREFIX), clustered=bool(config.get("cluster")))


def lane_of(writer: int, number: int) -> bytes:
    """The name under which a counter remembers what the batch ``number`` of ``writer`` (62 bits) has done.

    Two that are in flight at the same time never share one: under each name there is one after the other.
    """
    return (writer << 1 | number % LANES).to_bytes(8, "big")


def part_field(part: str) -> bytes:
    """Where a mail remembers what it was charged for ``part``."""
    return encoded(f"p{part}")


def settled_field(writer: int, number: int) -> bytes:
    """One for all that a batch settles for a mail: Postfix asks about one stage of a mail after the other."""
    return b"s%x.%d" % (writer, number)


def escaped(text: bytes) -> bytes:
    """``text`` as a pattern of Redis that means itself."""
    return re.sub(rb"[\\*?\[\]^-]", rb"\\\g<0>", text)


def _tag(counter: str) -> str:
    """What has a Cluster keep all keys of ``counter`` together: it counts what lies between the braces only."""
    if counter.startswith("#"):  # a digest in place of a name, as Keys.name() has it
        return f"{{{counter}}}"
    if len(counter) <= LONGEST_TAG:
        # With its length no two counters have keys in common, whatever characters they are made of.
        return f"{{{len(counter)}:{counter}}}"
    digest = hashlib.blake2b(encoded(counter), digest_size=20).hexdigest()
    # What stands for the name of a counter says whether that counts different values.
    return f"{{#{digest}/{unit_of(counter).replace(' ', '-')}|}}" if is_distinct(counter) else f"{{#{digest}}}"
