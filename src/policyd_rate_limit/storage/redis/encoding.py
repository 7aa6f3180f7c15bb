"""How names and values are written in Redis: any text as bytes, and numbers as MessagePack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage.drivers import missing_driver

try:
    import msgpack
except ImportError as error:
    raise missing_driver("Redis and Valkey", "redis", error) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def encoded(text: str) -> bytes:
    """Any text, lone surrogates too: they stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """What :func:`encoded` has made."""
    return data.decode("utf-8", "surrogatepass")


def packed(value: Sequence[Any]) -> bytes:
    """``value`` as MessagePack, for the script: of the types that Redis knows, in which bytes are text."""
    return bytes(msgpack.packb(value, use_bin_type=False))


def unpacked_values(data: bytes) -> list[Any]:
    """An array, of numbers and of text in ASCII."""
    return list(msgpack.unpackb(data))


def unpacked(data: bytes) -> list[int]:
    """An array of integers, as the MessagePack of Redis writes it: large ones as floating-point numbers."""
    return [int(number) for number in msgpack.unpackb(data)]


def pairs(reply: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Each field of ``reply`` and its value, or member and score."""
    return zip(reply[::2], reply[1::2], strict=True)
