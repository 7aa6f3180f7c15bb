"""What ``postconf`` says of the Postfix on this host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from policyd_rate_limit.errors import SystemRefusal

SECONDS = 20.0
"""What one call of postconf may take."""

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LOOPBACK = re.compile(r"(127\.[0-9.]+|localhost|\[::1\]|::1):.*")


class Service(NamedTuple):
    """A line of master.cf: master(5)."""

    name: str
    type: str
    chroot: bool
    program: str
    line: str
    """As it stands in master.cf, without the options of the program."""

    @property
    def key(self) -> str:
        """As postconf names it: ``submission/inet``."""
        return f"{self.name}/{self.type}"

    @property
    def is_local(self) -> bool:
        """Whether it listens on the loopback interface only."""
        return bool(_LOOPBACK.fullmatch(self.name))


class Postfix:
    """main.cf and master.cf in one directory, ``directory``, or in Postfix's own when that is None.

    ``postconf`` is the program; None: the first in PATH.
    Raises SystemRefusal when there is no Postfix, or postconf does not understand its configuration.
    """

    def __init__(self, postconf: Path | None = None, directory: Path | None = None) -> None:
        found = postconf or shutil.which("postconf", path=_PATH)
        if found is None:
            raise SystemRefusal("there is no postconf in PATH")
        self._command = [str(found), *(("-c", str(directory)) if directory else ())]
        self._values = _pairs(self._run("-x"))
        self._given = set(_pairs(self._run("-n")))
        self._overrides = _pairs(self._run("-Px"))
        self.services = [self._service(line) for line in self._run("-M").splitlines() if line.strip()]
        self.directory = Path(self.value("config_directory"))
        self.queue_directory = Path(self.value("queue_directory"))

    @property
    def smtpd(self) -> list[Service]:
        """The services that receive mail by SMTP."""
        return [service for service in self.services if service.program == "smtpd"]

    @property
    def behind_pickup(self) -> list[Service]:
        """The smtpd services to which pickup(8) hands what sendmail(1) takes: its content_filter."""
        pickup = next((service for service in self.services if service.program == "pickup"), None)
        # smtp:[127.0.0.1]:10027 leads to the service 127.0.0.1:10027.
        place = self.value("content_filter", pickup).partition(":")[2] if pickup else ""
        return [service for service in self.smtpd if place and _bare(service.name) == _bare(place)]

    def value(self, name: str, service: Service | None = None) -> str:
        """The value of a parameter, expanded; empty when there is none. ``service``: as that service has it."""
        value = self.override(name, service)
        return self._values.get(name, "") if value is None else value

    def override(self, name: str, service: Service | None) -> str | None:
        """What master.cf has in place of main.cf's value for ``service``; None: nothing."""
        return self._overrides.get(f"{service.key}/{name}") if service else None

    def is_given(self, name: str, service: Service | None = None) -> bool:
        """Whether main.cf, or master.cf for ``service``, says anything of a parameter."""
        return name in self._given or self.override(name, service) is not None

    def is_on(self, name: str, service: Service | None = None) -> bool:
        """Whether a parameter is ``yes``."""
        return self.value(name, service).lower() == "yes"

    def seconds(self, name: str, service: Service | None = None) -> float:
        """The time that a parameter says."""
        return seconds(self.value(name, service))

    def classes(self, service: Service) -> dict[str, str]:
        """The restriction classes, each with its list."""
        names = self.value("smtpd_restriction_classes", service).replace(",", " ").split()
        return {name: self.value(name, service) for name in names}

    def place(self, name: str, service: Service | None) -> str:
        """Where a parameter of a service stands, or has to be written."""
        if service is not None and self.override(name, service) is not None:
            return f"master.cf, {service.key}: {name}"
        return f"main.cf: {name}"

    def line(self, name: str, value: str, service: Service | None) -> str:
        """The line to write at :meth:`place`."""
        if service is not None and self.override(name, service) is not None:
            return f"  -o {{ {name} = {value} }}"
        return f"{name} = {value}"

    def _service(self, line: str) -> Service:
        name, kind, _private, _unprivileged, chroot, _wakeup, _processes, command = line.split(None, 7)
        program = command.split(None, 1)[0]
        options = line.find(f" {program}") + len(program) + 1
        return Service(name, kind, self._is_old if chroot == "-" else chroot == "y", program, line[:options])

    @property
    def _is_old(self) -> bool:
        """Whether services are chrooted unless master.cf says something else: COMPATIBILITY_README."""
        with contextlib.suppress(ValueError):
            return int(self.value("compatibility_level").partition(".")[0]) < 1
        return False

    def _run(self, *options: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the program that the operator names
                [*self._command, *options], capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SystemRefusal(f"{' '.join(self._command)}: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise SystemRefusal(said[-1] if said else f"{' '.join(self._command)}: exit status {done.returncode}")
        return done.stdout.decode("utf-8", "surrogateescape")


def _bare(place: str) -> str:
    return place.replace("[", "").replace("]", "")


def seconds(text: str) -> float:
    """A time of postconf(5), such as ``100s`` or ``5m``, in seconds."""
    match = re.fullmatch(r"([0-9]+)([smhdw]?)", text.strip())
    return int(match[1]) * _UNITS[match[2]] if match else 0.0


def _pairs(text: str) -> dict[str, str]:
    """``name = value``, one a line."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
