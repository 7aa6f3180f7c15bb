"""Ids: users and senders in one spelling, and what an administrator may mean by one.

They compare without regard to case. One of more than :data:`MOST_NAME` characters is known by its beginning and a
digest of all of it, so that memory for ids is bounded and any two of them are two.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from policyd_rate_limit.domain.networks import parse_address, parse_network

MOST_NAME: Final = 320
"""The most characters of a user or sender that are kept as they are: a local part, an "@" and a domain of the greatest
lengths (RFC 5321, 4.5.3.1)."""


def fold(name: str) -> str:
    """``name`` as all its spellings in upper and lower case are, in no more than :data:`MOST_NAME` characters."""
    name = name.casefold()
    return name if len(name) <= MOST_NAME else shortened(name)


def shortened(name: str) -> str:
    """What stands for a ``name`` that is too long to be kept, in :data:`MOST_NAME` characters."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{name[: MOST_NAME - len(digest) - 1]}…{digest}"


def canonical_id(name: str) -> str:
    """An id of ``limits_by_id`` as all its spellings are: an address, a network, or a user or sender."""
    try:
        return str(parse_address(name) or parse_network(name))
    except ValueError:
        return fold(name)


_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?"
_TOP_LEVEL: Final = (
    r"(?:[a-z]{2}|xn--[a-z0-9-]+|com|net|org|edu|gov|mil|int|info|biz|name|pro|arpa|mobi|coop|asia|online|site|shop|cloud"
    r"|app|dev|tech|email|example|test|invalid|local|localdomain|lan|home|internal|corp|intra)"
)
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}\.)+{_TOP_LEVEL}\.?", re.IGNORECASE)


def looks_like_a_pattern(name: str) -> bool:
    """Whether ``name`` seems to stand for many users or senders: ``example.org``, ``@example.org``, ``*@x.org``.

    There is no such id. A user may be named like a domain all the same: then ``user:example.org`` is meant.
    """
    if len(name) > MOST_NAME:
        return False
    local, at, domain = name.rpartition("@")
    if at and (not local or not domain):
        return True
    if "*" in name or name.startswith((".", "%@")) or (len(name) > 2 and name[0] == name[-1] == "/"):
        return True
    return not at and _DOMAIN.fullmatch(name) is not None


def id_of_key(key: str) -> str:
    """The id that a key was made of: a user, a sender, an address or a network."""
    return key.partition(":")[2]
