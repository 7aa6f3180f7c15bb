"""Whether systemd has the socket that it is to have: policyd-rate-limit.socket."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, error, ok, warning
from policyd_rate_limit.system.logs import NAME
from policyd_rate_limit.system.sockets import Address, is_same, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings

UNIT = f"{NAME}.socket"

BOOTED = Path("/run/systemd/system")
"""Is there when systemd is the init system: sd_booted(3)."""

SECONDS = 10.0
"""What one call of systemctl may take."""

_PROPERTIES = ("LoadState", "UnitFileState", "ActiveState", "Result", "Listen")
_RESTART = f"systemctl stop {NAME}.service; systemctl reset-failed {UNIT}; systemctl start {UNIT} {NAME}.service"


def properties() -> dict[str, str] | None:
    """What systemctl(1) shows of the socket unit; None where systemd is not in charge, or does not answer."""
    if not BOOTED.exists():
        return None
    command = ["systemctl", "show", f"--property={','.join(_PROPERTIES)}", UNIT]
    try:
        done = subprocess.run(  # noqa: S603 - nothing of it is from outside
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return parse(done.stdout)


def parse(shown: str) -> dict[str, str]:
    """The properties in ``shown``; one of several values, as Listen of several sockets, has as many lines."""
    found: dict[str, str] = {}
    for line in shown.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def examine(found: Settings, unit: dict[str, str] | None) -> Iterator[Finding]:
    """``unit`` is of :func:`properties`."""
    if unit is None or unit.get("LoadState") != "loaded":
        return
    enabled = unit.get("UnitFileState") in ("enabled", "enabled-runtime")
    if unit.get("ActiveState") == "active":
        yield from _about_address(found, unit.get("Listen", ""), enabled=enabled)
    elif enabled:
        yield error(
            "socket-unit",
            UNIT,
            f"it is enabled, and not there: {unit.get('ActiveState')}, {unit.get('Result')}",
            "The daemon then makes a socket of its own, which goes whenever the daemon does: what comes meanwhile gets "
            "default_action, and with DUNNO it is not limited.",
            _RESTART,
        )


def _about_address(found: Settings, listen: str, *, enabled: bool) -> Iterator[Finding]:
    addresses = [line.removesuffix(" (Stream)") for line in listen.splitlines()]
    if any(_may_be(found.SOCKET, address) for address in addresses):
        yield ok("socket-unit", UNIT, f"systemd listens at {', '.join(addresses)}")
    else:
        yield warning(
            "socket-unit",
            UNIT,
            f"it listens at {', '.join(addresses)}, and SOCKET is {written(found.SOCKET)}",
            "The unit takes the place of SOCKET: at the configured one nobody answers.",
            f"systemctl {'disable --now' if enabled else 'stop'} {UNIT}; systemctl restart {NAME}.service",
        )


def _may_be(configured: Address, listening: str) -> bool:
    """Whether ``listening`` serves who asks at ``configured``; of a TCP port the address may be that of all."""
    if isinstance(configured, str):
        return listening.startswith("/") and is_same(configured, listening)
    return listening.endswith(f":{configured[1]}")
