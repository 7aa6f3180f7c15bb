"""Quantities in words: ``1 mail``, ``2 mails``."""

from __future__ import annotations


def quantity(number: int, noun: str, plural: str = "") -> str:
    """``number`` and ``noun``, which is one of them: ``1 error``, ``2 errors``; ``plural`` where that takes no "s"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
