"""Debian itself is upgraded to its next release, with another Python, under the installed package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.clean_root import LIBRARIES, SYSTEMD, Machine
from support.daemon import Client, mail
from support.installed import SOCKET, ask, daemon_pid, install, is_active, the_package
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.long(90),
    pytest.mark.timeout(900),  # the first of them waits for what all share
]
UPGRADE_SECONDS = 400.0
LIMIT = 12
REFUSAL = "reject too many"
CONFIGURATION = f"limits: [{LIMIT}/1d]\nfail_action: {REFUSAL}\n"  # an upgrade takes longer than a minute
APT = "apt-get --yes --no-download --option Dpkg::Options::=--force-confold"


# The package is built first: another process makes the Debian meanwhile.
def test_the_package_stays_and_limits(packages: Path, upgradable: Path, machine: Machine, tmp_path: Path) -> None:
    root = machine(upgradable, SYSTEMD)
    root.path("/etc/policyd-rate-limit.yaml").write_text(CONFIGURATION)
    install(root, the_package(packages), tmp_path)
    assert ask(root, LIMIT - 1) == ["dunno"] * (LIMIT - 1)
    before, python = daemon_pid(root), root.do("python3 --version")

    said = root.do(f"{APT} full-upgrade 2>&1", UPGRADE_SECONDS)

    assert "Removing policyd-rate-limit" not in said
    assert root.do("python3 --version") != python
    # It is another process already, of the new Python, and goes on with the counts of the old one.
    assert is_active(root), root.run("systemctl status policyd-rate-limit").stdout
    assert daemon_pid(root) not in (before, "0")
    suffix = root.do("python3 -c 'import sysconfig; print(sysconfig.get_config_var(\"EXT_SUFFIX\"))'").strip()
    maps = root.path(f"/proc/{daemon_pid(root)}/maps").read_text()
    assert re.search(rf"/libraries/uvloop/loop{suffix}$", maps, re.MULTILINE)
    assert ask(root, 2) == ["dunno", REFUSAL]
    assert root.status("systemctl is-active --quiet policyd-rate-limit.socket policyd-rate-limit-clean.timer") == 0
    root.do("apt-get --yes autoremove --purge 2>&1; systemctl restart policyd-rate-limit", UPGRADE_SECONDS)
    assert ask(root) == [REFUSAL]

    # A Python that it has no libraries for: apt and the log say so, and what to type. The running daemon is left alone.
    running = daemon_pid(root)
    root.do(f"rm /usr/lib/policyd-rate-limit/libraries/*/*{suffix}")
    said = root.do("dpkg-trigger --no-await /usr/bin/python3 2>&1; dpkg --triggers-only policyd-rate-limit 2>&1")
    assert "NO MAIL IS LIMITED" in said
    assert "WARNING: it does not start any more" in said
    assert daemon_pid(root) == running
    assert root.status("systemctl restart policyd-rate-limit") != 0
    assert "status=69" in root.run("systemctl status --no-pager policyd-rate-limit").stdout
    log = root.do("journalctl --unit policyd-rate-limit --output cat --priority err")
    assert "cannot run with Python 3." in log
    (line,) = re.findall(r"apt-get install .*", log)[:1]
    for library in LIBRARIES:
        assert library in line

    # Who asks meanwhile waits for the socket of the unit, and is answered once that has been typed.
    with Client(str(root.path(SOCKET))) as client:
        client.send(**mail("alice"))
        root.do(line.replace("apt-get", f"{APT} --no-install-recommends", 1), UPGRADE_SECONDS)
        wait_until(lambda: is_active(root), "the daemon serves")
        assert client.answer() == REFUSAL
