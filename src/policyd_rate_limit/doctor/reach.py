"""Whether smtpd reaches the daemon, and what it answers: tried as smtpd's user, from inside its chroot."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo() wants it, and in a chroot there is nothing to import it from
import errno
import os
import pwd
import socket
import stat
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import Finding, error, ok, warning
from policyd_rate_limit.domain.request import WITHOUT_MAIL
from policyd_rate_limit.postfix.endpoint import is_same
from policyd_rate_limit.system import pidfile
from policyd_rate_limit.system.accounts import Account

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.doctor.hooks import Hooks
    from policyd_rate_limit.postfix.hooks import Hook
    from policyd_rate_limit.postfix.postconf import Postfix

PATIENCE = 5.0
"""Seconds that the daemon may take to answer."""
SLOW = 0.5
"""Seconds after which an answer is a slow one; it takes less than a thousandth of that."""

_MOST_BYTES = 4096


class Way(NamedTuple):
    """How an smtpd gets to its policy service."""

    endpoint: str
    chroot: bool


def examine(postfix: Postfix, settings: Settings, hooks: Hooks) -> Iterator[Finding]:
    """Ask the daemon in each way in which smtpd does."""
    ways = {Way(hook.asked.endpoint, hook.service.chroot): hook for hook in hooks.ours}
    if not ways:
        yield from _strangers(postfix, hooks)
        yield from _try(Way(hooks.endpoint, chroot=False), None, postfix, settings, hooks)
    for way, hook in ways.items():
        yield from _try(way, hook, postfix, settings, hooks)


def _strangers(postfix: Postfix, hooks: Hooks) -> Iterator[Finding]:
    """Policy services that Postfix asks in place of the daemon, and where nobody listens."""
    for way, hook in {Way(hook.asked.endpoint, hook.service.chroot): hook for hook in hooks.all}.items():
        try:
            _connects(way, postfix)
        except OSError as failure:
            yield error(
                "service-mismatch",
                postfix.place(hook.parameter, hook.service),
                f"asks {way.endpoint}, where nobody listens ({failure.strerror}); SOCKET is {hooks.endpoint}",
                "smtpd asks somewhere else than the daemon listens.",
                postfix.line(hook.parameter, hook.changed(hooks.line), hook.service),
            )


def _try(way: Way, hook: Hook | None, postfix: Postfix, settings: Settings, hooks: Hooks) -> Iterator[Finding]:
    place = postfix.place(hook.parameter, hook.service) if hook else "SOCKET"
    where = settings.SOCKET
    if hook is not None and isinstance(where, str) and not is_same(hooks.reached(hook), where):
        yield _on_the_other_side(hook, postfix, hooks, where)
        return
    try:
        action, seconds = _in_smtpd(postfix, way, partial(_ask, way.endpoint))
    except TimeoutError:
        yield error(
            "no-answer",
            place,
            f"{way.endpoint} does not answer within {PATIENCE:g} s",
            "Each mail waits for smtpd_policy_service_timeout.",
            "systemctl restart policyd-rate-limit",
        )
    except OSError as failure:
        yield _unreachable(failure, way, place, postfix, settings)
    except ValueError as failure:
        yield error(
            "other-program",
            place,
            f"{way.endpoint} {failure}",
            "Somebody else listens there, not the daemon.",
            "ss -lpn   # says who; then change SOCKET, and check_policy_service with it",
        )
    else:
        yield from _answered(action, seconds, place, way, settings)


def _answered(action: str, seconds: float, place: str, way: Way, settings: Settings) -> Iterator[Finding]:
    process = pidfile.running(settings.pidfile)
    if not process:
        yield warning(
            "other-program",
            place,
            f"{way.endpoint} answers, and by its pidfile {settings.pidfile} the daemon does not run",
            "Another program answers, or a daemon with another configuration.",
            "ss -lpn   # says who listens",
        )
    if action.lower() != settings.success_action.lower():
        yield warning(
            "other-answer",
            place,
            f"{way.endpoint} answers {action[:80]!r} to a request that charges nobody; success_action is"
            f" {settings.success_action!r}",
            "Another program answers, or the daemon runs with another configuration.",
            "systemctl restart policyd-rate-limit",
        )
    if seconds > SLOW:
        yield warning(
            "slow-answer",
            place,
            f"{way.endpoint} took {seconds:.1f} s to answer",
            "All mail waits for it. The machine is busy, or the daemon is.",
            "journalctl -u policyd-rate-limit",
        )
    else:
        yield ok("answers", place, f"{way.endpoint} answers within {max(1, round(seconds * 1000))} ms")


def _unreachable(failure: OSError, way: Way, place: str, postfix: Postfix, settings: Settings) -> Finding:
    where = settings.SOCKET
    if failure.errno == errno.EACCES and isinstance(where, str):
        account = _smtpd_account(postfix)
        found, mend = _obstacle(Path(where), account)
        return error(
            "socket-permission",
            place,
            f"{account.user} may not connect to {where}: {found}",
            "smtpd cannot ask the daemon, and does as default_action says.",
            mend,
        )
    if failure.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        found = "it does not exist" if failure.errno != errno.ECONNREFUSED else "nobody listens"
        return error(
            "not-running",
            place,
            f"{way.endpoint}: {found}",
            "The daemon does not run, or not with this configuration; smtpd does as default_action says.",
            "systemctl start policyd-rate-limit",
        )
    return error(
        "not-reachable",
        place,
        f"{way.endpoint}: {failure.strerror}",
        "smtpd cannot ask the daemon, and does as default_action says.",
        "systemctl status policyd-rate-limit",
    )


def _on_the_other_side(hook: Hook, postfix: Postfix, hooks: Hooks, where: str) -> Finding:
    """The path is right outside of the queue directory, and smtpd is chrooted to it; or the other way round."""
    queue = postfix.queue_directory
    chroot = f"chrooted to {queue}" if hook.service.chroot else "not chrooted"
    found = f"{hook.service.key} is {chroot} (master.cf) and looks for {hooks.reached(hook)}; SOCKET is {where}"
    why = "smtpd cannot ask the daemon, and does as default_action says."
    if hook.service.chroot and not Path(where).is_relative_to(queue):
        mend = f"SOCKET: {queue}/ratelimit/policy\n# and in {hook.parameter}: unix:ratelimit/policy"
        return error("chroot", "SOCKET", found, why, mend)
    return error("chroot", postfix.place(hook.parameter, hook.service), found, why, hooks.mended(hook))


def _obstacle(path: Path, account: Account) -> tuple[str, str]:
    """What on the way to ``path`` keeps ``account`` out, and what lets it in."""
    for level in (*reversed(path.parents), path):
        try:
            facts = level.stat()
        except OSError as failure:
            return f"{level}: {failure.strerror}", f"ls -ld {level}"
        needed = stat.S_IXOTH if stat.S_ISDIR(facts.st_mode) else stat.S_IWOTH
        if facts.st_uid == account.uid:
            needed <<= 6
        elif facts.st_gid in account.groups:
            needed <<= 3
        if not facts.st_mode & needed:
            mode = f"{level} has mode {stat.S_IMODE(facts.st_mode):04o}"
            if level == path:
                return mode, "socket_permission: 0666"
            return f"the directory {mode}", f"chmod {stat.S_IMODE(facts.st_mode) | 0o111:04o} {level}"
    return "an access control list or a security module denies it", f"namei -l {path}"


def _smtpd_account(postfix: Postfix) -> Account:
    """As whom smtpd runs: set_ugid() of Postfix leaves it one group. Who is not root tries it as who they are."""
    if os.geteuid() != 0:
        return Account(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid(), tuple(os.getgroups()))
    try:
        entry = pwd.getpwnam(postfix.value("mail_owner"))
    except KeyError:
        return Account("nobody", 65534, 65534, (65534,))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, (entry.pw_gid,))


def _in_smtpd(postfix: Postfix, way: Way, act: partial[list[object]]) -> tuple[str, float]:
    action, seconds = run_as(
        _smtpd_account(postfix),
        act,
        PATIENCE,
        directory=postfix.queue_directory,
        chroot=way.chroot,
    )
    return action, seconds


def _connects(way: Way, postfix: Postfix) -> None:
    """Raises OSError when nobody listens there."""
    run_as(
        _smtpd_account(postfix),
        lambda: _connect(way.endpoint).close(),
        PATIENCE,
        directory=postfix.queue_directory,
        chroot=way.chroot,
    )


def _connect(endpoint: str) -> socket.socket:
    """A connection, as smtpd makes it in its working directory."""
    kind, _, where = endpoint.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(where)
        except BaseException:
            connection.close()
            raise
        return connection
    host, _, port = where.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port) if port.isdigit() else socket.getservbyname(port)))


def _ask(endpoint: str) -> list[object]:
    """The action that answers a request which charges nobody, and the seconds that it took."""
    start = time.monotonic()
    with _connect(endpoint) as connection:
        # Nobody sends it, from nowhere, and no rule counts there: not even one by which all share a counter.
        request = {
            "request": "smtpd_access_policy",
            "protocol_state": WITHOUT_MAIL[0],
            "instance": f"doctor.{os.getpid()}",
        }
        connection.sendall("".join(f"{name}={value}\n" for name, value in request.items()).encode() + b"\n")
        answer = b""
        while b"\n\n" not in answer:
            data = connection.recv(_MOST_BYTES)
            if not data or len(answer) > _MOST_BYTES:
                raise ValueError("does not speak the policy protocol")
            answer += data
    name, _, action = answer.partition(b"\n\n")[0].partition(b"=")
    if name != b"action":
        raise ValueError("does not speak the policy protocol")
    return [action.decode("utf-8", "replace"), time.monotonic() - start]
