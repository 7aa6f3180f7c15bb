"""Loading a configuration file: the one that is named, or the one that is found."""

from __future__ import annotations

import importlib
import stat
from typing import TYPE_CHECKING

from policyd_rate_limit.config import finding
from policyd_rate_limit.config.checking import Configuration, check
from policyd_rate_limit.config.remarks import secrets_in
from policyd_rate_limit.config.schema import Settings
from policyd_rate_limit.config.source import Source, read_text
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load(path: Path | None = None) -> Configuration:
    """Read and check a configuration file; without ``path`` the one that is found, else the defaults.

    Raises ConfigError with every problem of the file.
    """
    ignored: tuple[str, ...] = ()
    if path is None:
        existing = [place for place in finding.search_path() if finding.exists(place)]
        path = existing[0] if existing else None
        ignored = tuple(f"{place} is ignored, since {path} is in use" for place in existing[1:])
    if path is None:
        searched = ", ".join(map(str, finding.search_path()))
        return Configuration(Settings(), (f"no configuration file: running on the defaults; searched {searched}",))
    settings, warnings = check(read(path))
    return Configuration(settings, (*ignored, *warnings, *_readable_secrets(path, settings)))


def _readable_secrets(path: Path, settings: Settings) -> Iterator[str]:
    """A warning where everybody may read the passwords in the file at ``path``."""
    secrets = secrets_in(settings)
    if not secrets:
        return
    try:
        facts = path.stat()
    except OSError:
        return
    if facts.st_mode & stat.S_IROTH:
        yield (
            f"{path} holds a password ({', '.join(secrets)}), and everybody may read it:"
            f" chown root:{settings.group} {path} && chmod 0640 {path}"
        )


def import_readers() -> None:
    """Import what reads files, for whoever then becomes an account that may not be able to."""
    for name in ("conf_file", "yaml_file"):
        importlib.import_module(f"policyd_rate_limit.config.{name}")


def read(path: Path) -> Source:
    """What the file at ``path`` holds, ``.conf`` in Python syntax or else YAML. Raises ConfigError."""
    if path.suffix == ".conf":
        from policyd_rate_limit.config.conf_file import read_conf as reader
    elif path.suffix in (".yaml", ".yml"):
        # Here, since a start with a .conf need not wait for PyYAML.
        from policyd_rate_limit.config.yaml_file import read_yaml as reader
    else:
        raise ConfigError([Problem(str(path), 0, "", "a name that ends in .yaml or .conf", "another one")])
    return reader(read_text(path), str(path))
