"""The kinds of values that settings have: flags, paths, addresses, limits and so on."""

from __future__ import annotations

import os
import re
import socket
from base64 import b64decode
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.config.kind import (
    Fault,
    Kind,
    Wrong,
    as_whole,
    choice,
    is_text,
    options,
)
from policyd_rate_limit.domain.limits import Limits, LimitsError, parse_limits, parse_period
from policyd_rate_limit.domain.networks import parse_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")

LONGEST_SOCKET_PATH = 107
"""Bytes of the path of a UNIX socket: sun_path of unix(7), without its final NUL."""

LONGEST_DELAY = 365 * 86_400
"""Seconds: the most of ``delay_to_close``."""

LONGEST_ACTION = 2000
"""Bytes of an action: Postfix reads lines of ``line_length_limit``, 2048."""


def _flag(value: object) -> bool:
    if value is None:  # an empty value switches off, as in the old versions
        return False
    if isinstance(value, bool | int | str):
        text = str(value).lower()
        if text in ("true", "yes", "on", "1"):
            return True
        if text in ("false", "no", "off", "0"):
            return False
    raise Wrong(Fault(value))


def _line(value: object) -> str:
    if not is_text(value) or not isinstance(value, str) or _NOT_IN_A_LINE.search(value):
        raise Wrong(Fault(value))
    return value


_NOT_IN_A_LINE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def _action(value: object) -> str:
    # 450 is a number to YAML and to Python, and an action to Postfix.
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    action = _line(text.strip() if isinstance(text, str) else value)
    if len(action.encode()) > LONGEST_ACTION:
        raise Wrong(Fault(value, f"an action of at most {LONGEST_ACTION} bytes"))
    return action


def _permission(value: object) -> int:
    mode = value
    if isinstance(value, str) and re.fullmatch("(0o)?[0-7]{1,5}", value):
        mode = int(value, 8)
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= 0o7777:
        raise Wrong(Fault(value))
    return mode


def _items(value: object, count: int | None = None) -> list[object] | tuple[object, ...]:
    """A list, of ``count`` items where given."""
    if not isinstance(value, list | tuple) or count not in (None, len(value)):
        raise Wrong(Fault(value))
    return value


def _each(items: Iterable[tuple[object, object]], read: Callable[[object], _T]) -> list[_T]:
    """What ``read`` makes of each value of (key, value); every wrong one is told."""
    results: list[_T] = []
    faults: list[Fault] = []
    for key, value in items:
        try:
            results.append(read(value))
        except Wrong as wrong:
            faults += wrong.inside(key).faults
    if faults:
        raise Wrong(*faults)
    return results


def _listen_address(value: object) -> str | tuple[str, int]:
    if isinstance(value, str):
        path = _line(value)
        if "/" not in path or path.endswith("/") or path.startswith(("unix:", "inet:")):
            raise Wrong(Fault(value))
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            raise Wrong(Fault(value, f"a path of at most {LONGEST_SOCKET_PATH} bytes"))
        return path
    host, port = _items(value, 2)
    return _ip(host), _port(port)


def _ip(value: object) -> str:
    if isinstance(value, str):
        try:
            ip_address(value)
        except ValueError:
            # 127.1 and its like, which inet_aton(3) knows and existing files may hold
            if re.fullmatch(r"[0-9]+(\.[0-9]+){1,3}", value):
                try:
                    return socket.inet_ntoa(socket.inet_aton(value))
                except OSError:
                    pass
        else:
            return value
    raise Wrong(Fault(value, "an IPv4 or IPv6 address", (0,)))


def _port(value: object) -> int:
    try:
        port = as_whole(value)
    except Wrong:
        port = -1
    if not 0 <= port <= 0xFFFF:
        raise Wrong(Fault(value, "a port from 0 to 65535", (1,)))
    return port


def _server(value: object) -> tuple[str, int]:
    host, port = _items(value, 2)
    if not is_text(host):
        raise Wrong(Fault(host, "a host name or an address", (0,)))
    return _line(host), _port(port)


def _credentials(value: object) -> tuple[str, str]:
    user, password = _items(value, 2)
    if not isinstance(user, str) or not isinstance(password, str):
        raise Wrong(Fault(value))
    return user, password


def _limits(value: object) -> Limits:
    try:
        return parse_limits(value)
    except LimitsError as error:
        raise Wrong(Fault(error.value, error.expected, error.place)) from None


def _limits_by_id(value: object) -> dict[str, Limits]:
    if not isinstance(value, dict):
        raise Wrong(Fault(value))

    def read(key: object) -> tuple[str, Limits]:
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise Wrong(Fault(key, "text as an id"))
        return without_host_bits(str(key)), _limits(value[key])

    return dict(_each(((key, key) for key in value), read))


def _network(value: object) -> str:
    wrong = Wrong(Fault(value, "a network in CIDR notation, such as 192.0.2.0/24"))
    if not isinstance(value, str):
        raise wrong
    try:
        return str(parse_network(without_host_bits(value)))
    except Wrong:
        raise
    except ValueError:
        raise wrong from None


def has_host_bits(value: str) -> bool:
    """Whether ``value`` is a network with bits set behind its length: one of the two is a slip."""
    if "/" not in value:
        return False
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        return False
    return ip_address(value.partition("/")[0]) != network.network_address


def without_host_bits(value: str) -> str:
    """``value``, unless :func:`has_host_bits`, of which the network is told. Raises Wrong."""
    if has_host_bits(value):
        network = ip_network(value, strict=False)
        raise Wrong(Fault(value, f"no bits behind the length of a network, as in {network}"))
    return value


def _networks(value: object) -> tuple[str, ...]:
    return tuple(_each(enumerate(_items(value)), _network))


def _period(value: object) -> int:
    try:
        return parse_period(value)
    except LimitsError as error:
        raise Wrong(Fault(value, error.expected)) from None


def _periods(value: object) -> tuple[int, ...]:
    return tuple(_each(enumerate(value if isinstance(value, list | tuple) else [value]), _period))


def _addresses(value: object) -> str:
    text = _line(value)
    if not _MAILBOXES.fullmatch(text):
        raise Wrong(Fault(value, "a mail address, such as user@example.org or Name <user@example.org>"))
    return text


def _sender(value: object) -> str:
    text = _addresses(value)
    if not _MAILBOX.fullmatch(text):
        raise Wrong(Fault(value))
    return text


# RFC 5322, section 3.4, without the parts that are obsolete or need quoting; "root" is an address to the own server.
_WORD = r'[^\s@<>(),;:\\"\[\]]'
_ADDRESS = rf"{_WORD}+(?:@(?:{_WORD}+|\[[0-9A-Za-z.:]+\]))?"
_NAME = rf'(?:"[^"\\]*"|{_WORD}(?:{_WORD}| )*)?'
_MAILBOX = re.compile(rf" *(?:{_ADDRESS}|{_NAME} *<{_ADDRESS}>) *")
_MAILBOXES = re.compile(f"{_MAILBOX.pattern}(?:,{_MAILBOX.pattern})*")


def _recipients(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return _addresses(value)
    recipients = tuple(_each(enumerate(_items(value)), _addresses))
    if not recipients:
        raise Wrong(Fault(value))
    return recipients


def _arguments(value: object) -> tuple[str, ...]:
    arguments = tuple(_each(enumerate(_items(value)), _argument))
    if not arguments:
        raise Wrong(Fault(value))
    return arguments


def _argument(value: object) -> str:
    if not is_text(value) or not isinstance(value, str) or "\0" in value:
        raise Wrong(Fault(value, "text"))
    return value


def _url(value: object) -> str:
    text = _line(value)
    try:
        parts = urlsplit(text)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        raise Wrong(Fault(value)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or not port_is_one:
        raise Wrong(Fault(value))
    if not text.isascii() or " " in text:
        raise Wrong(Fault(value, "a URL in ASCII, with other characters as %XX, and the host name in Punycode"))
    return text


def _query(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Wrong(Fault(value))
    return value


def _secret(value: object) -> str:
    text = _line(value)
    if text.startswith("whsec_"):
        try:
            b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise Wrong(Fault(value)) from None
    return text


FLAG = Kind("true or false", _flag)
LINE = Kind("one line of text", _line)
PATH = Kind("a path", _line)
ACTION = Kind("an action of access(5), on one line", _action)
PERMISSION = Kind("permissions from 0 to 07777, in octal 0666 or 0o666", _permission)
LISTEN_ADDRESS = Kind("a path such as /run/x/policy, or [ip, port]", _listen_address)
SERVER = Kind("[host, port]", _server)
CREDENTIALS = Kind("[user, password]", _credentials)
LIMITS = Kind("a list of [mails, seconds], such as [[10, 60], [150, 86400]]", _limits)
LIMITS_BY_ID = Kind("a mapping of ids to limits, such as {alice: [[10, 60]]}", _limits_by_id)
NETWORKS = Kind("a list of networks in CIDR notation, such as [192.0.2.0/24]", _networks)
PERIODS = Kind("a list of periods in seconds, such as [86400]", _periods)
SENDER = Kind("one mail address", _sender)
ARGUMENTS = Kind("a list of a program and its arguments, such as [/usr/local/bin/notify, --page]", _arguments)
SECRET = Kind("whsec_ and a key in base64, or one line of text", _secret)
URL = Kind("an http or https URL without a user in it, such as https://hooks.example.org/x", _url)
RECIPIENTS = Kind("one mail address or a list of them", _recipients)
QUERY = Kind("an SQL query, or nothing", _query)
BACKEND = choice(
    "0 or sqlite, 1 or mysql, 2 or postgresql, or redis",
    {spelling: database.backend for database in DATABASES.values() for spelling in database.spellings},
)
COUNT_MODE = choice("0, 1, 2 or nothing", {"0": 0, "1": 1, "2": 2})
LOG_LEVEL = choice("debug, info, warning or error", {name: name for name in ("debug", "info", "warning", "error")})
LOG_FORMAT = choice("text or json", {"text": "text", "json": "json"})
LOG_TO = choice("stderr, syslog or journald", {name: name for name in ("stderr", "syslog", "journald")})
SQLITE_OPTIONS = options(
    "a mapping with the path of the database, such as {database: /var/x.sqlite3}", database=is_text
)
DRIVER_OPTIONS = options("a mapping of keyword arguments")
REDIS_OPTIONS = options(
    "a mapping such as {url: 'redis://localhost:6379/0'}, with cluster: true or false",
    url=lambda url: url is None or str(url).startswith(("redis://", "rediss://", "unix://")),
    cluster=lambda cluster: cluster in (None, False, True),
)
