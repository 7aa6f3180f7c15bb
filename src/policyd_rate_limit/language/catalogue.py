"""The texts of each language: ``texts/LANGUAGE.toml``, of which another file is another language."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

ENGLISH: Final = "en"
"""The language of commands and logs, and of whoever wants none that there is."""

_DIRECTORY = files("policyd_rate_limit.language") / "texts"

Text = str | Mapping[str, str]
"""A text; or one for each number of things, by ``one`` and ``other``, and by ``any`` where there may be any number."""

LANGUAGES: Final = tuple(
    sorted(
        (path.name.removesuffix(".toml") for path in _DIRECTORY.iterdir() if path.name.endswith(".toml")),
        key=lambda language: (language != ENGLISH, language),
    )
)
"""Those that there are, by their tags (RFC 5646); English is the first."""


@cache
def texts_of(language: str) -> Mapping[str, Text]:
    """The texts of ``language`` by name, such as ``now.title``."""
    sections = tomllib.loads((_DIRECTORY / f"{language}.toml").read_text(encoding="utf-8"))
    return {f"{section}.{name}": text for section, texts in sections.items() for name, text in texts.items()}
