"""What docs/rules.md has: its configurations and its sentences."""

from __future__ import annotations

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "rules.md"


def rules(heading: str) -> str:
    """The configuration of a section."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    match = re.search(r"```yaml\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert match is not None
    return match[1]


def said(text: str) -> str:
    """``text``, which the page says, whichever way its lines are broken."""
    assert text in " ".join(PAGE.read_text(encoding="utf-8").split())
    return text
