"""The units of systemd, as its own tools judge them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.programs import require

PACKAGING = Path(__file__).resolve().parent.parent.parent / "packaging"
SERVICES = ("policyd-rate-limit.service", "policyd-rate-limit-clean.service", "policyd-rate-limit-web.service")
UNITS = (*SERVICES, "policyd-rate-limit.socket", "policyd-rate-limit-clean.timer", "policyd-rate-limit-web.socket")
WORST_EXPOSURE = "20"  # tenths: 2.0 of 10


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [require("systemd-analyze"), "--no-pager", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_sandboxed(service: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={WORST_EXPOSURE}", PACKAGING / service)
    assert done.returncode == 0, done.stdout


def test_a_service_without_its_sandbox_is_not_accepted(tmp_path: Path) -> None:
    unit = tmp_path / SERVICES[0]
    unit.write_text((PACKAGING / SERVICES[0]).read_text().partition("# Sandbox.")[0])
    done = analyze("security", "--offline=true", f"--threshold={WORST_EXPOSURE}", unit)
    assert done.returncode != 0, done.stdout


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "policyd-rate-limit"
    for unit in UNITS:
        text = (PACKAGING / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/usr/local/bin/policyd-rate-limit", str(command)))
    done = analyze("verify", "--man=no", *(tmp_path / unit for unit in UNITS))
    assert (done.returncode, done.stdout) == (0, "")


def test_the_services_share_one_sandbox() -> None:
    daemon, clean, web = ((PACKAGING / service).read_text() for service in SERVICES)
    sandbox = daemon[daemon.index("# Sandbox.") : daemon.index("\n[Install]")]
    assert clean.endswith(sandbox)
    # What nobody starts with a database anywhere yet may write to less.
    lines = set(sandbox.splitlines()[1:]) - {"ProtectSystem=full"} | {"ProtectSystem=strict"}
    assert lines <= set(web.splitlines())


@pytest.mark.parametrize("script", ["policyd-rate-limit.init", "policyd-rate-limit.cron"])
def test_the_scripts_are_posix_shell(script: str) -> None:
    shell = shutil.which("dash") or "/bin/sh"
    done = subprocess.run([shell, "-n", PACKAGING / script], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
