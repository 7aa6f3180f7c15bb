"""The account of the daemon, and how root becomes it for good.

Only a daemon that was started as root looks here; anybody else runs as who they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from policyd_rate_limit.errors import SystemRefusal, UnknownAccount

# prctl(2), capset(2): neither is in the standard library.
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = 64
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

UMASK = 0o027  # of whoever uses the database: who sends how much is nobody else's business


_LOGIN_UID = Path("/proc/self/loginuid")
_NO_UID = 2**32 - 1  # the kernel's "none": a service, a container


class Account(NamedTuple):
    """A user and a group of this machine, looked up once."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    """``gid`` and the supplementary groups of ``user``, as initgroups(3) would set them."""


def resolve(user: str, group: str) -> Account:
    """The account that ``user`` and ``group`` name.

    A name of digits that no entry bears is a uid or a gid.
    Raises UnknownAccount when there is no such user or no such group.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        gid = _number("group", group)
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        uid = _number("user", user)
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return Account(user, uid, gid, (gid,))
    return Account(entry.pw_name, entry.pw_uid, gid, tuple(sorted(set(os.getgrouplist(entry.pw_name, gid)))))


def login_name(login_uid: Path = _LOGIN_UID) -> str:
    """Who has logged in to start this process, through su and sudo as far as that can be told.

    The kernel keeps it (``login_uid``, proc_pid_loginuid(5)) where PAM has set it at the login, and nobody can change
    it afterwards. Else what sudo(8) says counts, of root alone: anybody may set an environment. Else it is the real uid
    of this process. A uid without a name is written as ``uid 1234``.
    """
    try:
        uid = int(login_uid.read_bytes())
    except (OSError, ValueError):
        uid = _NO_UID
    if uid == _NO_UID:
        uid = os.getuid()
        if uid == 0 and (by_sudo := os.environ.get("SUDO_USER")):
            return by_sudo
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _number(kind: str, name: str) -> int:
    # The greatest id is the kernel's "no change": setresuid(-1) would leave us root.
    if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
        return int(name)
    raise UnknownAccount(f"{kind} {name!r} does not exist")


def drop_privileges(account: Account) -> None:
    """Become ``account`` for ever: its groups, its gid, its uid, no capability and no way to gain one.

    Call it before a second thread exists: the kernel keeps capabilities and "no new privileges" per thread.
    An ``account`` that is root gets the groups of that account, and nothing else is given up.
    Raises SystemRefusal when the system refuses, or when root could be had again.
    """
    try:
        if set(os.getgroups()) != set(account.groups):
            os.setgroups(account.groups)
        if account.uid != 0:
            _empty_capability_bounds()
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        if account.uid != 0:
            _give_up_capabilities()
    except OSError as error:
        raise SystemRefusal(f"cannot become user {account.user!r}: {error.strerror}") from error
    if (
        os.getresuid() != (account.uid,) * 3
        or os.getresgid() != (account.gid,) * 3
        or not set(os.getgroups()) <= set(account.groups)
        or (account.uid != 0 and _root_again())
    ):
        raise SystemRefusal(f"cannot become user {account.user!r} for good: root could be had again")


def _empty_capability_bounds() -> None:
    """No program that is started later gets a capability from its file, where we may say so."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _give_up_capabilities() -> None:
    """Empty the sets that a change of uid leaves alone, and let no set-uid program give root back."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _root_again() -> bool:
    with contextlib.suppress(OSError):
        os.setresuid(0, 0, 0)
        return True
    return False
