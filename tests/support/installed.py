"""The daemon on a machine of :mod:`support.clean_root`: where it is, how it is installed and asked."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.clean_root import CleanRoot
from support.daemon import Client, mail

SOCKET = "/var/spool/postfix/ratelimit/policy"
DATABASE = "/var/lib/policyd-rate-limit/db.sqlite3"
PIDFILE = "/run/policyd-rate-limit/policyd-rate-limit.pid"
INIT = "/etc/init.d/policyd-rate-limit"
REFUSAL = "defer_if_permit Rate limit reached, retry later"  # of the sample configuration
UNITS = "policyd-rate-limit.socket policyd-rate-limit.service policyd-rate-limit-clean.timer"
LIMIT = 10  # mails in a minute: the first of the default limits

# What may be left of an installation. Debian's tools keep backups and marks of their own.
TRACES = (
    "find / -xdev -regextype posix-extended -iregex '.*policyd.?rate.?limit.*' -not -path '/shared/*' "
    "-not -path '/packages/*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/journal/*'; "
    "grep -E '^policyd-rate-limit:' /etc/passwd /etc/group /etc/shadow || true"
)


def share(source: Path, tmp_path: Path, name: str) -> str:
    """Show ``source`` to the machine; its path there."""
    target = tmp_path / "shared" / name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return f"/shared/{name}"


def install(root: CleanRoot, package: Path, tmp_path: Path) -> str:
    """Install the Debian package; what dpkg said."""
    # A question would end it: dpkg has no terminal here.
    return root.do(f"dpkg --install {share(package, tmp_path, package.name)} 2>&1")


def ask(root: CleanRoot, count: int = 1, **attributes: object) -> list[str]:
    """The answers to ``count`` mails of one user over the socket that Postfix uses."""
    with Client(str(root.path(SOCKET))) as client:
        return [client.ask(**mail("alice", **attributes)) for _ in range(count)]


def listens(root: CleanRoot) -> bool:
    """Whether somebody takes connections there; a socket without anybody may be left behind."""
    try:
        with Client(str(root.path(SOCKET))):
            return True
    except OSError:
        return False


def the_package(directory: Path) -> Path:
    (package,) = directory.glob("policyd-rate-limit_*.deb")
    return package


def is_active(root: CleanRoot, unit: str = "policyd-rate-limit.service") -> bool:
    return root.status(f"systemctl is-active --quiet {unit}") == 0


def daemon_pid(root: CleanRoot) -> str:
    return root.do("systemctl show --property MainPID --value policyd-rate-limit").strip()
