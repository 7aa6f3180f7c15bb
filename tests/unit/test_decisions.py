"""Who is told of a decision: the lines, how many of them there are, and what they say."""

from __future__ import annotations

import logging
import pathlib
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Usage, Verdict, Warned, refusal
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.decision import (
    BLOCKS,
    KINDS,
    NOT_COUNTED,
    NOT_LIMITED,
    VERDICTS,
    WARNED,
    WOULD_BLOCK,
    Decision,
)
from policyd_rate_limit.domain.limits import BLOCKED, LARGEST, MOST_LIMITS, Limit
from policyd_rate_limit.domain.listener import Listener
from policyd_rate_limit.domain.outcome import ACCEPT, AWAY, FULL, NO_ANSWER, Outcome
from policyd_rate_limit.domain.request import DATA, RCPT, Request
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.observe.decisions import MOST_LIMITS_TOLD, Decisions, line
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.system.fields import MOST_CHARACTERS
from policyd_rate_limit.system.logs import LINE_CHARACTERS
from policyd_rate_limit.system.throttle import THROTTLE_KEYS, Throttle
from support.logfmt import parse
from support.policies import default_rule, subjects

LIMITS = (Limit(10, 60), Limit(5, 86400))
ADMITTED = Verdict((1,))
REFUSED = refusal(LIMITS[0])
ALICE = Request(RCPT, "1f3a.65", "4Xyz", "Alice", "alice@example.org", "bob@example.net", "192.0.2.1", 0)
LOGGER = "policyd_rate_limit.observe.decisions"
USAGES = (Usage("user:alice", LIMITS[0], 10, 37), Usage("user:alice", LIMITS[1], 3, 0))
RULES = (default_rule(),) * 2
MINUTE = 60.0
BEGAN = 1000.0
MILLISECONDS = 1.25


def demand(key: str = "user:alice", cost: int = 1) -> Demand:
    return Demand((Charge(key, cost, LIMITS, "part"),), "1f3a.65")


class Keen(Listener):
    """Wants to be told more of refusals of one counter."""

    def __init__(self, counter: str) -> None:
        self.counter = counter
        self.told: list[Decision] = []

    def refused(self, counter: str, limit: Limit) -> bool:
        assert limit in LIMITS
        return counter == self.counter

    def explained(self, decision: Decision) -> None:
        self.told.append(decision)


class Deciding:
    """Decisions, with a clock for their throttle, and a store that explains at once, or later."""

    def __init__(self, *listeners: Keen, usages: tuple[Usage, ...] = USAGES, at_once: bool = True) -> None:
        self.now = 0.0
        self.usages = usages
        self.at_once = at_once
        self.explained: list[Demand] = []
        self.later: list[Callable[[tuple[Usage, ...]], None]] = []
        throttle, warned = (Throttle(MINUTE, lambda: self.now) for _ in range(2))
        self.decisions = Decisions(
            self._explain,
            refused=throttle,
            warned=warned,
            listeners=listeners,
            clock=lambda: BEGAN + MILLISECONDS / 1000,
        )

    def _explain(self, demand: Demand, done: Callable[[tuple[Usage, ...]], None]) -> None:
        self.explained.append(demand)
        if self.at_once:
            done(self.usages)
        else:
            self.later.append(done)

    def decide(
        self,
        result: Verdict | Exception = REFUSED,
        *,
        request: Request = ALICE,
        demand: Demand = demand(),  # noqa: B008 - it is a tuple
        outcome: Outcome | None = None,
    ) -> None:
        kind = FULL if isinstance(result, StoreFull) else AWAY
        self.decisions.decided(request, demand, RULES, result, outcome or Outcome(kind, "answer"), BEGAN)

    def warn(self, warning: tuple[Verdict, Demand, tuple[Rule, Rule]]) -> None:
        verdict, demand, rules = warning
        self.decisions.decided(ALICE, demand, rules, verdict, Outcome(ACCEPT, "dunno"), BEGAN)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, str]]]:
    """The lines so far, parsed."""
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [parse(record.getMessage()) for record in caplog.records]


Lines = Callable[[], list[dict[str, str]]]


def test_a_refusal_says_all_that_is_known(lines: Lines) -> None:
    Deciding().decide()
    [fields] = lines()
    assert fields == {
        "verdict": "refused",
        "kind": "user",
        "id": "alice",
        "stage": "RCPT",
        "cost": "1",
        "charged": "0",
        "limit": "10/1m",
        "free_in": "37",
        "usage": "10/10/1m,3/5/1d",
        "ms": "1.250",
        "queue_id": "4Xyz",
        "instance": "1f3a.65",
        "sasl_username": "Alice",
        "sender": "alice@example.org",
        "recipient": "bob@example.net",
        "client_address": "192.0.2.1",
    }
    assert list(fields)[:3] == ["verdict", "kind", "id"]


def test_what_is_not_known_is_left_out(lines: Lines) -> None:
    Deciding(usages=()).decide(request=Request(RCPT, "", "", "alice", "", "", "", 0))
    [fields] = lines()
    assert fields.keys() == {
        "verdict", "kind", "id", "stage", "cost", "charged", "limit", "ms", "sasl_username"
    }  # fmt: skip


def test_without_debug_an_admitted_mail_costs_nothing(lines: Lines) -> None:
    deciding = Deciding()
    for result in (ADMITTED, StoreFull("full"), StoreUnavailable("away")):
        deciding.decide(result)
    deciding.decisions.passed(ALICE, "", NOT_COUNTED, 1000.0)
    assert not lines()
    assert not deciding.explained


def test_with_debug_each_decision_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    deciding = Deciding()
    deciding.decide(ADMITTED)
    for _ in range(3):
        deciding.decide()
    for failure in (StoreFull("full"), StoreUnavailable("away")):
        deciding.decide(failure)
    deciding.decisions.passed(ALICE, "", NOT_COUNTED, 1000.0)
    deciding.decisions.passed(ALICE, "user:alice", NOT_LIMITED, 1000.0)
    found = [parse(record.getMessage()) for record in caplog.records]
    verdicts = ["admitted", "refused", "refused", "refused", "full", "away", "not-counted", "not-limited"]
    assert [fields["verdict"] for fields in found] == verdicts
    assert set(verdicts) < set(VERDICTS)
    assert [fields["kind"] for fields in found] == ["user"] * 6 + ["none", "user"]
    assert {fields["ms"] for fields in found} == {"1.250"}
    assert found[0]["usage"] == "10/10/1m,3/5/1d"
    assert "limit" not in found[0]
    assert [record.levelno for record in caplog.records] == [logging.DEBUG, logging.INFO, *[logging.DEBUG] * 6]
    assert len(deciding.explained) == 4


def test_a_refusal_is_logged_once_a_minute_for_each_id(lines: Lines) -> None:
    deciding = Deciding()
    for number in range(60):
        deciding.now = float(number)
        deciding.decide()
        deciding.decide(REFUSED, demand=demand("user:bob"))
    assert [fields["id"] for fields in lines()] == ["alice", "bob"]
    assert len(deciding.explained) == 2
    deciding.now = MINUTE
    deciding.decide()
    assert lines()[2]["suppressed"] == "59"
    assert "suppressed" not in lines()[0]


def test_an_attack_with_many_ids_makes_a_bounded_number_of_lines(lines: Lines) -> None:
    """100,000 refusals of as many ids within a minute."""
    deciding = Deciding(usages=())
    for number in range(100_000):
        deciding.now = MINUTE * number / 100_000
        key = f"sender:{number}"
        deciding.decide(refusal(LIMITS[0]), demand=demand(key))
    assert len(lines()) == THROTTLE_KEYS + 1
    assert len(deciding.explained) == THROTTLE_KEYS + 1
    deciding.now = 2 * MINUTE
    for number in range(THROTTLE_KEYS + 1):
        key = f"sender:new{number}"
        deciding.decide(refusal(LIMITS[0]), demand=demand(key))
    # Whatever was left out is told with the next line that is for many.
    assert sum(int(fields.get("suppressed", 0)) for fields in lines()) == 100_000 - THROTTLE_KEYS - 1


@pytest.mark.parametrize("usages", [(), (USAGES[0]._replace(free_in=None), USAGES[1])])
def test_a_refusal_says_that_it_can_never_pass(usages: tuple[Usage, ...], lines: Lines) -> None:
    """Whichever of its limits is the first to refuse it, and whether or not the store explains it."""
    Deciding(usages=usages).decide(demand=demand(cost=6))
    [fields] = lines()
    assert (fields["limit"], fields["free_in"]) == ("10/1m", "never")


def test_a_settlement_may_cost_more_than_a_limit_and_pass(lines: Lines) -> None:
    """The store knows what of it was charged before."""
    deciding = Deciding()
    deciding.decide(request=replace(ALICE, protocol_state=DATA), demand=demand(cost=12))
    assert lines()[0]["free_in"] == "37"


def test_of_several_charges_the_one_that_refused_is_told(lines: Lines) -> None:
    both = Demand((Charge("user:alice", 1, LIMITS), Charge("client:192.0.2.1", 6, LIMITS[:1])))
    usages = (*USAGES, Usage("client:192.0.2.1", LIMITS[0], 7, 12))
    Deciding(usages=usages).decide(refusal(LIMITS[0], 1), demand=both)
    [fields] = lines()
    expected = {"kind": "client", "id": "192.0.2.1", "cost": "6", "usage": "7/10/1m", "free_in": "12"}
    assert {key: fields[key] for key in expected} == expected


def warning(*used: int, shadow: bool = False) -> tuple[Verdict, Demand, tuple[Rule, Rule]]:
    """A mail on two counters has brought limits of the second so far."""
    told = tuple(Warned(1, limit, of_it) for limit, of_it in zip(LIMITS, used, strict=False))
    both = Demand((Charge("client:192.0.2.1", 1, LIMITS), Charge("person|user:alice", 3, LIMITS, warn=80)), "1f3a.65")
    person = Rule("person", subjects(LIMITS), stages(None), warn=80, shadow=shadow)
    return Verdict((1, 3), (), None, told), both, (default_rule(), person)


def test_a_warning_tells_what_is_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    deciding = Deciding()
    deciding.warn(warning(8, 4))
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    minute, day = (parse(record.getMessage()) for record in caplog.records)
    expected = {"verdict": "warned", "rule": "person", "kind": "user", "id": "alice", "cost": "3", "charged": "3"}
    assert expected.items() <= minute.items()
    assert (minute["limit"], minute["usage"]) == ("10/1m", "8/10/1m")
    assert (day["limit"], day["usage"]) == ("5/1d", "4/5/1d")
    assert not {"free_in", "shadow"} & minute.keys()
    assert not deciding.explained
    deciding.now = MINUTE
    deciding.warn(warning(8, shadow=True))
    assert parse(caplog.records[2].getMessage())["shadow"] == "true"


def test_a_block_tells_which_limit_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    deciding = Deciding()
    for shadow in (False, True):
        for _ in range(3):
            deciding.decisions.blocks(ALICE, "person|user:alice", LIMITS[0], 3600, shadow=shadow)
    done, would = (parse(record.getMessage()) for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    expected = {
        "verdict": "blocked",
        "rule": "person",
        "kind": "user",
        "id": "alice",
        "limit": "10/1m",
        "free_in": "3600",
    }
    assert expected.items() <= done.items()
    assert not {"cost", "charged", "usage", "shadow"} & done.keys()
    assert would == {**done, "verdict": "would-block", "shadow": "true"}
    deciding.now = MINUTE
    deciding.decisions.blocks(ALICE, "person|user:alice", LIMITS[0], 3600, shadow=True)
    assert parse(caplog.messages[2])["suppressed"] == "2"


def test_a_use_that_hovers_makes_one_line_a_minute(lines: Lines) -> None:
    """For each limit of each counter; and no more for all counters together than there are lines about refusals."""
    deciding = Deciding()
    for number in range(60):
        deciding.now = float(number)
        deciding.warn(warning(8, 4))
    assert [fields["limit"] for fields in lines()] == ["10/1m", "5/1d"]
    deciding.now = MINUTE
    deciding.warn(warning(8))
    assert lines()[2]["suppressed"] == "59"
    for number in range(10 * THROTTLE_KEYS):
        verdict, demand, rules = warning(8)
        other = replace(demand.charges[1], counter=f"person|user:{number}")
        deciding.warn((verdict, replace(demand, charges=(demand.charges[0], other)), rules))
    assert len(lines()) <= THROTTLE_KEYS + 4


def test_listeners_are_told_what_they_want(lines: Lines) -> None:
    """However often the log is silent; nobody else is asked to explain it."""
    keen = Keen("user:alice")
    deciding = Deciding(keen, at_once=False)
    for _ in range(3):
        deciding.decide()
    deciding.decide(REFUSED, demand=demand("user:bob"))
    deciding.decide(ADMITTED)
    assert not keen.told
    assert not lines()
    assert len(deciding.later) == 4
    for done in deciding.later:
        done(USAGES)
    assert [told.counter for told in keen.told] == ["user:alice"] * 3
    decision = keen.told[0]
    assert (decision.exceeded, decision.usages, decision.free_in) == (LIMITS[0], USAGES, 37)
    assert decision.request is ALICE
    assert [fields["id"] for fields in lines()] == ["alice", "bob"]


def test_a_failure_is_logged_with_its_traceback_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    deciding, failure = Deciding(), ValueError("a fault of ours")
    for _ in range(3):
        deciding.decide(failure, outcome=NO_ANSWER)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is failure
    assert parse(record.getMessage())["verdict"] == "none"
    deciding.now = MINUTE
    deciding.decide(failure, outcome=NO_ANSWER)
    assert parse(caplog.records[1].getMessage())["suppressed"] == "2"
    deciding.decide(StoreUnavailable("away"), outcome=NO_ANSWER)
    assert len(caplog.records) == 3


SHORT = MOST_CHARACTERS // 10  # the longest escape has ten characters
anything = st.one_of(
    st.text(max_size=SHORT), st.binary(max_size=SHORT).map(lambda data: data.decode("utf-8", "surrogateescape"))
)
requests = st.builds(Request, *[anything] * 7, recipient_count=st.just(0))


@given(requests, st.sampled_from(["user", "sender", "client"]), anything)
def test_no_value_forges_a_line_or_a_field(request: Request, kind: str, id_: str) -> None:
    fields = parse(str(line(Decision(request, "refused", f"{kind}:{id_}", 1, 0, LIMITS[0], USAGES))))
    for name in ("instance", "queue_id", "sasl_username", "sender", "recipient", "client_address"):
        assert fields.get(name, "") == getattr(request, name)
    assert fields.get("stage", "") == request.protocol_state
    assert fields.get("id", "") == id_
    assert (fields["verdict"], fields["kind"], fields["limit"]) == ("refused", kind, "10/1m")


def test_a_line_is_never_so_long_that_it_would_be_cut() -> None:
    worst = '\udcff"' * 100_000
    limits = [Limit(LARGEST, LARGEST - number) for number in range(MOST_LIMITS)]
    usages = tuple(Usage(f"user:{worst}", limit, LARGEST, LARGEST) for limit in limits)
    request = Request(worst, worst, worst, worst, worst, worst, worst, 0)
    text = str(line(Decision(request, "refused", f"user:{worst}", LARGEST, LARGEST, limits[0], usages), 10**9))
    assert parse(text)["usage"].count(",") == MOST_LIMITS_TOLD - 1
    assert len(text) <= LINE_CHARACTERS


DOCUMENTATION = pathlib.Path(__file__).parents[2] / "docs" / "logging.md"


def test_every_field_and_verdict_is_documented_and_no_other() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    table = text[text.index("| field |") : text.index("The use of the limits")]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:] if row]
    documented = [name for names, _ in rows for name in re.findall("`([a-z_]+)`", names)]
    decision = Decision(ALICE, "refused", "person|user:alice", 1, 1, LIMITS[0], USAGES, False, 0.1, shadow=True)
    assert documented == list(line(decision, 1).fields)
    (verdicts,) = (meaning for names, meaning in rows if "`verdict`" in names)
    assert {*VERDICTS, WARNED, BLOCKS, WOULD_BLOCK} <= set(re.findall("`([a-z-]+)`", verdicts))
    (kinds,) = (meaning for names, meaning in rows if "`kind`" in names)
    assert set(re.findall("`([a-z-]+)`", kinds)) == set(KINDS)


def test_the_example_of_the_documentation_is_a_line() -> None:
    (example,) = re.findall(r"^INFO (verdict=.*)$", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)
    usages = (Usage("user:alice", Limit(10, 60), 10, 37), Usage("user:alice", Limit(150, 86400), 52, 0))
    request = replace(ALICE, queue_id="4XyzAbC")
    assert (
        str(line(Decision(request, "refused", "user:alice", 1, 0, Limit(10, 60), usages, False, 0.000713))) == example
    )


def test_bounds_of_the_documentation() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    assert f"each of {THROTTLE_KEYS:,} ids" in text
    assert f"more than {MOST_CHARACTERS} characters" in text
    assert MOST_LIMITS_TOLD == 6


def test_a_block_is_told_with_its_end_and_without_asking_the_store(lines: Lines) -> None:
    deciding = Deciding()
    deciding.decisions.blocked(ALICE, "user:alice", 1, BLOCKED, 3412, 1000.0)
    deciding.decisions.blocked(ALICE, "user:alice", 1, BLOCKED, 3411, 1000.0)  # within the minute
    [fields] = lines()
    assert (fields["verdict"], fields["limit"], fields["free_in"], fields["charged"]) == (
        "refused",
        "blocked",
        "3412",
        "0",
    )
    assert "usage" not in fields
    assert deciding.explained == []


class Met(Keen):
    """Keeps what ran into limits."""

    def __init__(self) -> None:
        super().__init__("nobody")
        self.hits: list[tuple[str, str, Limit, str]] = []

    def refused(self, counter: str, limit: Limit) -> bool:
        return False

    def met(self, request: Request, counter: str, limit: Limit, verdict: str) -> None:
        self.hits.append((request.queue_id, counter, limit, verdict))


def test_each_excess_is_told_and_nothing_is_looked_up_for_it(lines: Lines) -> None:
    """Also where no line is written of it: one a minute is."""
    met = Met()
    deciding = Deciding(met)
    both = Demand(tuple(Charge(f"{name}|user:alice", 1, LIMITS) for name in ("shy", "marks", "strict")), "1f3a.65")
    rules = [
        Rule(name, subjects(LIMITS), stages(None), refuses=name == "strict", shadow=name == "shy")
        for name in ("shy", "marks", "strict")
    ]
    admitted = Verdict((0, 0, 1), (Exceeded(0, LIMITS[0]), Exceeded(1, LIMITS[1])))
    third = Exceeded(2, LIMITS[0])
    refused = Verdict((), (*admitted.exceeded, third), third)
    for verdict in (admitted, refused):
        deciding.decisions.decided(ALICE, both, rules, verdict, Outcome(ACCEPT, "DUNNO"), BEGAN)
    deciding.decisions.blocked(ALICE, "user:alice", 1, BLOCKED, 60, BEGAN)
    assert met.hits == [
        ("4Xyz", "shy|user:alice", LIMITS[0], "would-refuse"),
        ("4Xyz", "marks|user:alice", LIMITS[1], "marked"),
        ("4Xyz", "shy|user:alice", LIMITS[0], "would-refuse"),
        ("4Xyz", "strict|user:alice", LIMITS[0], "refused"),
        ("4Xyz", "user:alice", BLOCKED, "refused"),
    ]
    before = len(deciding.explained)
    deciding.decisions.decided(ALICE, both, rules, admitted, Outcome(ACCEPT, "DUNNO"), BEGAN)
    assert len(met.hits) == 7
    assert len(deciding.explained) == before  # the lines of this minute are written
    assert len(lines()) == 4
