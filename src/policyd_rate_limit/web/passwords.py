"""Passwords as the accounts file keeps them: hashes of scrypt (RFC 7914), with their parameters in them.

``scrypt$15$8$3$SALT$HASH``: the logarithm of N, r, p, then salt and hash in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from typing import NamedTuple

SALT_BYTES, HASH_BYTES = 16, 32
LEAST_CHARACTERS, MOST_CHARACTERS = 12, 256
MOST_BYTES = 4 * MOST_CHARACTERS
"""Of a password, in UTF-8."""

MOST_MEMORY = 256 << 20
"""What a hash may take while it is checked, in bytes; one of the file that would take more is refused."""


class Cost(NamedTuple):
    """The parameters of scrypt: it takes 128 * r * 2**log_n bytes, and so much time p times."""

    log_n: int
    r: int
    p: int

    @property
    def memory(self) -> int:
        """In bytes."""
        return 128 * self.r * (1 << self.log_n)


USUAL = Cost(15, 8, 3)
"""32 MiB and a fifth of a second: as strong as OWASP's Password Storage Cheat Sheet asks for."""


def hash_password(password: str, cost: Cost = USUAL) -> str:
    """What the accounts file keeps of ``password``."""
    salt = os.urandom(SALT_BYTES)
    return _written(cost, salt, _scrypt(password, salt, cost))


def is_password(password: str, kept: str) -> bool:
    """Whether ``kept`` was made of ``password``; it takes the same time either way. Raises ValueError for no hash."""
    cost, salt, wanted = read_hash(kept)
    return hmac.compare_digest(_scrypt(password, salt, cost), wanted)


def dummy(cost: Cost = USUAL) -> str:
    """A hash that no password has: it is checked where there is no account, which takes as long as where one is."""
    return _written(cost, os.urandom(SALT_BYTES), os.urandom(HASH_BYTES))


def read_hash(kept: str) -> tuple[Cost, bytes, bytes]:
    """The parameters, the salt and the hash in ``kept``. Raises ValueError, which repeats nothing of it."""
    try:
        kind, log_n, r, p, salt, hashed = kept.split("$")
        cost = Cost(int(log_n), int(r), int(p))
        decoded = base64.b64decode(salt, validate=True), base64.b64decode(hashed, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError("expected a hash as web-user makes them") from error
    if kind != "scrypt" or not (1 <= cost.log_n <= 24 and 1 <= cost.r <= 64 and 1 <= cost.p <= 16):
        raise ValueError("expected a hash of scrypt with parameters as web-user makes them")
    if cost.memory > MOST_MEMORY:
        raise ValueError(f"expected a hash that takes at most {MOST_MEMORY >> 20} MiB to check")
    if len(decoded[1]) != HASH_BYTES:
        raise ValueError(f"expected a hash of {HASH_BYTES} bytes")
    return cost, *decoded


def why_not(password: str) -> str | None:
    """Why ``password`` is none to be set; None: it is one. As NIST SP 800-63B has it: length counts, and no rules."""
    if len(password) < LEAST_CHARACTERS:
        return f"at least {LEAST_CHARACTERS} characters are needed"
    if len(password) > MOST_CHARACTERS:
        return f"at most {MOST_CHARACTERS} characters are taken"
    if len(set(password)) < LEAST_CHARACTERS // 3:
        return "the same few characters again and again are guessed soon"
    return None


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    # OpenSSL wants some more than the table itself.
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=1 << cost.log_n,
        r=cost.r,
        p=cost.p,
        maxmem=2 * cost.memory + (1 << 20),
        dklen=HASH_BYTES,
    )


def _written(cost: Cost, salt: bytes, hashed: bytes) -> str:
    return "$".join(["scrypt", *map(str, cost), *(base64.b64encode(part).decode("ascii") for part in (salt, hashed))])
