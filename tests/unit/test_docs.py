"""What users read agrees with the program: configurations load, command lines are understood, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

from policyd_rate_limit import config
from policyd_rate_limit.cli import command as program
from policyd_rate_limit.cli.manual import __main__, described, pages
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.domain.limits import parse_limits
from policyd_rate_limit.domain.windows import Windows
from policyd_rate_limit.system.logs import NAME
from policyd_rate_limit.system.signals import SIGNALS
from support.programs import require

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MANUAL = sorted((DOCS / "man").glob("*.[58]"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
AGAIN = "make generated"
OF_OTHERS = {"scrape_configs"}  # configurations of other programs, by their first key
MEASURED = DOCS / "benchmark.md"  # made of measurements, which a clone may lack
NOT_OURS = re.compile(r"^(https?:|mailto:)")

OF_1_2_0 = {
    "debug",
    "user",
    "group",
    "pidfile",
    "backend",
    "sqlite_config",
    "mysql_config",
    "pgsql_config",
    "SOCKET",
    "socket_permission",
    "limits",
    "limits_by_id",
    "sql_limits_by_id",
    "limit_by_sasl",
    "limit_by_sender",
    "limit_by_ip",
    "limited_networks",
    "success_action",
    "fail_action",
    "db_error_action",
    "count_mode",
    "delay_to_close",
    "report",
    "report_from",
    "report_to",
    "report_subject",
    "report_limits",
    "report_only_if_needed",
    "smtp_server",
    "smtp_starttls",
    "smtp_credentials",
    "config_file",
}
"""The settings that version 1.2.0 has."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_what_is_generated_is_up_to_date() -> None:
    for path, text in pages().items():
        assert (DOCS / path).read_text() == text, AGAIN
    assert {name_of(path) for path in MANUAL} <= {f"docs/{path}" for path in pages()}


def test_it_is_written(tmp_path: Path) -> None:
    __main__.main(str(tmp_path))
    assert {path: (tmp_path / path).read_text() for path in pages()} == pages()


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_groff_finds_nothing_wrong(page: Path) -> None:
    done = subprocess.run(
        [require("groff"), "-man", "-ww", "-z", "-Tutf8", "-rLL=100n", page],
        cwd=page.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if not page.read_text().startswith(".so "):  # which man follows, and groff from another directory
        assert (done.returncode, done.stderr) == (0, "")


@cache
def shown(page: str) -> str:
    """A manual page as man shows it, on long lines."""
    done = subprocess.run(
        [require("groff"), "-man", "-Tascii", "-P-cbou", "-rLL=300n", DOCS / "man" / page],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_manual_tells_of_every_command_option_and_signal() -> None:
    text = shown(f"{NAME}.8")
    for one in described():
        assert one.synopsis in text or one.name == NAME
        for option, about in one.options:
            assert option in text
            assert " ".join(about.split()) in " ".join(text.split())
    for signal in SIGNALS:
        assert signal.name in text


def test_the_manual_tells_of_every_setting() -> None:
    text = " ".join(shown(f"{NAME}.yaml.5").split())
    for setting in SETTINGS.values():
        assert (
            setting.name == "config_file" or f" {setting.name} {setting.prose} Value: {setting.kind.expected}; " in text
        )


def test_examples_of_the_manual_load(tmp_path: Path) -> None:
    examples = shown(f"{NAME}.yaml.5").partition("\nEXAMPLES\n")[2].partition("\nSEE ALSO\n")[0]
    blocks = re.findall(r"(?:^ {14}.*\n)+", examples, re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        assert_loads(textwrap.dedent(block), tmp_path)


def assert_loads(text: str, directory: Path) -> None:
    path = directory / "policyd-rate-limit.yaml"
    path.write_text(text)
    path.chmod(0o640)  # as the pages have it where there is a password
    assert config.load(path)[1] == ()


def blocks_of(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks in ``language``, without what they are indented by."""
    for indent, block in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield textwrap.dedent(block) if indent else block


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configurations_load(page: Path, tmp_path: Path) -> None:
    for block in blocks_of(page, "yaml"):
        if not OF_OTHERS & set(yaml.safe_load(block)):
            assert_loads(block, tmp_path)
    for block in re.findall(r"^cat > /etc/policyd-rate-limit\.yaml <<END\n(.*?)^END$", page.read_text(), re.M | re.S):
        assert_loads(block, tmp_path)


def command_lines(page: Path) -> Iterator[str]:
    """The command lines of ours: in blocks of a shell, in indented blocks, and among the prose."""
    text = page.read_text()
    for block in blocks_of(page, "(?:sh|bash|console)"):
        yield from block.splitlines()
    yield from re.findall(r"^(?: {4,}|\d+ .*\* )(.*)$", text, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S))


def arguments_of(line: str) -> list[str] | None:
    """What follows our command in ``line``, None where it is another command."""
    found = re.match(rf"(?:sudo )?(?:/[\w./-]*bin/)?{NAME}(?P<rest>\s+\S.*)$", line.strip(), re.DOTALL)
    if found is None or found["rest"].lstrip().startswith(("[-f FILE]", "[OPTIONS]", "#")):
        return None
    written = re.sub(r"\[(FILE|ID)\]", r"\1", found["rest"].replace("PERIOD", "1h"))
    written = re.sub(r"\{(\w+)\\?\|[^}]*\}", r"\1", written)  # one of several words
    return [word for word in shlex.split(written, comments=True) if not re.match(r"[<>|&]", word)]


def understand(arguments: list[str]) -> None:
    """Parse a command line as the program does; raises click.ClickException where it is wrong."""
    try:
        context = program.make_context(NAME, arguments)
        # What click keeps for the command has no public name that all its versions have.
        while isinstance(context.command, click.Group) and (rest := [*context._protected_args, *context.args]):
            name, command, further = context.command.resolve_command(context, rest)
            assert command is not None
            context = command.make_context(name, further, parent=context)
    except click.exceptions.Exit:  # --help
        return


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_are_understood(page: Path) -> None:
    for line in command_lines(page):
        if (arguments := arguments_of(line)) is not None:
            try:
                understand(arguments)
            except click.ClickException as error:
                pytest.fail(f"{line.strip()}: {error.format_message()}")


def test_command_lines_are_found() -> None:
    found = [line for page in PAGES for line in command_lines(page) if arguments_of(line) is not None]
    assert len(found) > 30
    with pytest.raises(click.NoSuchOption):
        understand(["status", "alice", "--no-such-option"])
    with pytest.raises(click.UsageError):
        understand(["no-such-command"])
    with pytest.raises(click.BadParameter):
        understand(["block", "alice", "--for", "soon"])


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link may name in ``page``: its headings, as GitHub and GitLab spell them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if NOT_OURS.match(target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists() or other == MEASURED, target
        assert not anchor or anchor in anchors(other), target


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    assert set(DOCS.rglob("*.md")) - {index} <= linked


def test_the_changelog_tells_of_every_new_setting() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    for name in set(SETTINGS) - OF_1_2_0:
        assert f"`{name}`" in text, name


def test_claims_on_security_name_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    claims = re.findall(r"^\| (?:[^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert len(claims) > 30
    for held in claims:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", held)
        assert named or held in {"---", "held by", "not tested", "not defended"}, held
        for path, function in named:
            assert function in functions_of(ROOT / path), f"{path}::{function}"


@cache
def functions_of(path: Path) -> frozenset[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions))


def test_the_example_of_a_second() -> None:
    """The table in windows.md is what the windows do."""
    rows = re.findall(
        r"^\| 12:(\d\d):(\d\d\.\d) \| (\d+) \| (\w+) \|$", (DOCS / "windows.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 4
    windows, limits = Windows(), parse_limits([[10, 60]])
    for minute, second, asked, answer in rows:
        windows.advance(1_700_000_000 // 3600 * 3600 + 60 * int(minute) + float(second))
        passes = windows.exceeded("user:alice", int(asked), limits) is None
        assert passes == (answer == "passes")
        if passes:
            windows.add("user:alice", windows.date, int(asked))
