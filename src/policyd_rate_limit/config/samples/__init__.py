"""The sample configuration files and the documentation's table of settings, made from the schema.

``python -m policyd_rate_limit.config.samples docs/settings.md`` writes all three.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.config.kinds import PERMISSION
from policyd_rate_limit.config.schema import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.config.setting import Setting

DIRECTORY = Path(__file__).parent
"""Where the sample files lie."""

_WIDTH = 100
_DECLARED = [setting for setting in SETTINGS.values() if setting.name != "config_file"]


def yaml_sample() -> str:
    """``policyd-rate-limit.yaml``, with every setting, at its default unless it has another sample."""
    return _sample(
        "The configuration of policyd-rate-limit, in YAML 1.1: /etc/policyd-rate-limit.yaml.",
        lambda setting: f"{setting.name}:{_yaml(setting)}",
    )


def conf_sample() -> str:
    """``policyd-rate-limit.conf``, likewise."""
    return _sample(
        "The configuration of policyd-rate-limit, in the syntax of Python: /etc/policyd-rate-limit.conf."
        " It is read, never run: literals, arithmetic on them and names assigned before.",
        lambda setting: f"{setting.name} = {_python(setting)}",
    )


def settings_table() -> str:
    """A table of all settings in Markdown."""
    lines = ["| setting | value | default | unit | reload | meaning |", "|---|---|---|---|---|---|"]
    for setting in _DECLARED:
        default = "unset" if setting.default is None else f"`{spell_default(setting)}`"
        reload = "yes" if setting.reload else "no"
        cells = _escaped(setting.kind.expected), default, setting.unit, reload, _escaped(setting.prose)
        lines.append(f"| `{setting.name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """``docs/settings.md``."""
    return f"""\
# Settings

The same names and values serve in `policyd-rate-limit.yaml` (YAML 1.1) and `policyd-rate-limit.conf` (Python
syntax, read and never run). Without `-f`, the first of these files that exists is read:
`~/.config/policyd-rate-limit.conf`, `~/.config/policyd-rate-limit.yaml`, `/etc/policyd-rate-limit.conf`,
`/etc/policyd-rate-limit.yaml`. A setting that is left out has its default.

*reload*: whether the daemon changes it without a restart, when it gets SIGHUP (`systemctl reload policyd-rate-limit`).
The others keep their values until the next start, and the log says so. A file with a mistake in it changes nothing.

`policyd-rate-limit --get-config NAME` prints a setting as it is in use; `config_file` is the file it comes from.

{settings_table()}
This page is made from the schema: `python -m policyd_rate_limit.config.samples docs/settings.md`.
"""


def _sample(title: str, line: Callable[[Setting], str]) -> str:
    """A sample file with the prose as comments."""
    parts = [_comment(title)]
    for setting in _DECLARED:
        if setting.heading:
            parts.append(_comment(f"--- {setting.heading} ---"))
        unit = f" In {setting.unit}." if setting.unit else ""
        parts.append(_comment(setting.prose + unit) + line(setting) + "\n")
    return "\n".join(parts)


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _yaml(setting: Setting) -> str:
    """The value in YAML, with what leads to it behind the colon."""
    if isinstance(setting.sampled, dict) and setting.sampled:
        return "".join(f"\n    {key}: {json.dumps(value)}" for key, value in setting.sampled.items())
    return f" {_spelled(setting, setting.sampled)}"


def spell_default(setting: Setting) -> str:
    """The default on one line of YAML; JSON is YAML, but for octal numbers."""
    return _spelled(setting, setting.default)


def _spelled(setting: Setting, value: Any) -> str:
    return f"0{value:o}" if setting.kind is PERMISSION else json.dumps(value)


def _python(setting: Setting) -> str:
    # By way of JSON, which makes lists of all tuples.
    return f"0o{setting.sampled:o}" if setting.kind is PERMISSION else repr(json.loads(json.dumps(setting.sampled)))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
