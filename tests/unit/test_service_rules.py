"""One request that several rules charge: what is asked of the store, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, Waiting
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import Cost, stages
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT, Request
from policyd_rate_limit.domain.rules.asked import Asked
from policyd_rate_limit.domain.rules.attributes import NAME, VALUE
from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
from policyd_rate_limit.domain.rules.facts import Source
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.domain.rules.listed import Listed
from policyd_rate_limit.domain.rules.patterns import parse_pattern
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.policy import Actions, LimitsOfIds, Policy, Rule
from policyd_rate_limit.service import Service
from policyd_rate_limit.storage.administration import Override
from policyd_rate_limit.system.throttle import Throttle
from support.callbacks import Answering
from support.policies import Nobody, subjects

USER, SERVER, BURST = (Limit(10, 60),), (Limit(500, 3600),), (Limit(3, 1),)
ALICE = Request(RCPT, "1f3a.65", "4Xyz", "alice", "alice@example.org", "bob@example.net", "192.0.2.1", 0)


def once(_: Request) -> Cost:
    """A message, at whatever stage it is asked about."""
    return Cost(1, "", settles=True)


MESSAGES = dict.fromkeys((RCPT, DATA, END_OF_MESSAGE), once)


class Served:
    """A service with subjects, what it demands, and what it answers."""

    def __init__(self, *of_configuration: Rule) -> None:
        self.demands: list[Demand] = []
        self.answers: list[str | None] = []
        self.now = 0.0
        policy = Policy(of_configuration, Actions("dunno", "550 over", None, "550 blocked"), count_mode=0)
        self.service = Service(
            policy,
            self._submit,
            observer=Nobody(),
            uncounted=Throttle(3600, lambda: self.now),
            policy_service="unix:ratelimit/policy",
            clock=lambda: self.now,
        )

    def _submit(self, demand: Demand, waiting: Waiting) -> None:
        self.demands.append(demand)
        waiting.conclude(Verdict(tuple(charge.cost for charge in demand.charges)))

    def ask(self, request: Request = ALICE) -> None:
        self.service.ask(request, Answering(self.answers.append))


class Later:
    """A table that answers when it is told to."""

    def __init__(self, found: Limits | None) -> None:
        self.found = found
        self.asked: list[tuple[str, ...]] = []
        self.answer: Callable[[], None] = lambda: None

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None], began: float) -> None:
        self.asked.append(ids)
        self.answer = partial(done, self.found)

    keep_seconds = 0


def user(limits: Limits = USER, table: LimitsOfIds | None = None) -> Rule:
    return Rule(DEFAULT, subjects(limits), stages(None), table)


def messages(limits: Limits = SERVER, table: LimitsOfIds | None = None, *, refuses: bool = True) -> Rule:
    return Rule("messages", subjects(limits), MESSAGES, table, refuses=refuses)


def test_a_mail_is_charged_by_each_rule_in_its_own_way() -> None:
    """Its recipients one by one, and itself once, at whatever stage."""
    served = Served(user(), messages(refuses=False))
    for request in (ALICE, replace(ALICE, protocol_state=DATA, recipient="", recipient_count=2)):
        served.ask(request)
    first, second = served.demands
    assert first.mail == second.mail == "1f3a.65"
    part = first.charges[0].part
    message = Charge("messages|user:alice", 1, SERVER, "", settles=True, refuses=False)
    assert part
    assert first.charges == (Charge("user:alice", 1, USER, part), message)
    assert second.charges == (Charge("user:alice", 2, USER, settles=True), message)


def test_only_the_rules_that_count_at_a_stage_are_asked() -> None:
    at_the_end = Rule("size", subjects(SERVER), {END_OF_MESSAGE: once})
    served = Served(user(), at_the_end)
    served.ask()
    served.ask(replace(ALICE, protocol_state=END_OF_MESSAGE, recipient_count=1))
    assert [[charge.counter for charge in demand.charges] for demand in served.demands] == [
        ["user:alice"],
        ["user:alice", "size|user:alice"],
    ]


def test_a_rule_that_charges_nobody_leaves_the_others() -> None:
    nobody = Rule("nobody", subjects(SERVER, limit_by_sasl=False), stages(None))
    unlimited = Rule("free", subjects(()), stages(None))
    served = Served(nobody, unlimited, user())
    served.ask()
    assert [charge.counter for charge in served.demands[0].charges] == ["user:alice"]


@pytest.mark.parametrize("turn", [1, -1])
def test_the_tables_of_several_rules_may_answer_in_any_order(turn: int) -> None:
    tables = Later(BURST), Later(None)
    served = Served(user(table=tables[0]), messages(table=tables[1]))
    served.ask()
    assert [table.asked for table in tables] == [[("alice",)]] * 2
    for table in tables[::turn]:
        assert not served.demands
        table.answer()
    assert [charge.limits for charge in served.demands[0].charges] == [BURST, SERVER]


def test_a_rule_in_which_a_table_does_not_limit_is_left_out() -> None:
    tables = Later(()), Later(())
    served = Served(user(table=tables[0]), messages(table=tables[1]), Rule("all", subjects(SERVER), stages(None)))
    served.ask()
    for table in tables:
        table.answer()
    assert [charge.counter for charge in served.demands[0].charges] == ["all|user:alice"]


def test_an_override_is_of_one_rule() -> None:
    served = Served(user(), messages())
    served.service.override([Override("messages|user:alice", BURST, 100)])
    served.ask()
    assert [charge.limits for charge in served.demands[0].charges] == [USER, BURST]
    assert [charge.keep_seconds for charge in served.demands[0].charges] == [0, 3600]
    served.now = 100
    served.ask()
    assert [charge.limits for charge in served.demands[1].charges] == [USER, SERVER]


@pytest.mark.parametrize("counter", ["user:alice", "messages|user:alice"])
def test_whoever_is_blocked_in_one_rule_is_refused(counter: str) -> None:
    served = Served(user(), messages())
    served.service.override([Override(counter, (Limit(0, 1),), 100)])
    served.ask()
    assert served.answers == ["550 blocked"]
    assert not served.demands


def test_a_block_in_a_rule_that_lets_pass_is_only_told() -> None:
    """It is exceeded by each mail, as it would be if the rule refused."""
    served = Served(user(), messages(refuses=False))
    served.service.override([Override("messages|user:alice", (Limit(0, 1),), 100)])
    served.ask()
    assert [charge.limits[0] for charge in served.demands[0].charges] == [USER[0], Limit(0, 1)]


def test_an_override_that_looks_back_further_is_told_for_the_rule_that_it_is_of() -> None:
    served = Served(user(), messages())
    week = (Limit(500, 604_800),)
    assert served.service.override([Override("messages|user:alice", SERVER, 100)]) == 0
    assert served.service.override([Override("messages|user:alice", week, 100)]) == 604_800
    assert served.service.override([Override("gone|user:alice", week, 100)]) == 0  # nothing was counted


def test_requests_that_are_charged_each_are_numbered_once_for_all_rules() -> None:
    each = stages(0)
    served = Served(Rule(DEFAULT, subjects(USER), each), Rule("other", subjects(SERVER), each))
    for _ in range(2):
        served.ask()
    first, second = ([charge.part for charge in demand.charges] for demand in served.demands)
    assert len({*first}) == 1
    assert [*second] == [f"{part}-1" for part in first]
    served.service.unanswered(ALICE)
    served.ask()
    assert [charge.part for charge in served.demands[-1].charges] == second


LET_PASS, BLOCKED = (), (Limit(0, 1),)


@pytest.mark.parametrize(
    "override",
    [
        Override("user:alice", BLOCKED, 100),
        Override("user:alice", LET_PASS, 100),
        Override("messages|user:alice", BLOCKED, 100),
    ],
    ids=["blocked", "let pass", "blocked by another rule"],
)
@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "lost"])
def test_a_request_that_an_override_decides_takes_no_number_from_an_equal_one(
    override: Override, *, is_answered: bool
) -> None:
    served = Served(messages(), Rule(DEFAULT, subjects(USER), stages(0)))
    served.ask()
    served.service.override([override])
    for _ in range(3):
        served.ask()
        if not is_answered:
            served.service.unanswered(ALICE)
    served.service.override([])
    served.ask()
    first, *_, last = (demand.charges[-1] for demand in served.demands if len(demand.charges) == 2)
    assert first.counter == last.counter == "user:alice"
    assert last.part == f"{first.part}-{4 if is_answered else 1}"


class Staff(Source):
    """A source that says nothing of anybody, once it is told to."""

    def __init__(self) -> None:
        super().__init__("staff")
        self._waiting: list[Callable[[str | None], None]] = []

    def known(self, value: str) -> None:
        return None

    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:
        self._waiting.append(done)

    def answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(None)


def test_what_is_in_memory_is_asked_at_once_and_counts_are_kept_for_what_it_may_say_tomorrow() -> None:
    tables = {"staff": Listed("staff", [("bob", None)])}
    key = parse_key("sasl_username", 64)
    overrides = [(parse_pattern("$staff", NAME), (Limit(9, 86_400),))]
    served = Served(Rule("person", KeyedSubjects(key, USER, overrides, tables=tables), MESSAGES))
    served.ask()
    tables["staff"].replace([("ALICE", None)])
    served.ask()
    found = [(charge.limits, charge.keep_seconds) for demand in served.demands for charge in demand.charges]
    assert found == [(USER, 86_400), ((Limit(9, 86_400),), 86_400)]
    assert not served.service.policy.asks_facts


class Slow(Source):
    """A source that says something later, of whatever it is asked; and since when who asked had waited."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name)
        self.text = text
        self.asked: list[tuple[str, float]] = []

    def known(self, value: str) -> None:
        return None

    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:
        self.asked.append((value, began))
        self.answer = partial(done, self.text)


def test_all_tables_are_waited_for_by_one_deadline_and_their_policy_knows_for_how_long() -> None:
    customer, plan = Slow("customer", "acme"), Slow("plan", "business")
    tables = {"customer": Asked("customer", customer), "plan": Asked("plan", plan)}
    of_plan = Condition("$customer(sasl_username)", [parse_pattern("$plan=business", VALUE)], tables)
    served = Served(Rule("messages", subjects(SERVER), MESSAGES, match=Conditions([[of_plan]])))
    policy = served.service.policy
    served.ask()
    assert (policy.waiting, plan.asked, len(customer.asked)) == (1, [], 1)
    time.sleep(0.01)
    customer.answer()
    assert (policy.waiting, served.demands) == (1, [])
    ((_, began),) = customer.asked
    assert plan.asked == [("acme", began)]
    plan.answer()
    assert policy.waiting == 0
    assert len(served.demands) == 1


@pytest.mark.parametrize("is_first", [True, False], ids=["default first", "default last"])
@pytest.mark.parametrize("is_let_pass", [False, True], ids=["limited", "let pass at first"])
@pytest.mark.parametrize("comes_again_before", [False, True], ids=["comes again after", "comes again before"])
def test_what_is_lost_while_it_waits_for_a_table_is_the_same_part_when_it_comes_again(
    *, is_first: bool, is_let_pass: bool, comes_again_before: bool
) -> None:
    staff = Staff()
    is_staff = Condition("sasl_username", [parse_pattern("$staff", NAME)], {"staff": Asked("staff", staff)})
    default = Rule(DEFAULT, subjects(USER), stages(0))
    others = Rule("messages", subjects(SERVER), MESSAGES, unless=Conditions([[is_staff]]))
    served = Served(*([default, others] if is_first else [others, default]))

    def ask() -> Request:
        request = replace(ALICE)
        served.ask(request)
        return request

    ask()
    staff.answer()
    if is_let_pass:
        served.service.override([Override("user:alice", LET_PASS, 100)])
    lost = ask()
    served.service.unanswered(lost)
    served.service.override([])
    if not comes_again_before:
        staff.answer()
    ask()
    staff.answer()
    ask()
    staff.answer()
    parts = [charge.part for demand in served.demands for charge in demand.charges if charge.counter == "user:alice"]
    assert parts == [parts[0], f"{parts[0]}-1", f"{parts[0]}-1", f"{parts[0]}-2"]
