"""Which tests may be run again when they fail: those of real servers that say what of the machine they depend on.

Such a test is marked ``@pytest.mark.depends_on_machine(reason="...")``. With ``--reruns-on-machine N`` it is run up to
N times more; what was run again is listed at the end, with the reason. Every other test must pass at once. The
``--reruns`` of pytest-rerunfailures, which covers all tests, is refused.
"""

from __future__ import annotations

import pytest

MARKER = "depends_on_machine"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--reruns-on-machine N``."""
    parser.addoption(
        "--reruns-on-machine",
        type=int,
        default=0,
        metavar="N",
        help=f"run a test that is marked {MARKER} up to N times more when it fails",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Nothing else runs tests again."""
    if config.getoption("reruns", None):
        raise pytest.UsageError(f"--reruns covers all tests: mark the test {MARKER} and use --reruns-on-machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have the marked tests run again, and carry their reasons to the end of the run."""
    reruns = config.getoption("reruns_on_machine")
    for item in items:
        if item.get_closest_marker("flaky") is not None:
            raise pytest.UsageError(f"{item.nodeid}: a test that is run again is marked {MARKER}, with a reason")
        marker = item.get_closest_marker(MARKER)
        if marker is None:
            continue
        reason = marker.kwargs.get("reason", "")
        if not reason or marker.args or len(marker.kwargs) > 1:
            raise pytest.UsageError(f"{item.nodeid}: expected {MARKER}(reason='...'), found {marker}")
        if reruns:
            item.add_marker(pytest.mark.flaky(reruns=reruns))
            item.user_properties.append((MARKER, reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was run again, and why that may be."""
    again = terminalreporter.stats.get("rerun", [])
    if again:
        terminalreporter.section("run again")
        for report in again:
            reason = dict(report.user_properties).get(MARKER, "")
            terminalreporter.line(f"{report.nodeid}: {reason}")
