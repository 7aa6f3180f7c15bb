"""Elements of SVG, as text: every value that gets into one is escaped here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_TABLE: Final = str.maketrans(_ESCAPES)

Value = str | float
"""Of an attribute: numbers are written with two digits after the point at the most."""


def escaped(text: str) -> str:
    """``text`` for the content of an element or for the value of an attribute; what XML cannot say becomes U+FFFD."""
    return _NOT_XML.sub("\ufffd", text).translate(_TABLE)


def element(tag: str, content: str | Iterable[str] = "", /, **attributes: Value) -> str:
    """The element ``tag`` around ``content``, which is markup already.

    Attributes lose underscores at their ends, so that ``class_`` names ``class``; others become hyphens.
    """
    inner = content if isinstance(content, str) else "".join(content)
    given = "".join(f' {_name(name)}="{escaped(written(value))}"' for name, value in attributes.items() if value != "")
    return f"<{tag}{given}>{inner}</{tag}>" if inner else f"<{tag}{given}/>"


def written(value: Value) -> str:
    """``value`` as an attribute has it."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def text(words: str, /, **attributes: Value) -> str:
    """The element ``text`` that says ``words``."""
    return element("text", escaped(words), **attributes)


def boxes(rectangles: Iterable[tuple[float, float, float, float]]) -> str:
    """The data of one path that draws rectangles, each x, y, width, height: far shorter than as many elements."""
    return "".join(
        f"M{written(x)} {written(y)}h{written(width)}v{written(height)}h{written(-width)}z"
        for x, y, width, height in rectangles
    )


def stairs(points: Iterable[tuple[float, float]]) -> str:
    """The data of one path that goes level from each point to the next, and steps there."""
    parts: list[str] = []
    for x, y in points:
        parts.append(f"H{written(x)}V{written(y)}" if parts else f"M{written(x)} {written(y)}")
    return "".join(parts)


def _name(name: str) -> str:
    # The names of SVG that have an upper-case letter, as they are.
    return name.strip("_").replace("_", "-")
