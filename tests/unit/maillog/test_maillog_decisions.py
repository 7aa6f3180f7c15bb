"""What this daemon logs about decisions is read back."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.maillog.decisions import decided
from policyd_rate_limit.maillog.mail import Decided
from policyd_rate_limit.system.fields import MOST_CHARACTERS, Line
from policyd_rate_limit.system.logs import FORMATS
from support.maillogs import Log, moment

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = (
    "INFO verdict=refused kind=user id=alice stage=RCPT cost=1 charged=0 limit=10/1m free_in=37 usage=10/10/1m,52/150/1d"
    " ms=0.713 queue_id=4XyzAbC instance=1f3a.65 sasl_username=Alice sender=alice@example.org recipient=bob@example.net"
    " client_address=192.0.2.1"
)
EXPECTED = Decided(
    0.0,
    "mx",
    "refused",
    kind="user",
    id="alice",
    stage="RCPT",
    cost=1,
    limit="10/1m",
    queue_id="4XyzAbC",
    instance="1f3a.65",
    sasl_username="Alice",
    sender="alice@example.org",
    recipient="bob@example.net",
    client_address="192.0.2.1",
)


def test_the_line_of_the_documentation() -> None:
    assert decided(REFUSED.encode(), 0.0, "mx") == EXPECTED
    assert decided(REFUSED.removeprefix("INFO ").encode(), 0.0, "mx") == EXPECTED


@pytest.mark.parametrize("form", ["text", "json"])
@given(
    texts=st.fixed_dictionaries(
        {name: st.text(max_size=40) for name in ("rule", "id", "sender", "recipient", "sasl_username", "instance")}
    ),
    numbers=st.fixed_dictionaries({name: st.integers(-(10**9), 10**9) for name in ("cost", "charged", "suppressed")}),
)
def test_what_the_daemon_writes_is_read_back(form: str, texts: dict[str, str], numbers: dict[str, int]) -> None:
    line = Line(verdict="would-block", shadow="true", **texts, **numbers)
    record = logging.LogRecord("x", logging.INFO, "", 0, line, (), None)

    read = decided(FORMATS[form].with_level(record).encode("utf-8", "surrogateescape"), 0.0, "mx")
    assert read == Decided(0.0, "mx", "would-block", shadow=True, **texts, **numbers)  # type: ignore[arg-type]


def test_bytes_that_are_not_utf_8_survive() -> None:
    line = str(Line(verdict="admitted", sender="b\udcff@x"))

    read = decided(line.encode(), 0.0, "mx")
    assert read is not None
    assert read.sender == "b\udcff@x"


def test_what_was_cut_off_ends_in_an_ellipsis() -> None:
    read = decided(str(Line(verdict="admitted", sender="a b" * 200)).encode(), 0.0, "mx")

    assert read is not None
    assert read.sender.endswith("…")
    assert len(read.sender) == MOST_CHARACTERS


@pytest.mark.parametrize(
    "message",
    [
        "INFO listening on /run/policyd",
        "WARNING bad client: verdict=refused",
        'INFO sender="verdict=refused" verdict=',
        '{"level": "info", "message": "verdict=refused"}',
        "{broken",
        "[1]",
        "{" * 100_000,
    ],
)
def test_other_lines_of_the_daemon(message: str) -> None:
    assert decided(message.encode(), 0.0, "mx") is None


def test_decisions_stand_among_the_mails_of_a_log(tmp_path: Path) -> None:
    json_line = {"time": "2026-11-28T12:00:05.5+00:00", "level": "info", "verdict": "admitted", "cost": 3}
    log = Log(
        tmp_path,
        f"Nov 28 12:00:01 mx policyd-rate-limit[7]: {REFUSED}\n"
        "Nov 28 12:00:01 mx policyd-rate-limit[7]: INFO started\n"
        f"Nov 28 12:00:02 mx policyd-rate-limit[7]: {json.dumps(json_line)}\n"
        f"2026-11-28T12:00:03+0000 policyd-rate-limit: {REFUSED}\n"  # standard error of a container
        f"{json.dumps(json_line)}\n",
    )
    noon = moment("2026-11-28T12:00:00")
    assert [(one.time - noon, one.host, one.verdict, one.cost) for one in log.decisions] == [
        (1, "mx", "refused", 1),
        (2, "mx", "admitted", 3),
        (3, "", "refused", 1),
        (5.5, "", "admitted", 3),
    ]
    assert (log.tally.of_daemon, log.tally.decisions, log.tally.lines) == (5, 4, 5)
