"""Heartbeats: what each daemon says of itself in the database now and then, so that others see that it is at work."""

from __future__ import annotations

import hashlib
import json
from typing import Final, NamedTuple

BEAT_SECONDS: Final = 20.0
"""How often a daemon says so."""

FORGOTTEN_SECONDS: Final = 86_400
"""After so long without a heartbeat nothing is known any more of a daemon that did not end by itself."""

MOST_DAEMONS: Final = 1_000
"""Of so many it is known, those first that were heard of last."""

LARGEST: Final = (1 << 53) - 1
"""The largest number that one says of itself, a Unix second or less."""

LONGEST_WORD: Final = 255
"""Characters of each thing that a daemon says of itself."""


class Introduction(NamedTuple):
    """Which daemon it is: its ``host``, the ``socket`` on which Postfix asks it, its ``process``, its ``version``."""

    host: str
    socket: str
    process: int
    version: str


class Heartbeat(NamedTuple):
    """The last one of a daemon, of its ``run`` (32 hexadecimal digits).

    ``since``, ``heard``: in which seconds it was started, and heard of (Unix, by the store's clock). ``waiting``: how
    many batches waited for the database by then.
    """

    run: str
    host: str
    socket: str
    process: int
    version: str
    since: int
    heard: int
    waiting: int

    @property
    def place(self) -> str:
        """32 hexadecimal digits for where it is at work: a daemon that is started there takes the place of this one."""
        words = json.dumps([self.host, self.socket]).encode("ascii")
        return hashlib.blake2b(words, digest_size=16).hexdigest()

    @property
    def words(self) -> str:
        """All but the run and when it was heard, as JSON in ASCII: a database holds it whatever its encoding."""
        of_text = (self.host[:LONGEST_WORD], self.socket[:LONGEST_WORD], self.version[:LONGEST_WORD])
        return json.dumps([*of_text, self.process, self.since, self.waiting], separators=(",", ":"))


def heartbeat_of(run: str, heard: int, words: str) -> Heartbeat:
    """The one whose :attr:`Heartbeat.words` these are. Raises ValueError."""
    try:
        host, socket, version, process, since, waiting, *_ = json.loads(words)
        numbers = [int(number) for number in (process, since, waiting)]
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if not all(0 <= number <= LARGEST for number in (heard, *numbers)):
        raise ValueError(f"{words!r} has a number that is none of a daemon")
    return Heartbeat(run, str(host), str(socket), numbers[0], str(version), numbers[1], heard, numbers[2])
