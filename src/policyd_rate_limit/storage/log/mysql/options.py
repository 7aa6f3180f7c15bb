"""How to connect to MySQL: what the configuration says, and the option files of MySQL that it names."""

from __future__ import annotations

import configparser
import getpass
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.storage.drivers import check_options
from policyd_rate_limit.storage.log.contract import LogError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 3306
# Where a server on this machine listens, as distributions have it.
DEFAULT_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")  # noqa: S108 - its name
OPTION_FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf")

_OF_MYSQLDB = frozenset(
    {"user", "passwd", "password", "db", "database", "host", "port", "unix_socket", "bind_address", "connect_timeout"}
    | {"init_command", "read_default_file", "read_default_group", "ssl", "ssl_mode", "server_public_key_path"}
)
# What has no meaning here: all that is sent and read is ASCII and numbers, and db_timeout bounds the time.
_WITHOUT_MEANING = frozenset(
    {"charset", "collation", "use_unicode", "conv", "cursorclass", "autocommit", "compress", "named_pipe"}
    | {"client_flag", "multi_statements", "sql_mode", "local_infile", "local_infile_dir", "binary_prefix"}
    | {"auth_plugin", "read_timeout", "write_timeout"}
)
_SSL_MODES = frozenset({"DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"})
_SSL_OPTIONS = frozenset({"ca", "capath", "cert", "key", "cipher"})


class Options(NamedTuple):
    """How to connect. With ``tls`` encrypted or not at all, else where the server offers it, unless ``without_tls``."""

    user: str
    password: str
    database: str
    host: str
    port: int
    unix_socket: str
    bind_address: str
    connect_timeout: float
    init_command: str | None
    public_key: bytes | None
    tls: ssl.SSLContext | None
    without_tls: bool


def connection_options(config: Mapping[str, Any]) -> Options:
    """What ``config``, the keyword arguments of MySQLdb.connect, and the option files that it names, ask for.

    :raises ConfigError: an option is unknown, or of the wrong kind; nothing of its value is told.
    :raises LogError: a file cannot be read.
    """
    check_options("mysql_config", "MySQLdb.connect", config, _OF_MYSQLDB | _WITHOUT_MEANING)
    given = {name: value for name, value in config.items() if value is not None}
    try:
        filed = _option_files(given.get("read_default_file"), given.get("read_default_group"))
        key = given.get("server_public_key_path")
        public_key = Path(key).read_bytes() if key else None
        encryption = given.get("ssl") or {}
        encryption = {**filed.encryption, **(encryption if isinstance(encryption, dict) else {})}
        mode = str(given.get("ssl_mode") or ("REQUIRED" if given.get("ssl") is True else "")).upper()
        tls = _tls(encryption, mode)
    except (OSError, configparser.Error, ssl.SSLError) as error:
        raise LogError(f"MySQL: {_about_file(error)}") from error

    def option(*names: str, default: object = "") -> Any:
        for place in (given, filed.options):
            for name in names:
                if place.get(name):
                    return place[name]
        return default

    host = str(option("host", default="localhost"))
    unix_socket = str(option("unix_socket", "socket"))
    if host == "localhost" and not unix_socket:
        unix_socket = next((path for path in _default_sockets() if Path(path).is_socket()), "")
    try:
        return Options(
            user=str(option("user", default=getpass.getuser())),
            password=str(option("passwd", "password")),
            database=str(option("db", "database")),
            host=host,
            port=int(option("port", default=DEFAULT_PORT)),
            unix_socket=unix_socket if host == "localhost" else "",
            bind_address=str(option("bind_address", "bind-address")),
            connect_timeout=float(option("connect_timeout", "connect-timeout", default=0)),
            init_command=option("init_command", default=None),
            public_key=public_key,
            tls=tls,
            without_tls=mode == "DISABLED",
        )
    except (TypeError, ValueError):
        raise _wrong("mysql_config", "numbers for port and connect_timeout", "something else") from None


def _tls(encryption: Mapping[str, Any], mode: str) -> ssl.SSLContext | None:
    """How the server is to be verified: its name, as with MySQLdb, for VERIFY_IDENTITY only."""
    if mode and mode not in _SSL_MODES:
        raise _wrong("mysql_config.ssl_mode", f"one of {', '.join(sorted(_SSL_MODES))}", "something else")
    if unknown := sorted(set(encryption) - _SSL_OPTIONS):
        raise _wrong("mysql_config.ssl", f"options among {', '.join(sorted(_SSL_OPTIONS))}", ", ".join(unknown))
    given = {name: str(value) for name, value in encryption.items() if value}
    if mode == "DISABLED" or (not given and mode in ("", "PREFERRED")):
        return None
    context = ssl.create_default_context(cafile=given.get("ca"), capath=given.get("capath"))
    # The certificates that MySQL makes for itself do not pass it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if not mode.startswith("VERIFY") and not {"ca", "capath"} & given.keys():
        context.verify_mode = ssl.CERT_NONE
    if "cert" in given:
        context.load_cert_chain(given["cert"], given.get("key"))
    if "cipher" in given:
        context.set_ciphers(given["cipher"])
    return context


class _OptionFile(NamedTuple):
    options: dict[str, str]
    encryption: dict[str, str]


def _option_files(file: str | None, group: str | None) -> _OptionFile:
    """What MySQL's option files say. Files that they include are not read."""
    found: dict[str, str] = {}
    if file or group:
        for path in [file] if file else OPTION_FILES:
            place = Path(path).expanduser()
            if file or place.exists():
                parser = configparser.RawConfigParser(
                    allow_no_value=True, strict=False, comment_prefixes=("#", ";", "!")
                )
                parser.read_string(place.read_text("utf-8"), str(place))
                for section in dict.fromkeys(("client", group or "client")):
                    if parser.has_section(section):
                        found |= {
                            name.replace("_", "-"): value.strip("\"'") for name, value in parser.items(section) if value
                        }
    return _OptionFile(
        {name: value for name, value in found.items() if not name.startswith("ssl-")},
        {name[4:]: value for name, value in found.items() if name.startswith("ssl-") and name[4:] in _SSL_OPTIONS},
    )


def _default_sockets() -> tuple[str, ...]:
    """As libmysqlclient's, which does not go by TCP to "localhost"."""
    named = os.environ.get("MYSQL_UNIX_PORT")
    return (named,) if named else DEFAULT_SOCKETS


def _about_file(error: Exception) -> str:
    """``error`` in one line, without what the file holds."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return "an option file or a certificate cannot be read: " + type(error).__name__


def _wrong(setting: str, expected: str, found: str) -> ConfigError:
    return ConfigError([Problem("configuration", 0, setting, expected, found)])
