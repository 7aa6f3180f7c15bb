"""The recipes for other programs: their lines of main.cf, in a Postfix that these programs have configured.

The lists below are what ISPConfig 3, iRedMail 1, docker-mailserver 15 and mailcow write, as far as the daemon is
concerned; their tables, which need databases, are left out. postconf reads it all, and ``doctor`` judges.
"""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.doctor import Severity, asked, settings
from policyd_rate_limit.doctor.hooks import Hooks
from policyd_rate_limit.postfix.postconf import Postfix
from support.postfix import write_cf
from support.programs import require

pytestmark = pytest.mark.needs_postfix

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
LINE = re.compile(r"^smtpd_\w+_restrictions =(?:\n?[ \t]+\S.*)+$", re.MULTILINE)
OF_A_CONTAINER = "inet:policyd-rate-limit:10033"


class Layout(NamedTuple):
    """What a program writes into main.cf and master.cf."""

    main_cf: str
    master_cf: str


_USERS = "\n  -o smtpd_sasl_auth_enable=yes\n  -o smtpd_client_restrictions=permit_sasl_authenticated,reject\n"
_AGAIN = """\
  -o content_filter=
  -o smtpd_client_restrictions=permit_mynetworks,reject
  -o smtpd_helo_restrictions=
  -o smtpd_sender_restrictions=
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o smtpd_end_of_data_restrictions=
  -o mynetworks=127.0.0.0/8
"""

ISPCONFIG = Layout(
    """
smtpd_sasl_auth_enable = yes
smtpd_restriction_classes = greylisting
greylisting = check_policy_service inet:127.0.0.1:10023
smtpd_recipient_restrictions = permit_mynetworks, reject_unknown_recipient_domain, permit_sasl_authenticated,
    reject_non_fqdn_recipient, reject_unauth_destination, check_policy_service unix:private/quota-status
smtpd_data_restrictions = permit_mynetworks, reject_unauth_pipelining, reject_multi_recipient_bounce, permit
""",
    f"smtp inet n - y - - smtpd\nsubmission inet n - y - - smtpd{_USERS}",
)
WITH_AMAVIS = Layout(
    f"{ISPCONFIG.main_cf}content_filter = amavis:[127.0.0.1]:10024\n",
    f"{ISPCONFIG.master_cf}127.0.0.1:10025 inet n - n - - smtpd\n{_AGAIN}"
    f"127.0.0.1:10027 inet n - n - - smtpd\n{_AGAIN}",
)
IREDMAIL = Layout(
    """
smtpd_recipient_restrictions = reject_non_fqdn_recipient reject_unlisted_recipient
    check_policy_service inet:127.0.0.1:7777 permit_mynetworks permit_sasl_authenticated reject_unauth_destination
smtpd_end_of_data_restrictions = check_policy_service inet:127.0.0.1:7777
smtpd_data_restrictions = reject_unauth_pipelining
content_filter = smtp-amavis:[127.0.0.1]:10024
""",
    f"smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd{_USERS}465 inet n - n - - smtpd{_USERS}"
    f"127.0.0.1:10025 inet n - n - - smtpd\n{_AGAIN}127.0.0.1:10028 inet n - n - - smtpd\n{_AGAIN}",
)
DOCKER_MAILSERVER = Layout(
    """
smtpd_recipient_restrictions = permit_sasl_authenticated, permit_mynetworks, reject_unauth_destination,
    reject_unauth_pipelining
content_filter = smtp-amavis:[127.0.0.1]:10024
""",
    f"smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd{_USERS}"
    f"127.0.0.1:10025 inet n - n - - smtpd\n{_AGAIN}  -o smtpd_data_restrictions=reject_unauth_pipelining\n",
)
MAILCOW = Layout(
    """
smtpd_sasl_auth_enable = yes
smtpd_recipient_restrictions = permit_sasl_authenticated, permit_mynetworks, reject_unauth_destination
smtpd_data_restrictions = reject_unauth_pipelining, permit
""",
    f"smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd{_USERS}",
)


def lines(page: str) -> list[str]:
    """The parameters of main.cf that ``page`` proposes, in its order."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", (HOWTO / page).read_text(), re.DOTALL | re.MULTILINE)
    return [found for block in blocks for found in LINE.findall(textwrap.dedent(block))]


def configured(directory: Path, layout: Layout, line: str, *, override: str = "") -> Postfix:
    """A Postfix of ``layout`` with ``line``; ``override`` is added to what takes mail back from a content filter."""
    queue = directory / "queue"
    queue.mkdir()
    master_cf = layout.master_cf.replace(_AGAIN, _AGAIN + override)
    write_cf(directory / "main.cf", f"compatibility_level = 3.6\nqueue_directory = {queue}\n{layout.main_cf}{line}\n")
    write_cf(directory / "master.cf", master_cf)
    postconf = require("postconf")
    done = subprocess.run([postconf, "-c", directory, "-n"], capture_output=True, text=True)
    assert done.returncode == 0
    # That a later line of main.cf takes the place of an earlier one is meant.
    assert [one for one in done.stderr.splitlines() if "overriding earlier entry" not in one] == []
    return Postfix(None, directory)


def wrong(directory: Path, postfix: Postfix, where: str) -> list[str]:
    """The names of what ``doctor`` finds wrong with the hooks, where users and senders are charged."""
    path = directory / "policyd-rate-limit.yaml"
    path.write_text(f"SOCKET: {where}\nlimit_by_sender: true\nlimits: [1000/1h]  # no mail has more recipients\n")
    found = config.load(path).settings
    hooks = Hooks(postfix, found)
    findings = [*asked.examine(postfix, found, hooks), *settings.examine_with(postfix, found, hooks)]
    return sorted({one.check for one in findings if one.severity is not Severity.OK})


@pytest.mark.parametrize(
    ("page", "number", "layout", "override"),
    [
        ("ispconfig.md", 0, ISPCONFIG, ""),
        ("ispconfig.md", 1, WITH_AMAVIS, ""),
        ("iredmail.md", 0, IREDMAIL, ""),
        ("iredmail.md", 1, IREDMAIL, "  -o smtpd_data_restrictions=reject_unauth_pipelining\n"),
    ],
)
def test_a_recipe(page: str, number: int, layout: Layout, override: str, tmp_path: Path) -> None:
    postfix = configured(tmp_path, layout, lines(page)[number], override=override)
    assert override.strip() in (HOWTO / page).read_text()
    assert wrong(tmp_path, postfix, str(tmp_path / "queue" / "ratelimit" / "policy")) == []


@pytest.mark.parametrize(("page", "number", "layout"), [("ispconfig.md", 0, WITH_AMAVIS), ("iredmail.md", 1, IREDMAIL)])
def test_what_the_recipe_warns_of(page: str, number: int, layout: Layout, tmp_path: Path) -> None:
    postfix = configured(tmp_path, layout, lines(page)[number])
    assert wrong(tmp_path, postfix, str(tmp_path / "queue" / "ratelimit" / "policy")) == ["counted-twice"]


@pytest.mark.parametrize(("number", "layout"), [(0, DOCKER_MAILSERVER), (1, MAILCOW)])
def test_a_recipe_for_containers(number: int, layout: Layout, tmp_path: Path) -> None:
    line = lines("containers.md")[number]
    assert OF_A_CONTAINER in line
    assert "\n" not in line  # docker-mailserver hands each line to postconf
    # doctor resolves no names: the address of the other container stands for it.
    postfix = configured(tmp_path, layout, line.replace("policyd-rate-limit:", "192.0.2.10:"))
    assert wrong(tmp_path, postfix, "['192.0.2.10', 10033]") == []


def test_every_proposed_line_is_tried() -> None:
    assert [len(lines(page)) for page in ("ispconfig.md", "iredmail.md", "containers.md")] == [2, 2, 2]


OWN = """\
smtp inet n - y - - smtpd
submission inet n - y - - smtpd
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
"""
"""A master.cf to which the recipes for rules add something, at the end."""


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("web-servers.md", []),
        ("from-postfwd.md", []),
        ("from-rspamd.md", []),
        ("universities.md", []),
        ("inbound.md", ["after-permit"]),  # which the page speaks of
        ("hosting-providers.md", []),
    ],
)
def test_a_recipe_asks_at_each_stage_at_which_its_rules_count(page: str, found: list[str], tmp_path: Path) -> None:
    text = (HOWTO / page).read_text()
    configuration, others = configuration_and_lines(text)
    main_cf = "\n".join(LINE.findall(others))
    master_cf = OWN + "".join(f"{line}\n" for line in re.findall(r"^  -o .*$", others, re.MULTILINE))
    postfix = configured(tmp_path, Layout("", master_cf), main_cf)
    path = tmp_path / "policyd-rate-limit.yaml"
    path.write_text(f"SOCKET: {tmp_path / 'queue' / 'ratelimit' / 'policy'}\n{configuration}")
    settings_of_page = config.load(path).settings
    hooks = Hooks(postfix, settings_of_page)
    findings = [
        *asked.examine(postfix, settings_of_page, hooks),
        *settings.examine_with(postfix, settings_of_page, hooks),
    ]
    assert sorted({one.check for one in findings if one.severity is not Severity.OK}) == found
    assert all(f"`{check}`" in text for check in found)


def configuration_and_lines(text: str) -> tuple[str, str]:
    """The first configuration of a page, and all blocks of Postfix's files."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return next(block for kind, block in blocks if kind == "yaml"), "".join(block for kind, block in blocks if not kind)
