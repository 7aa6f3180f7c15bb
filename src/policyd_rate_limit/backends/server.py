"""What the databases that are servers have in common: options that lead to them, and a clock of their own."""

from __future__ import annotations

import contextlib
import json
import re
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from policyd_rate_limit.backends.contract import Backend, Probe, digest, least_difference
from policyd_rate_limit.backends.log import LogBackend
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.log import daemons

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.storage.log.server import SqlLog

FINE = "reachable, and the rights suffice"

# Where a database is, and which one of it. No secret is among these.
_PLACE = ("host", "hostaddr", "port", "unix_socket", "db", "dbname", "database", "service_name", "sentinels", "nodes")
# What else may lead to another one: what its spool is named after. The user is not among these, who may be renamed.
_WHICH = (*_PLACE, "prefix", "options", "service", "servicefile", "read_default_file", "read_default_group")
_WITHOUT_PASSWORD = re.compile(r"""(?<=//)[^@/]*@|\bpassword\s*=\s*(?:'(?:\\.|[^'\\])*'|[^\s&]*)""")


class ServerBackend(Backend):
    """A database that is a server, to which ``options`` lead."""

    @property
    def options(self) -> dict[str, Any]:
        """The value of the setting that leads to it."""
        options: dict[str, Any] = getattr(self.settings, self.database.setting)
        return options

    @property
    def place(self) -> str:
        return self.database.setting

    @property
    def look(self) -> str:
        return f"policyd-rate-limit --get-config {self.place}   # and see the server's log"

    def describe(self) -> str:
        place = self._place()
        of_url = dict(zip(("host", "port", "path"), place.pop("url"), strict=True))
        said = [f"{option}={value}" for option, value in {**of_url, **self.place_of_dsn(), **place}.items() if value]
        return " ".join([self.name, *said])

    def place_of_dsn(self) -> Mapping[str, str]:
        """What the options have in one text about where the database is, and which one; nothing that is secret."""
        return {}

    @property
    def spool_name(self) -> str:
        which = {option: self.options[option] for option in _WHICH if option in self.options}
        which["dsn"] = _WITHOUT_PASSWORD.sub("", str(self.options.get("dsn", "")))
        url = urlsplit(str(self.options.get("url", "")))
        which["url"] = (url.hostname, url.port, url.path, _WITHOUT_PASSWORD.sub("", url.query))
        return self._named_after(which)

    @property
    def former_spool_name(self) -> str:
        return self._named_after(self._place())

    def _named_after(self, place: Mapping[str, Any]) -> str:
        name = self.database.setting.removesuffix("_config")
        return f"{name}-{digest(json.dumps(place, sort_keys=True, default=str))}"

    def _place(self) -> dict[str, Any]:
        """Where the database is, and which one of the server it is."""
        place = {option: self.options[option] for option in _PLACE if option in self.options}
        url = urlsplit(str(self.options.get("url", "")))
        place["url"] = (url.hostname, url.port, url.path)
        return place


class SqlServerBackend(ServerBackend, LogBackend):
    """A server that keeps a batch table."""

    @abstractmethod
    def log(self) -> Callable[[], SqlLog]:
        """What opens a connection to the log, as :meth:`LogBackend.log`."""

    def probe(self) -> Probe:
        with contextlib.closing(self.log()()) as log:
            before = time.time()
            ahead = least_difference(log.time(), before, time.time())
            try:
                log.try_rights(self.settings.db_timeout)
            except StoreError as refusal:
                return Probe(FINE, str(refusal), ahead)
            found = daemons.heartbeats(log) if daemons.are_kept(log) else None
            return Probe(FINE, ahead=ahead, unmade=log.unmade(), heartbeats=found, now=int(log.time()))
