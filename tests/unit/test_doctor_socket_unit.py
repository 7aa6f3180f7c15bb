"""What ``doctor`` makes of the socket unit; tests/installing asks a real systemd."""

from __future__ import annotations

import pytest

from policyd_rate_limit.doctor import Severity, socket_unit
from support.configuration import Load

PATH = "/var/spool/postfix/ratelimit/policy"


def unit(state: str, file_state: str = "enabled", listen: str = f"{PATH} (Stream)") -> dict[str, str]:
    """What systemctl shows of a unit that is in ``state``."""
    return {
        "LoadState": "loaded",
        "UnitFileState": file_state,
        "ActiveState": state,
        "Result": "service-start-limit-hit" if state == "failed" else "success",
        "Listen": listen,
    }


@pytest.mark.parametrize("state", ["failed", "inactive", "deactivating"])
def test_an_enabled_unit_that_is_not_active_is_an_error(load: Load, state: str) -> None:
    (finding,) = socket_unit.examine(load("").settings, unit(state))
    assert (finding.severity, finding.check) == (Severity.ERROR, "socket-unit")
    assert state in finding.found
    assert "systemctl start policyd-rate-limit.socket" in finding.mend


def test_an_active_unit_with_the_configured_socket_is_well(load: Load) -> None:
    (finding,) = socket_unit.examine(load("").settings, unit("active"))
    assert finding.severity is Severity.OK
    assert finding.found == f"systemd listens at {PATH}"


@pytest.mark.parametrize("shown", [None, {"LoadState": "not-found"}, unit("inactive", "disabled"), {}])
def test_a_unit_that_nobody_wants_is_no_finding(load: Load, shown: dict[str, str] | None) -> None:
    assert list(socket_unit.examine(load("").settings, shown)) == []


@pytest.mark.parametrize(
    ("configured", "listen", "well"),
    [
        ("/srv/policy", f"{PATH} (Stream)", False),
        ("/srv/policy", f"{PATH} (Stream)\n/srv/policy (Stream)", True),
        ("['127.0.0.1', 10033]", f"{PATH} (Stream)", False),
        ("['127.0.0.1', 10033]", "127.0.0.1:10033 (Stream)", True),
        ("['127.0.0.1', 10033]", "[::]:10033 (Stream)", True),
        ("['127.0.0.1', 10033]", "127.0.0.1:10034 (Stream)", False),
        (PATH, "127.0.0.1:10033 (Stream)", False),
    ],
)
def test_a_unit_that_listens_elsewhere_is_a_warning(load: Load, configured: str, listen: str, well: bool) -> None:
    settings = load(f"SOCKET: {configured}\n").settings
    (finding,) = socket_unit.examine(settings, unit("active", listen=listen))
    assert finding.severity is (Severity.OK if well else Severity.WARNING)
    if not well:
        assert "systemctl disable --now policyd-rate-limit.socket" in finding.mend


def test_what_systemctl_shows_is_read() -> None:
    shown = "Listen=/a (Stream)\nListen=/b=c (Stream)\nActiveState=active\n\nnonsense\n"
    assert socket_unit.parse(shown) == {"Listen": "/a (Stream)\n/b=c (Stream)", "ActiveState": "active"}
