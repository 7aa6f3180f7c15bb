"""The manual pages and the page of the commands, made from the schema of the settings and the commands' own help.

``python -m policyd_rate_limit.cli.manual docs`` writes all of them. What is not in schema or help stands in the
templates beside this module, where ``@NAME@`` stands for a part that is made here.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click

from policyd_rate_limit import __version__
from policyd_rate_limit.cli import command as program
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.config.samples import spell_default
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.config.setting import Setting
from policyd_rate_limit.system.logs import NAME

TEMPLATES = Path(__file__).parent
SETTINGS_PAGE = f"man/{NAME}.yaml.5"
ALIAS = f"man/{NAME}.conf.5"
PROGRAM_PAGE = f"man/{NAME}.8"
COMMANDS_PAGE = "commands.md"

_WIDTH = 120
_ROFF = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})


class Command(NamedTuple):
    """What the program can be asked for: its arguments and what else it needs, prose, all options with their help."""

    name: str
    usage: str
    summary: str
    paragraphs: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    is_group: bool = False

    @property
    def synopsis(self) -> str:
        """The name and what follows it."""
        return f"{self.name} {self.usage}".rstrip()


def pages() -> dict[str, str]:
    """All that is made, by its path below ``docs/``."""
    main, *commands = described()
    those_that_do = [one for one in commands if not one.is_group]
    return {
        PROGRAM_PAGE: _filled(
            f"{NAME}.8.in",
            {
                "VERSION": __version__,
                "OPTIONS": _roff_list(main.options),
                "COMMANDS": "".join(map(_roff_command, commands)),
                "EXIT_STATUS": _roff_list((str(int(status)), status.meaning + ".") for status in Exit),
            },
        ),
        SETTINGS_PAGE: _filled(
            f"{NAME}.yaml.5.in",
            {"VERSION": __version__, "SETTINGS": "".join(map(_roff_setting, SETTINGS.values()))},
        ),
        ALIAS: f".so man5/{NAME}.yaml.5\n",
        COMMANDS_PAGE: _filled(
            "commands.md.in",
            {
                "SUMMARY": _table(
                    ("command", "what it does"),
                    ((f"`{NAME} {one.synopsis}`", one.summary) for one in those_that_do),
                ),
                "OPTIONS": _markdown_options(main),
                "COMMANDS": "\n".join(map(_markdown_command, commands)),
                "EXIT_STATUS": _table(("status", ""), ((str(int(status)), status.meaning) for status in Exit)),
            },
        ),
    }


def described() -> Iterator[Command]:
    """The program without a command, then each of its commands, in the order of the help."""
    # Whoever asks first which options ask for help decides that for the whole process.
    context = click.Context(program, info_name=NAME, **program.context_settings)
    yield _described(program, context)
    yield from _those_of(program, context)


def _those_of(group: click.Group, context: click.Context, before: str = "") -> Iterator[Command]:
    """The commands of ``group``, each that is a group itself followed by its own; ``before``: what they follow."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None  # noqa: S101 - it is listed
        its_context = click.Context(command, info_name=f"{before}{name}", parent=context)
        yield _described(command, its_context)
        if isinstance(command, click.Group):
            yield from _those_of(command, its_context, f"{before}{name} ")


def _described(command: click.Command, context: click.Context) -> Command:
    records = {one: one.get_help_record(context) for one in command.params if isinstance(one, click.Option)}
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    needed = [record[0] for option, record in records.items() if option.required and record]
    prose = inspect.cleandoc(command.help or "").split("\n\n")
    paragraphs = tuple(" ".join(paragraph.split()) for paragraph in prose)
    summary = command.short_help or paragraphs[0]
    return Command(
        str(context.info_name),
        " ".join([*pieces, *needed]),
        summary.rstrip("."),
        paragraphs,
        tuple((option, " ".join(about.split())) for option, about in filter(None, records.values())),
        isinstance(command, click.Group),
    )


def _filled(template: str, parts: Mapping[str, str]) -> str:
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"@{name}@\n", part).replace(f"@{name}@", part)
    return text


def _roff(text: str) -> str:
    """``text`` for roff, on lines of its own."""
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{_protected(line)}\n" for line in lines)


def _protected(line: str) -> str:
    """``line`` with nothing in it that roff would understand."""
    escaped = line.translate(_ROFF)
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


def _roff_list(items: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    return "".join(f".TP\n\\fB{_protected(term)}\\fR\n{_roff(about)}" for term, about in items)


def _roff_command(command: Command) -> str:
    heading = f".SS {_protected(command.synopsis)}\n"
    return heading + ".PP\n".join(map(_roff, command.paragraphs)) + _roff_list(command.options)


def _roff_setting(setting: Setting) -> str:
    if setting.name == "config_file":
        return ""
    heading = f".SS {_protected(setting.heading)}\n" if setting.heading else ""
    default = "unset" if setting.default is None else spell_default(setting)
    unit = setting.unit if setting.unit not in setting.kind.expected else ""
    about = [f"Value: {setting.kind.expected}", unit and f"in {unit}", f"default: {default}"]
    if not setting.reload:
        about.append("changed by a restart only")
    term = rf"\fB{_protected(setting.name)}\fR"
    return f"{heading}.TP\n{term}\n{_roff(setting.prose)}.br\n{_roff('; '.join(filter(None, about)) + '.')}"


def _markdown_command(command: Command) -> str:
    usage = f"{NAME} [-f FILE] {command.synopsis}"
    prose = "\n\n".join(_markdown(paragraph) for paragraph in command.paragraphs)
    return f"### {command.name}\n\n    {usage}\n\n{prose}\n\n{_markdown_options(command)}"


def _markdown_options(command: Command) -> str:
    return _table(("option", ""), ((f"`{option}`", about) for option, about in command.options))


def _markdown(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _table(head: tuple[str, str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [head, *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    written = [f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines]
    return "".join([written[0], "|---|---|\n", *written[1:]])
