"""The sockets that Postfix connects to: TCP over IPv4 or IPv6, or UNIX; bound here, or by the service manager."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import ConfigError, Problem, SystemRefusal
from policyd_rate_limit.system import paths
from policyd_rate_limit.system.accounts import Account

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

Address = str | tuple[str, int]
"""The path of a UNIX socket, or IP address and port. A path in the abstract namespace begins with ``@``."""

BACKLOG = 1024
"""Connections that wait to be accepted; the system's own bound (net.core.somaxconn) may be lower."""

SUN_PATH_BYTES = 107
"""The longest path of a UNIX socket: ``sun_path`` of unix(7) without its closing zero."""


FIRST_INHERITED = 3
"""The descriptor of the first socket that a service manager passes on: SD_LISTEN_FDS_START of sd_listen_fds(3)."""


class UnixListener(socket.socket):
    """A listening UNIX socket that knows its file, so that at the end it removes no other."""

    path: Path
    file: os.stat_result


def bind(address: Address, permission: int, owner: Account | None) -> socket.socket:
    """A socket that listens on ``address``: a path, or (host, port) with a host name or an IP address.

    Call it before a second thread exists: the umask that gives the file its mode is the whole process's.
    The socket does listen: until then, a UNIX socket looks stale and a second daemon may bind the same TCP port.
    Connections wait in the backlog; nothing is read.

    ``permission`` are the mode bits of a UNIX socket's file, and ``owner`` whom the file is given to.
    Raises SystemRefusal, saying address and reason.
    """
    if isinstance(address, str):
        return _bind_unix(Path(address), permission, owner)
    return _bind_tcp(*address)


def unlink_socket(listener: socket.socket) -> None:
    """Remove the file of ``listener`` if it has one that is still its own and the directory lets us."""
    if isinstance(listener, UnixListener):
        path = listener.path
        with contextlib.suppress(OSError), paths.directory(path.parent) as there:
            if os.path.samestat(_look(there.descriptor, path.name), listener.file):
                os.unlink(path.name, dir_fd=there.descriptor)


def inherited(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that the service manager has made and passed on: sd_listen_fds(3).

    What tells of them is taken out of ``environment``. Call it before anything else opens or closes descriptors.
    Raises ConfigError, about SOCKET, when one of them is not a listening stream socket.
    """
    process, number, names = (environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    environment.pop("LISTEN_PIDFDID", None)  # of systemd 258, which says the same as LISTEN_PID
    if process != str(os.getpid()):
        return []  # they are for somebody else: whoever has started us, say
    problems: list[Problem] = []
    listeners: list[socket.socket] = []
    if not (number.isascii() and number.isdigit()):
        problems.append(_problem("a number of sockets", f"LISTEN_FDS={number}"))
        number = "0"
    of_descriptor = dict(enumerate(names.split(":"), FIRST_INHERITED))
    for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(number)):
        name = f"descriptor {descriptor} ({of_descriptor.get(descriptor) or 'unknown'})"
        try:
            listener = socket.socket(fileno=descriptor)
        except OSError as error:
            problems.append(_problem("a socket", f"{name}: {error.strerror}"))
            break
        listener.set_inheritable(False)
        listeners.append(listener)
        problems.extend(_problem(expected, f"{name}: {found}") for expected, found in _oddities(listener))
    if problems:
        for listener in listeners:
            listener.close()
        raise ConfigError(problems)
    return listeners


def _oddities(listener: socket.socket) -> Iterator[tuple[str, str]]:
    """What keeps an inherited socket from being served, as what is expected and what was found."""
    if listener.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        yield "a UNIX or TCP socket", f"one of family {listener.family}"
    elif listener.type != socket.SOCK_STREAM:
        yield "a stream socket (ListenStream=)", f"one of type {listener.type}"
    elif not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        yield "a socket that listens (Accept=no)", "one that does not"


def _problem(expected: str, found: str) -> Problem:
    return Problem("sockets of the service manager", 0, "SOCKET", expected, found)


def address_of(listener: socket.socket) -> Address:
    """Where ``listener`` listens."""
    if isinstance(listener, UnixListener):
        return str(listener.path)
    name = listener.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return "@" + os.fsdecode(name[1:]) if isinstance(name, bytes) else str(name)


def is_same(one: Address, other: Address) -> bool:
    """Whether two addresses are one, however they are written."""
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and os.path.realpath(one) == os.path.realpath(other)
    return (ip_address(one[0]), one[1]) == (ip_address(other[0]), other[1])


def written(address: Address) -> str:
    """``address`` as it is told."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_tcp(host: str, port: int) -> socket.socket:
    where = written((host, port))
    try:
        # IPv4 sorts before IPv6: a name such as localhost has both, and main.cf has inet:127.0.0.1.
        family, kind, protocol, _, target = min(
            socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE),
            key=operator.itemgetter(0),
        )
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise _refusal(where, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, target[0] != "::")
        listener.bind((target[0], port, *target[2:]))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _refusal(where, error) from error
    return listener


def _bind_unix(path: Path, permission: int, owner: Account | None) -> UnixListener:
    length = len(os.fsencode(path))
    if length > SUN_PATH_BYTES:
        raise SystemRefusal(f"cannot bind {path}: the path has {length} bytes, a UNIX socket allows {SUN_PATH_BYTES}")
    listener = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with paths.directory(path.parent) as there:
            _bind_with_permission(listener, path, there, permission)
            listener.path = path
            listener.file = _hand_over(path, there.descriptor, owner)
        listener.listen(BACKLOG)
    except (OSError, ValueError) as error:
        listener.close()
        raise _refusal(path, error) from error
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_with_permission(listener: socket.socket, path: Path, there: paths.Directory, permission: int) -> None:
    # bind(2) takes no descriptor of a directory. What it was told is what ss(8) shows: the plain path, if that is sure.
    name = os.fspath(path) if there.is_safe else f"/proc/self/fd/{there.descriptor}/{path.name}"
    # By the umask and not by chmod(2): else there is a moment in which the wrong people may connect.
    before = os.umask(0o777 & ~permission)
    try:
        try:
            listener.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path, there.descriptor)
            listener.bind(name)
    finally:
        os.umask(before)


def _look(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _remove_stale(path: Path, directory: int) -> None:
    """Remove the socket that a daemon left behind; SystemRefusal when ``path`` is anything else."""
    descriptor = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode):
            raise SystemRefusal(f"cannot bind {path}: it exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a full backlog is a live listener, too
            try:
                probe.connect(f"/proc/self/fd/{descriptor}")
            except ConnectionRefusedError:
                pass
            except BlockingIOError:
                raise _live(path) from None
            else:
                raise _live(path)
    finally:
        os.close(descriptor)
    if os.path.samestat(found, _look(directory, path.name)):
        os.unlink(path.name, dir_fd=directory)


def _hand_over(path: Path, directory: int, owner: Account | None) -> os.stat_result:
    """Give the new socket to ``owner``; what identifies its file."""
    # The directory may be the owner's: what is chowned is what was looked at, not what the path says by then.
    descriptor = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        file = os.fstat(descriptor)
        if not stat.S_ISSOCK(file.st_mode) or file.st_uid != os.geteuid() or file.st_nlink != 1:
            raise SystemRefusal(f"cannot bind {path}: somebody replaces the socket")
        if owner is not None:
            os.chown(f"/proc/self/fd/{descriptor}", owner.uid, owner.gid)
        return file
    finally:
        os.close(descriptor)


def _live(path: Path) -> SystemRefusal:
    return SystemRefusal(f"cannot bind {path}: another process listens there")


def _refusal(where: object, error: Exception) -> SystemRefusal:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return SystemRefusal(f"cannot bind {where}: {reason}")
