"""How the tables beside the batch table write what clients and administrators say: in any database, whatever it is."""

from __future__ import annotations

import hashlib
import json


def digest_of(counter: str) -> str:
    """32 hexadecimal digits in place of ``counter``, which may be longer than any index takes."""
    return hashlib.blake2b(counter.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def json_of(value: object) -> str:
    """``value`` as JSON in ASCII: a database holds it whatever its encoding, and whatever bytes a client has sent."""
    return json.dumps(value, separators=(",", ":"))


def text_of(value: object) -> str:
    """The text that JSON ``value`` holds. Raises ValueError."""
    text = json.loads(str(value))
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text")  # noqa: TRY004 - the data's fault, not the program's
    return text
