"""How to connect to PostgreSQL: what the configuration says, in libpq's words, and where the server may be."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import Error, pq
from psycopg.conninfo import conninfo_to_dict

from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.storage.drivers import check_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_PORT = "5432"

# Keyword arguments of psycopg2.connect that are not libpq's; connections of ours have no such thing.
_OF_PSYCOPG2 = frozenset({"connection_factory", "cursor_factory", "async", "async_"})
_PLACE = ("service", "host", "hostaddr", "port", "dbname")  # of libpq's options, none of them secret


class Place(NamedTuple):
    """Where a server may be, in libpq's words."""

    host: str
    address: str
    port: str

    def options(self) -> dict[str, str]:
        """As libpq's options; what is empty is libpq's to choose."""
        given = {"host": self.host, "hostaddr": self.address, "port": self.port}
        return {name: value for name, value in given.items() if value}


def connection_options(config: Mapping[str, Any]) -> dict[str, str]:
    """libpq's options for ``config``, the keyword arguments of psycopg2.connect.

    :raises ConfigError: one is unknown, or ``dsn`` cannot be parsed; nothing of its value is told.
    """
    given = {name: value for name, value in config.items() if value is not None and name not in _OF_PSYCOPG2}
    dsn = given.pop("dsn", "")
    if "database" in given:
        given["dbname"] = given.pop("database")
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    check_options("pgsql_config", "psycopg2.connect", given, known)
    try:
        options = {name: str(value) for name, value in conninfo_to_dict(str(dsn)).items()}
        options |= {name: _value(value) for name, value in given.items()}
        float(options.get("connect_timeout", 0))
        for place in places(options):
            int(place.port)
    except (Error, ValueError):
        wanted = "a connection string, and numbers for ports and times"
        raise ConfigError([Problem("configuration", 0, "pgsql_config", wanted, "something else")]) from None
    options.setdefault("fallback_application_name", "policyd-rate-limit")
    # Of several hosts the one that can be written to; a standby counts as being away.
    options.setdefault("target_session_attrs", "read-write")
    return options


def place_of_dsn(config: Mapping[str, Any]) -> dict[str, str]:
    """Where the database is, and which one, as far as ``dsn`` says so and no other keyword argument takes its place.

    :raises ConfigError: as :func:`connection_options`.
    """
    given = {name for name, value in config.items() if value is not None and name != "dsn"}
    if "database" in given:
        given.add("dbname")
    options = connection_options(config)
    return {name: options[name] for name in _PLACE if name in options and name not in given}


def _value(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def places(options: Mapping[str, str]) -> Iterator[Place]:
    """The hosts of ``options``, in the order in which they are to be tried.

    conninfo_attempts() of psycopg's newer versions also asks the resolver, and waits for it without an end.
    """
    defaults = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()}
    given = {name: options.get(name, defaults[name]) for name in ("host", "hostaddr", "port")}
    hosts, addresses, ports = (value.split(",") for value in given.values())
    count = max(len(hosts), len(addresses))
    places = [
        Place(host, address, port or DEFAULT_PORT)
        for host, address, port in zip(
            hosts if len(hosts) == count else [""] * count,
            addresses if len(addresses) == count else [""] * count,
            ports if len(ports) == count else ports[:1] * count,
            strict=True,
        )
    ]
    if options.get("load_balance_hosts") == "random":
        random.shuffle(places)
    yield from places
