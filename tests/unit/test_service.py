"""From requests to demands, from verdicts to actions and log lines; the store is a function."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, Waiting, refusal
from policyd_rate_limit.domain.decision import NOT_LIMITED
from policyd_rate_limit.domain.identity import Subjects
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.domain.outcome import Outcome
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT, WITHOUT_MAIL, Request
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.policy import Actions, LimitsOfIds, Rule
from policyd_rate_limit.service import FULL_ACTION, Observer, Service
from policyd_rate_limit.storage.administration import Override
from policyd_rate_limit.system.throttle import Throttle
from support import policies
from support.callbacks import Answering
from support.policies import policy

LIMITS = (Limit(10, 60), Limit(5, 86400))
ADMITTED = Verdict((1,))
REFUSED = refusal(LIMITS[0])
ALICE = Request(RCPT, "1f3a.65", "4Xyz", "Alice", "alice@example.org", "bob@example.net", "192.0.2.1", 0)


def subjects(limits: Limits, limit_by_sasl: bool = True) -> Subjects:
    return policies.subjects(limits, limits_by_id={"free": ()}, limit_by_sasl=limit_by_sasl)


class ObservedService(Observer):
    """A service, what it submits, what it answers, and a clock for its throttles."""

    def __init__(
        self,
        count_mode: int | None = None,
        result: Verdict | Exception | None = ADMITTED,
        away: str | None = None,
        limit_by_sasl: bool = True,
        sql_limits: LimitsOfIds | None = None,
    ) -> None:
        self.now = 0.0
        self.result = result
        self.demands: list[Demand] = []
        self.answers: list[str | None] = []
        self.told: list[tuple[object, ...]] = []
        self.undecided: list[Waiting] = []
        self.service = Service(
            policy(
                subjects(LIMITS, limit_by_sasl),
                Actions("OK go on", "550 stop", away, "reject blocked"),
                count_mode,
                sql_limits,
            ),
            self._submit,
            observer=self,
            uncounted=Throttle(3600, lambda: self.now),
            policy_service="unix:ratelimit/policy",
            clock=lambda: self.now,
        )

    def _submit(self, demand: Demand, waiting: Waiting) -> None:
        self.demands.append(demand)
        if self.result is None:
            self.undecided.append(waiting)
        else:
            waiting.conclude(self.result)

    def passed(self, request: Request, key: str, verdict: str, began: float) -> None:
        assert began <= time.monotonic()
        self.told.append((request, key, verdict, len(self.answers)))

    def decided(
        self,
        request: Request,
        demand: Demand,
        rules: Sequence[Rule],
        result: Verdict | Exception,
        outcome: Outcome,
        began: float,
    ) -> None:
        assert len(rules) == len(demand.charges)
        assert began <= time.monotonic()
        assert outcome.action is None or str(self.answers[-1]).endswith(outcome.action)  # the answer has left
        self.told.append((request, demand, result, len(self.answers)))

    def blocked(self, request: Request, key: str, cost: int, limit: Limit, free_in: int, began: float) -> None:
        assert began <= time.monotonic()
        self.told.append((request, key, cost, limit, free_in, len(self.answers)))

    def submit(self, request: Request) -> None:
        self.service.ask(request, Answering(self.answers.append))

    def ask(self, request: Request = ALICE) -> str | None:
        self.submit(request)
        return self.answers[-1]

    def demand(self, request: Request = ALICE) -> Demand:
        self.ask(request)
        return self.demands[-1]


def test_the_demand_of_a_recipient() -> None:
    observed = ObservedService()
    demand = observed.demand()
    [charge] = demand.charges
    assert charge == Charge("user:alice", 1, LIMITS, charge.part)
    assert charge.part
    assert demand.mail == "1f3a.65"
    assert observed.demand() == demand
    assert observed.demand(replace(ALICE, recipient="carol@example.net")) != demand


@pytest.mark.parametrize("stage", [DATA, END_OF_MESSAGE])
def test_the_demand_of_all_recipients(stage: str) -> None:
    demand = ObservedService().demand(replace(ALICE, protocol_state=stage, recipient="", recipient_count=7))
    assert demand == Demand((Charge("user:alice", 7, LIMITS, settles=True),), "1f3a.65")


@pytest.mark.parametrize(("count_mode", "stage", "cost"), [(0, RCPT, 1), (1, DATA, 7), (2, DATA, 1)])
def test_the_demands_of_the_modes_that_charge_each_request(count_mode: int, stage: str, cost: int) -> None:
    observed = ObservedService(count_mode)
    request = replace(ALICE, protocol_state=stage, recipient_count=7)
    demands = [observed.demand(request) for _ in range(3)]
    parts = [demand.charges[0].part for demand in demands]
    assert [demand.charges for demand in demands] == [(Charge("user:alice", cost, LIMITS, part),) for part in parts]
    assert len(set(parts)) == 3
    observed.service.unanswered(request)
    assert observed.demand(request) == demands[-1]


@pytest.mark.parametrize(
    ("count_mode", "stage"),
    [(None, "MAIL"), (None, ""), (0, DATA), (0, END_OF_MESSAGE), (1, RCPT), (1, END_OF_MESSAGE), (2, RCPT)],
)
def test_a_stage_that_does_not_count(count_mode: int | None, stage: str, caplog: pytest.LogCaptureFixture) -> None:
    observed = ObservedService(count_mode, REFUSED)
    asked = replace(ALICE, protocol_state=stage)
    assert observed.ask(asked) == "OK go on"
    assert not observed.demands
    assert observed.told == [(asked, "", "not-counted", 1)]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert f"stage {stage or '(none)'}," in message
    assert f"count_mode {'unset' if count_mode is None else count_mode};" in message
    hook = "smtpd_data_restrictions" if count_mode in (1, 2) else "smtpd_recipient_restrictions"
    assert f"{hook} = ..., check_policy_service {{ unix:ratelimit/policy," in message.replace(
        " or smtpd_data_restrictions or smtpd_end_of_data_restrictions", ""
    )


def test_the_hint_comes_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    observed = ObservedService(1)
    for number in range(100):
        observed.now = 3599.0 * (number / 99)
        observed.ask(replace(ALICE, protocol_state=RCPT if number % 2 else f"made up {number}"))
    assert len(caplog.records) == 1
    observed.now = 3600.0
    observed.ask()
    assert len(caplog.records) == 2
    assert "(99 more such requests since the last line)" in caplog.records[1].getMessage()


@pytest.mark.parametrize("stage", WITHOUT_MAIL)
@pytest.mark.parametrize("count_mode", [None, 0, 1, 2])
def test_a_command_that_sends_no_mail_is_no_sign_of_a_wrong_hook(
    count_mode: int | None, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any stranger may type VRFY, and smtpd asks in the list that is right."""
    observed = ObservedService(count_mode)
    assert observed.ask(replace(ALICE, protocol_state=stage)) == "OK go on"
    assert not observed.demands
    assert not caplog.records


@pytest.mark.parametrize(
    ("observed", "request_"),
    [
        (ObservedService(), replace(ALICE, sasl_username="free")),
        (ObservedService(), replace(ALICE, sasl_username="FREE")),
        (ObservedService(), replace(ALICE, sasl_username="")),
        (ObservedService(limit_by_sasl=False), ALICE),
    ],
    ids=["unlimited", "unlimited in capitals", "nobody", "nothing is limited"],
)
def test_nobody_to_charge(observed: ObservedService, request_: Request) -> None:
    assert observed.ask(request_) == "OK go on"
    assert not observed.demands
    [(about, key, verdict, answers)] = observed.told
    assert (about, verdict, answers) == (request_, "not-limited", 1)
    assert key in ("", "user:free")


@pytest.mark.parametrize(
    ("result", "away", "action"),
    [
        (ADMITTED, None, "OK go on"),
        (REFUSED, None, "550 stop"),
        (StoreFull("the disk is full"), None, FULL_ACTION),
        (StoreFull("the disk is full"), "away", FULL_ACTION),
        (StoreUnavailable("away"), "451 away", "451 away"),
        (StoreUnavailable("away"), None, None),
        (ValueError("a fault of ours"), "451 away", None),
    ],
)
def test_the_action_of_each_result(result: Verdict | Exception, away: str | None, action: str | None) -> None:
    observed = ObservedService(result=result, away=away)
    assert observed.ask() == action
    assert observed.told == [(ALICE, observed.demands[0], result, 1)]


@pytest.mark.parametrize("result", [ADMITTED, REFUSED])
def test_answers_may_come_later_and_in_any_order(result: Verdict) -> None:
    observed = ObservedService()
    observed.result = None

    def keep(number: int, action: str | None) -> None:
        observed.answers.append(f"{number} {action}")

    for number in range(3):
        observed.service.ask(ALICE, Answering(partial(keep, number)))
    assert not observed.answers
    for number in (2, 0, 1):
        observed.undecided[number].conclude(result)
    action = "OK go on" if result.admitted else "550 stop"
    assert observed.answers == [f"2 {action}", f"0 {action}", f"1 {action}"]


LONGEST = 999_999  # seconds


class Table:
    """Limits by id that are told at once, or when ``later`` is called."""

    def __init__(self, rows: dict[str, Limits], *, at_once: bool = True) -> None:
        self.rows = rows
        self.at_once = at_once
        self.asked: list[tuple[str, ...]] = []
        self.later: list[Callable[[], None]] = []

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None], began: float) -> None:
        self.asked.append(ids)
        tell = partial(done, next((self.rows[name] for name in ids if name in self.rows), None))
        if self.at_once:
            tell()
        else:
            self.later.append(tell)

    keep_seconds = LONGEST


@pytest.mark.parametrize("at_once", [True, False])
def test_the_table_counts_before_the_configuration(at_once: bool) -> None:
    own = (Limit(3, 60),)
    table = Table({"alice": own, "free": own, "bob": ()}, at_once=at_once)
    observed = ObservedService(sql_limits=table)
    for name in ("Alice", "free", "bob", "carol"):
        observed.submit(replace(ALICE, sasl_username=name, instance=name))
    for tell in table.later:
        tell()
    assert table.asked == [("alice", "Alice"), ("free",), ("bob",), ("carol",)]
    assert {demand.charges[0].counter: demand.charges[0].limits for demand in observed.demands} == {
        "user:alice": own,
        "user:free": own,  # unlimited in the configuration
        "user:carol": LIMITS,
    }
    assert {demand.charges[0].keep_seconds for demand in observed.demands} == {LONGEST}
    assert observed.answers == ["OK go on"] * 4


def test_unlimited_in_the_configuration_and_not_in_the_table() -> None:
    observed = ObservedService(sql_limits=Table({}))
    free = replace(ALICE, sasl_username="free")
    assert observed.ask(free) == "OK go on"
    assert not observed.demands
    assert observed.told == [(free, "user:free", NOT_LIMITED, 1)]


def test_the_table_is_not_asked_in_vain() -> None:
    table = Table({})
    observed = ObservedService(sql_limits=table, limit_by_sasl=False)
    observed.ask()  # nobody is charged
    observed = ObservedService(sql_limits=table, count_mode=1)
    observed.ask()  # a stage that does not count
    assert not table.asked


def test_equal_requests_are_numbered_before_the_table_answers() -> None:
    table = Table({}, at_once=False)
    observed = ObservedService(count_mode=0, sql_limits=table)
    for _ in range(2):
        observed.submit(ALICE)
    for tell in reversed(table.later):
        tell()
    second, first = (demand.charges[0].part for demand in observed.demands)
    assert second == f"{first}-1"
    # The client has gone before the table has answered: when it asks again, that is the same request.
    observed.submit(ALICE)
    observed.service.unanswered(ALICE)
    observed.submit(ALICE)
    for tell in table.later[2:]:
        tell()
    assert observed.demands[2] == observed.demands[3]


def test_each_request_is_answered_by_the_policy_that_it_met() -> None:
    table = Table({}, at_once=False)
    observed = ObservedService(result=None, sql_limits=table)
    for _ in range(3):
        observed.submit(ALICE)
    new = (Limit(1, 5),)
    observed.service.policy = policy(subjects(new), Actions("OK new", "450 new", "450 away", "reject new"), 2)
    data = replace(ALICE, protocol_state=DATA)
    for _ in range(3):
        observed.submit(data)
    for tell in table.later:
        tell()
    assert [demand.charges[0].limits for demand in observed.demands] == [new] * 3 + [LIMITS] * 3
    results: list[Verdict | Exception] = [ADMITTED, REFUSED, StoreUnavailable("away")]
    for waiting, result in zip(observed.undecided, results * 2, strict=True):
        waiting.conclude(result)
    assert observed.answers == ["OK new", "450 new", "450 away", "OK go on", "550 stop", "450 away"]


# --- Overrides

DAY = 86400
BLOCK = (Limit(0, 1),)
FEWER = (Limit(1, 1),)


def limits_asked(observed: ObservedService, request: Request = ALICE) -> Limits:
    return observed.demand(request).charges[0].limits


def keep_asked(observed: ObservedService) -> int:
    return observed.demand(ALICE).charges[0].keep_seconds


def test_an_override_counts_before_all_else_until_it_ends() -> None:
    observed = ObservedService()
    more = (Limit(500, DAY), Limit(1000, 7 * DAY))
    observed.service.override([Override("user:alice", more, 100), Override("user:free", FEWER, 100)])
    assert limits_asked(observed) == more
    assert limits_asked(observed, replace(ALICE, sasl_username="ALICE")) == more
    assert limits_asked(observed, replace(ALICE, sasl_username="bob")) == LIMITS
    assert limits_asked(observed, replace(ALICE, sasl_username="free")) == FEWER  # unlimited else
    observed.now = 99.9
    assert limits_asked(observed) == more
    observed.now = 100.0
    assert limits_asked(observed) == LIMITS
    observed.now = 0.0  # what has ended does not come back
    assert limits_asked(observed) == LIMITS


def test_other_overrides_take_the_place_of_those_before() -> None:
    observed = ObservedService()
    observed.service.override([Override("user:alice", BLOCK, 100)])
    assert observed.ask() == "reject blocked"
    observed.service.override([Override("user:bob", BLOCK, 100)])
    assert limits_asked(observed) == LIMITS
    observed.service.override([])
    assert limits_asked(observed, replace(ALICE, sasl_username="bob")) == LIMITS


def test_a_short_override_forgets_nothing_that_the_usual_limits_need() -> None:
    observed = ObservedService()
    observed.service.override([Override("user:alice", FEWER, 100)])
    assert limits_asked(observed) == FEWER
    assert keep_asked(observed) == DAY


@pytest.mark.parametrize("limits", [BLOCK, (Limit(5, DAY), Limit(0, 60))])
def test_whom_an_override_blocks_is_refused_for_good_until_it_ends(limits: Limits) -> None:
    """Nobody else is asked: neither a store, which may be away, nor a table, nor what a mail was charged before."""
    observed = ObservedService(sql_limits=Table({"alice": LIMITS}), result=StoreUnavailable("away"), away="dunno")
    observed.service.override([Override("user:alice", limits, 100), Override("user:free", limits, 100)])
    observed.now = 40.5
    assert observed.ask() == "reject blocked"
    assert observed.told == [(ALICE, "user:alice", 1, limits[-1], 60, 1)]
    assert observed.ask(replace(ALICE, protocol_state=DATA, recipient="", recipient_count=7)) == "reject blocked"
    assert observed.told[-1][2] == 7
    assert observed.ask(replace(ALICE, sasl_username="free")) == "reject blocked"
    assert observed.ask(replace(ALICE, protocol_state="CONNECT")) == "OK go on"  # a stage that does not count
    assert observed.demands == []
    assert observed.ask(replace(ALICE, sasl_username="bob")) == "dunno"
    observed.now = 100
    assert observed.ask() == "dunno"
    assert observed.demands[-1].charges[0].limits[: len(LIMITS)] == LIMITS


def test_an_override_that_raises_is_beyond_its_limits_as_others_are() -> None:
    observed = ObservedService(result=refusal(Limit(500, DAY)))
    observed.service.override([Override("user:alice", (Limit(500, DAY),), 100)])
    assert observed.ask() == "550 stop"
    observed.service.override([Override("user:alice", BLOCK, 100)])
    assert observed.ask() == "reject blocked"
    observed.service.override([])
    assert observed.ask() == "550 stop"


def test_a_limit_of_0_of_the_configuration_is_no_block() -> None:
    observed = ObservedService(result=refusal(Limit(0, 60)))
    assert observed.ask() == "550 stop"


def test_a_reload_changes_what_the_blocked_are_told() -> None:
    observed = ObservedService()
    observed.service.override([Override("user:alice", BLOCK, 100)])
    observed.service.policy = policy(subjects(LIMITS), Actions("OK new", "450 new", None, "reject new"), 2)
    assert observed.ask(replace(ALICE, protocol_state=DATA)) == "reject new"


@pytest.mark.parametrize("limits", [(Limit(1, 60), Limit(5, DAY)), (Limit(5, DAY),), (Limit(1, 60), Limit(5, DAY + 1))])
def test_an_override_that_looks_back_as_far_as_the_usual_limits_is_as_it_was_given(limits: Limits) -> None:
    observed = ObservedService()
    observed.service.override([Override("user:alice", limits, 100)])
    assert limits_asked(observed) == limits


def test_an_override_without_limits_lets_pass() -> None:
    observed = ObservedService()
    observed.service.override([Override("user:alice", (), 100)])
    assert observed.ask() == "OK go on"
    assert observed.demands == []


def test_an_override_counts_before_the_table_and_forgets_nothing_of_its_windows() -> None:
    table = Table({"alice": (Limit(1, 60),)})
    observed = ObservedService(sql_limits=table)
    observed.service.override([Override("user:alice", (Limit(500, DAY),), 100)])
    assert limits_asked(observed) == (Limit(500, DAY),)
    assert table.asked == []
    observed.now = 100
    assert limits_asked(observed) == (Limit(1, 60),)


def test_an_override_says_when_it_looks_back_further_than_was_asked_before() -> None:
    observed = ObservedService()
    week = (Limit(500, 7 * DAY),)
    assert observed.service.override([Override("user:alice", BLOCK, 100), Override("user:bob", LIMITS, 100)]) == 0
    assert observed.service.override([Override("user:alice", week, 100), Override("user:bob", LIMITS, 100)]) == 7 * DAY
    assert observed.service.override([Override("user:alice", week, 100), Override("user:bob", week, 100)]) == 7 * DAY
    assert observed.service.override([Override("user:alice", week, 200), Override("user:bob", week, 100)]) == 0
    assert observed.service.override([Override("user:free", week, 100)]) == 0
    assert observed.service.override([]) == 0
    assert observed.service.override([Override("user:alice", week, 100)]) == 7 * DAY
