"""A host whose Postfix asks a daemon, and what ``doctor`` finds there.

Postfix itself need not run, since postconf reads the files.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from policyd_rate_limit.cli import main
from support.daemon import Daemon, write_configuration
from support.postfix import write_cf

CHECK = "check_policy_service { unix:ratelimit/policy, default_action=DUNNO }"
MAIN_CF = f"""\
compatibility_level = 3.6
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions = {CHECK}, reject_unknown_recipient_domain
authorized_submit_users = root
"""
MASTER_CF = """\
smtp inet n - y - - smtpd
submission inet n - y - - smtpd
  -o smtpd_sasl_auth_enable=yes
pickup unix n - y 60 1 pickup
cleanup unix n - y - 0 cleanup
"""
SMTP = "smtp inet n - y - - smtpd\n"
SUBMISSION = "submission inet n - y - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n"


class Host(NamedTuple):
    """A directory that smtpd's user may go into, with a queue directory in which a daemon listens."""

    directory: Path
    queue: Path
    daemon: Daemon

    def configure(self, to: Path, main_cf: str = "", master_cf: str = MASTER_CF) -> Path:
        """A directory with a good configuration, ``main_cf`` being added to it."""
        to.mkdir(exist_ok=True)
        write_cf(to / "main.cf", f"{MAIN_CF}queue_directory = {self.queue}\n{main_cf}")
        write_cf(to / "master.cf", master_cf)
        return to


def findings_of(configuration: Path, *options: str | Path) -> list[dict[str, str]]:
    """What ``doctor --json`` finds.

    It runs in this process: a process of its own would do little else than start.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["-f", str(configuration), "doctor", "--json", *map(str, options)])
    assert err.getvalue() == ""
    findings: list[dict[str, str]] = json.loads(out.getvalue())["findings"]
    assert ended.value.code == (1 if wrong(findings) else 0)
    return findings


def doctor(configuration: Path, postfix: Path, *options: str) -> list[dict[str, str]]:
    """The findings but for the clock: that of the machine that runs the tests may be any."""
    return findings_of(configuration, "--postfix-config", postfix, "--ignore", "clock", *options)


def wrong(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    return [finding for finding in findings if finding["severity"] in ("error", "warning")]


def only(findings: list[dict[str, str]]) -> dict[str, str]:
    """The one thing that is wrong."""
    (finding,) = wrong(findings)
    assert finding["why"]
    assert finding["mend"]
    return finding


def settings(host: Host, directory: Path, **changed: Any) -> Path:
    """The daemon's configuration file, with ``changed`` in it."""
    return write_configuration(directory, {**host.daemon.settings, **changed})


def mend(finding: dict[str, str], postfix: Path) -> None:
    """Do as the finding says."""
    match = re.fullmatch(r"(main\.cf|master\.cf)(?:, (\S+/\w+))?(?:: .*)?", finding["place"])
    assert match
    path, service = postfix / match[1], match[2]
    if not service:
        write_cf(path, path.read_text() + finding["mend"] + "\n")
        return
    parameter = finding["mend"].split()[2]
    lines: list[str] = []
    inside = False
    for line in path.read_text().splitlines():
        if not line.startswith(" "):
            inside = line.split()[:2] == service.split("/")
            lines += [line, finding["mend"]] if inside else [line]
        elif not inside or parameter not in line:
            lines.append(line)
    write_cf(path, "\n".join(lines) + "\n")
