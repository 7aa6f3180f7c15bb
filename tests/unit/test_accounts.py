"""Whom the daemon becomes when root starts it, in processes of their own: there is no way back."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.errors import UnknownAccount
from policyd_rate_limit.system.accounts import Account, login_name, resolve
from support.programs import require, require_root

DROP = """
import json, os, pathlib, sys
from policyd_rate_limit.system import accounts
account = accounts.Account(*json.loads(sys.argv[1]))
accounts.drop_privileges(account)
status = pathlib.Path("/proc/self/status").read_text()
facts = dict(line.split(":", 1) for line in status.splitlines())
back = []
for attempt in (lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        attempt()
    except PermissionError:
        continue
    back.append(True)
print(json.dumps({"facts": {name: value.split() for name, value in facts.items()}, "back": back}))
"""


def drop(account: Account, *prefix: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Drop to ``account`` in a new process, started through ``prefix``, which runs ``before`` first."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", before + DROP, json.dumps(account)],
        capture_output=True,
        text=True,
        check=False,
    )


def facts_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["back"] == []
    facts: dict[str, Any] = answer["facts"]
    return facts


def test_names_are_looked_up() -> None:
    account = resolve("nobody", "nogroup")
    assert account == Account(
        "nobody",
        pwd.getpwnam("nobody").pw_uid,
        grp.getgrnam("nogroup").gr_gid,
        (grp.getgrnam("nogroup").gr_gid,),
    )


def test_the_group_replaces_the_login_group() -> None:
    account = resolve("nobody", "daemon")
    daemon = grp.getgrnam("daemon").gr_gid
    assert account.gid == daemon
    assert account.groups == (daemon,)


def test_supplementary_groups_are_those_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def getgrouplist(user: str, gid: int) -> list[int]:
        asked.append((user, gid))
        return [gid, 12, 5, 12]

    monkeypatch.setattr(os, "getgrouplist", getgrouplist)
    gid = grp.getgrnam("nogroup").gr_gid
    assert resolve("nobody", "nogroup").groups == (5, 12, gid)
    assert asked == [("nobody", gid)]


def test_numbers_stand_for_themselves() -> None:
    assert resolve("54321", "54322") == Account("54321", 54321, 54322, (54322,))


def test_the_number_of_an_existing_user_has_the_groups_of_that_user() -> None:
    nobody = pwd.getpwnam("nobody")
    assert resolve(str(nobody.pw_uid), "nogroup") == resolve("nobody", "nogroup")


def test_a_name_of_digits_wins_over_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(pwd, "getpwnam", {"123": nobody}.__getitem__)
    assert resolve("123", "nogroup").uid == nobody.pw_uid


@pytest.mark.parametrize("name", ["no-such-name", "", "-1", "4294967295", "99999999999", "१२", "1 ", "0x10"])
def test_what_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(UnknownAccount, match=r"^user .* does not exist$") as caught:
        resolve(name, "nogroup")
    assert repr(name) in str(caught.value)
    with pytest.raises(UnknownAccount, match=r"^group .* does not exist$"):
        resolve("nobody", name)


@pytest.mark.needs_root
def test_nothing_of_root_is_left() -> None:
    require_root()
    facts = facts_of(drop(Account("54321", 54321, 54322, (54322, 54323))))
    assert facts["Uid"] == ["54321"] * 4
    assert facts["Gid"] == ["54322"] * 4
    assert sorted(facts["Groups"]) == ["54322", "54323"]
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[capabilities][0], 16) == 0, capabilities
    assert facts["NoNewPrivs"] == ["1"]


@pytest.mark.needs_root
def test_groups_of_the_starter_are_given_up() -> None:
    require_root()
    setpriv = require("setpriv")
    facts = facts_of(drop(Account("54321", 54321, 54322, (54322,)), str(setpriv), "--groups", "0,4,6"))
    assert facts["Groups"] == ["54322"]


@pytest.mark.needs_root
def test_inherited_capabilities_are_given_up() -> None:
    require_root()
    setpriv = require("setpriv")
    inherit = (str(setpriv), "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin")
    facts = facts_of(drop(Account("54321", 54321, 54322, (54322,)), *inherit))
    assert int(facts["CapInh"][0], 16) == int(facts["CapAmb"][0], 16) == int(facts["CapEff"][0], 16) == 0


@pytest.mark.needs_root
def test_securebits_that_keep_capabilities_do_not_help() -> None:
    require_root()
    setpriv = require("setpriv")
    keep = (str(setpriv), "--securebits", "+no_setuid_fixup")
    facts = facts_of(drop(Account("54321", 54321, 54322, (54322,)), *keep))
    assert int(facts["CapPrm"][0], 16) == int(facts["CapEff"][0], 16) == 0


@pytest.mark.needs_root
@pytest.mark.parametrize("capability", ["setuid", "setgid"])
def test_root_that_may_not_change_is_refused(capability: str) -> None:
    require_root()
    setpriv = require("setpriv")
    without = (str(setpriv), "--bounding-set", f"-{capability}")
    done = drop(Account("somebody", 54321, 54322, (54322,)), *without)
    assert done.returncode == 1
    assert "SystemRefusal: cannot become user 'somebody': Operation not permitted" in done.stderr


# Each leaves a way back to root, or another account, as a kernel or a C library would that does not do as it is told.
WAYS_BACK = {
    "the saved uid stays": """
import os
change = os.setresuid
os.setresuid = lambda real, effective, saved: change(real, effective, 0 if saved else saved)
""",
    "the real uid stays": """
import os
change = os.setresuid
os.setresuid = lambda real, effective, saved: change(0 if real else real, effective, saved)
""",
    "it becomes somebody else": """
import os
change = os.setresuid
os.setresuid = lambda real, effective, saved: change(54399, 54399, 54399) if real else change(0, 0, 0)
""",
    "no uid changes": """
import os
os.setresuid = lambda real, effective, saved: None
""",
    "the saved uid stays, and is not shown": """
import os
change = os.setresuid
os.setresuid = lambda real, effective, saved: change(real, effective, 0)
os.getresuid = lambda: (54321, 54321, 54321)
""",
    "the saved gid stays": """
import os
change = os.setresgid
os.setresgid = lambda real, effective, saved: change(real, effective, 0)
""",
    "the real gid stays": """
import os
change = os.setresgid
os.setresgid = lambda real, effective, saved: change(0, effective, saved)
""",
    "a group stays": """
import os
os.setgroups([0, 4])
os.setgroups = lambda groups: None
""",
}


@pytest.mark.needs_root
@pytest.mark.parametrize("way", WAYS_BACK)
def test_a_way_back_to_root_is_seen(way: str) -> None:
    require_root()
    done = drop(Account("somebody", 54321, 54322, (54322,)), before=WAYS_BACK[way])
    assert done.returncode == 1
    assert "SystemRefusal: cannot become user 'somebody' for good: root could be had again" in done.stderr


@pytest.mark.needs_root
@pytest.mark.parametrize(("call", "result"), [("prctl", 1), ("capset", -1)])
def test_capabilities_that_cannot_be_given_up_are_seen(call: str, result: int) -> None:
    require_root()
    before = f"""
import ctypes
class Library:
    def __init__(self, *arguments, **options):
        self.real = real(*arguments, **options)
    def prctl(self, option, *rest):
        ctypes.set_errno(1)
        return {result} if {call!r} == "prctl" and option == 38 else self.real.prctl(option, *rest)
    def capset(self, *arguments):
        ctypes.set_errno(1)
        return {result} if {call!r} == "capset" else self.real.capset(*arguments)
real, ctypes.CDLL = ctypes.CDLL, Library
"""
    done = drop(Account("somebody", 54321, 54322, (54322,)), before=before)
    assert done.returncode == 1
    assert "SystemRefusal: cannot become user 'somebody': Operation not permitted" in done.stderr


@pytest.mark.needs_root
def test_root_may_stay_root() -> None:
    require_root()
    root = resolve("root", "root")
    done = drop(root)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["facts"]
    assert facts["Uid"] == ["0"] * 4
    assert facts["NoNewPrivs"] == ["0"]
    assert int(facts["CapEff"][0], 16) != 0


@pytest.mark.parametrize(("kept", "by_sudo"), [("0", "somebody"), ("0\n", "")])
def test_the_kernel_knows_best_who_has_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, by_sudo: str
) -> None:
    (tmp_path / "loginuid").write_text(kept)
    monkeypatch.setenv("SUDO_USER", by_sudo)
    assert login_name(tmp_path / "loginuid") == pwd.getpwuid(0).pw_name


@pytest.mark.parametrize("kept", ["4294967295", "", "none", None])
def test_sudo_is_believed_of_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str | None) -> None:
    if kept is not None:
        (tmp_path / "loginuid").write_text(kept)
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert login_name(tmp_path / "loginuid") == "alice"
    nobody = pwd.getpwnam("nobody").pw_uid
    monkeypatch.setattr(os, "getuid", lambda: nobody)
    assert login_name(tmp_path / "loginuid") == "nobody"  # who may set any environment
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    assert login_name(tmp_path / "loginuid") == "uid 987654"
