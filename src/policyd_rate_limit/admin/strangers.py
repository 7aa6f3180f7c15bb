"""Whether a name may be a slip of the pen: nothing is on record of it, but of others that are written much like it."""

from __future__ import annotations

import contextlib
import difflib
import itertools
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.storage.administration import MayNotList

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.storage.administration import Override

MOST_COMPARED = 20_000
"""The most ids that :func:`stranger` compares with a name, which takes a fraction of a second."""

MOST_READ = 500_000
"""The most entries that it reads for that, which takes a second or two."""

MOST_NEAREST = 3
"""The most of them that it tells."""

OF_ITS_OWN = ("override", "limits_by_id")
"""Where limits come from that are those of an id that somebody has named."""

LEAST_ALIKE = 0.66  # of difflib's ratio: "bbo" and "bob" have 0.67


class Stranger(NamedTuple):
    """An id of which nothing is on record; ``nearest``: the keys of ids that are, and are written much like it."""

    keys: tuple[str, ...]
    nearest: tuple[str, ...]


def stranger(
    desk: Desk, name: str, overrides: Mapping[str, Override] | None = None, rule: str | None = None
) -> Stranger | None:
    """What to say of ``name`` when neither the configuration nor the store knows any of its keys; else None.

    As far back as the store keeps what was counted. ``overrides``: those that count for it, if not all in force.
    ``rule``: it is taken for its keys in that rule alone.

    Raises NotAnId when it stands for no key.
    """
    keys = desk.keys(name)
    if overrides is None:
        overrides = desk.overrides()
    if any(desk.in_force(key, overrides.get(key), None).source in OF_ITS_OWN for key in keys):
        return None
    if any(desk.from_table(key, name) is not None for key in keys):
        return None
    hits = {hit.key for hit in desk.store.hits()}
    if hits & set(keys) or next(iter(desk.store.entries(keys, 0)), None) is not None:
        return None
    known = {*hits, *overrides, *desk.subjects.named_keys()}
    with contextlib.suppress(MayNotList):
        for entry in itertools.islice(desk.store.entries(None, 0), MOST_READ):
            known.add(entry.counter)
            if len(known) >= MOST_COMPARED:
                break
    return Stranger(desk.keys(name, rule), _nearest(keys[0], known))


def _nearest(key: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of ``known`` whose names are much like that of ``key``, the most alike first."""
    by_name: dict[str, list[str]] = {}
    by_user: dict[str, list[str]] = {}  # for whoever leaves out the domain, or gives one too many
    for other in sorted(known):
        name = id_of_key(other)
        by_name.setdefault(name, []).append(other)
        by_user.setdefault(name.partition("@")[0], []).append(other)
    name = id_of_key(key)
    alike = [
        other
        for found, wanted in ((by_name, name), (by_user, name.partition("@")[0]))
        for one in difflib.get_close_matches(wanted, found, MOST_NEAREST, LEAST_ALIKE)
        for other in found[one]
    ]
    return tuple(dict.fromkeys(alike))[:MOST_NEAREST]
