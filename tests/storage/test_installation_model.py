"""Daemons, kills, reloads and commands in any order, against a model that keeps each charge and adds them up.

Two daemons share a database and a clock that stands until it is moved. What a daemon answers, and what it then knows to
lie in the windows, is what the model says: neither more nor less.
"""

from __future__ import annotations

import contextlib
import math
import operator
import pathlib
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from policyd_rate_limit.domain.limits import PER_MAIL, Limit, Limits, longest_of, windows_of
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT, Request
from policyd_rate_limit.storage.administration import Override
from storage.installation import Installed, LogPlace, Place, PostgresqlPlace, RedisPlace
from storage.logs import PostgresqlLogs
from storage.redis_stores import new_prefix
from storage.stores import START, Clock, in_memory
from support.actors import TESTER
from support.examples import examples

MAIL_SECONDS = 20  # all requests of one mail come within so many: less than any window
WINDOWS = (60, 100, 1_000, 5_000)
USERS = ("alice", "bob")
UNLIMITED: Limits = ()
BLOCKED: Limits = (Limit(0, 1),)

SECONDS = operator.itemgetter(1)  # of a limit

EXAMPLES = settings(
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example takes minutes
)
windows = st.lists(
    st.builds(Limit, st.integers(1, 9), st.sampled_from(WINDOWS)),
    min_size=1,
    max_size=2,
    unique_by=lambda one: one.seconds,
).map(tuple)
per_mail = st.builds(Limit, st.integers(1, 4), st.just(PER_MAIL))
limits_in_files = st.one_of(windows, st.builds(lambda one, others: (one, *others), per_mail, windows | st.just(())))
users = st.sampled_from(USERS)
daemons = st.integers(0, 1)


@dataclass
class Charge:
    """``amount`` of it is left."""

    time: float
    amount: int
    mail: str


class Model:
    """The one rule of counting, and what the commands are documented to do, in the simplest way."""

    def __init__(self) -> None:
        self.charges: dict[str, list[Charge]] = defaultdict(list)
        self.recipients: dict[str, set[str]] = defaultdict(set)
        self.overrides: dict[str, Override] = {}

    def limits(self, user: str, usual: Limits, now: float) -> Limits:
        override = self.overrides.get(user)
        return usual if override is None or override.until <= now else override.limits

    def used(self, user: str, seconds: int, now: float) -> int:
        charges = self.charges[user] if seconds != PER_MAIL else ()
        return sum(charge.amount for charge in charges if math.ceil(charge.time) + seconds > math.floor(now))

    def ask(self, request: Request, limits: Limits, now: float) -> bool:
        user, mail = request.sasl_username, request.instance
        if not limits:
            return True
        if limits == BLOCKED:
            return False
        of_mail = [charge for charge in self.charges[user] if charge.mail == mail]
        charged = sum(charge.amount for charge in of_mail)
        if request.protocol_state == RCPT:
            if request.recipient in self.recipients[mail]:
                return True
            missing = 1
        else:
            missing = max(1, request.recipient_count) - charged
            for charge in reversed(of_mail):
                taken = min(max(0, -missing), charge.amount)
                charge.amount -= taken
                missing += taken
        if missing > 0:
            used = [charged if limit.is_per_mail else self.used(user, limit.seconds, now) for limit in limits]
            if any(before + missing > limit.maximum for before, limit in zip(used, limits, strict=True)):
                return False
            self.charges[user].append(Charge(now, missing, mail))
        if request.protocol_state == RCPT:
            self.recipients[mail].add(request.recipient)
        return True

    def reset(self, user: str) -> int:
        """All that was ever counted, whatever the windows are."""
        taken = sum(charge.amount for charge in self.charges[user])
        for charge in self.charges[user]:
            charge.amount = 0
        return taken


class Installation(RuleBasedStateMachine):
    """With one count_mode: unset."""

    second_of_a_reset = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.clock = Clock(START)
        self.mails_since = self.clock.now
        self.mail_names = 0
        self.running: list[Installed] = []
        self._files = contextlib.ExitStack()
        self.directory = pathlib.Path(self._files.enter_context(tempfile.TemporaryDirectory(dir=in_memory())))

    def place(self) -> Place:
        return LogPlace(self.directory, self.clock)

    def fit(self, limits: Limits) -> Limits:
        """Limits as the database can keep counts for."""
        return limits

    @initialize(limits=limits_in_files)
    def start(self, limits: Limits) -> None:
        self.file = self.fit(limits)
        self.at = self.place()
        self.running = [Installed(self.at, self.file, None) for _ in range(2)]

    def teardown(self) -> None:
        for daemon in self.running:
            daemon.die()
        self._files.close()

    @property
    def now(self) -> float:
        return self.clock.now

    def of_mail(self, user: str, mail: int, **attributes: Any) -> Request:
        return Request(
            **{
                "protocol_state": RCPT,
                "instance": f"{user}.{self.mail_names}.{mail}",
                "queue_id": "",
                "sasl_username": user,
                "sender": "s@example.org",
                "recipient": "",
                "client_address": "192.0.2.1",
                "recipient_count": 0,
                **attributes,
            }
        )

    def ask(self, which: int, request: Request) -> None:
        daemon = self.running[which]
        limits = self.model.limits(request.sasl_username, daemon.limits, self.now)
        expected = self.model.ask(request, limits, self.now)
        assert daemon.ask(request) == expected

    @rule(which=daemons, user=users, mail=st.integers(0, 2), recipient=st.sampled_from("abc"))
    def recipient(self, which: int, user: str, mail: int, recipient: str) -> None:
        self.ask(which, self.of_mail(user, mail, recipient=recipient))

    @rule(
        which=daemons,
        user=users,
        mail=st.integers(0, 2),
        count=st.integers(0, 5),
        stage=st.sampled_from([DATA, END_OF_MESSAGE]),
    )
    def whole_mail(self, which: int, user: str, mail: int, count: int, stage: str) -> None:
        self.ask(which, self.of_mail(user, mail, protocol_state=stage, recipient_count=count))

    @rule(seconds=st.sampled_from([1, 5, 19, *WINDOWS]), more=st.sampled_from([-1, 0, 1, 0.5]))
    def pass_time(self, seconds: int, more: float) -> None:
        self.clock.now += max(0, seconds + more)
        if self.now - self.mails_since > MAIL_SECONDS:
            self.mails_since = self.now
            self.mail_names += 1

    @rule(limits=limits_in_files, which=st.sampled_from([(0,), (1,), (0, 1), ()]))
    def reload(self, limits: Limits, which: tuple[int, ...]) -> None:
        self.file = self.fit(limits)
        for number in which:
            self.running[number].reload(self.file)

    @rule(which=daemons, kill=st.booleans())
    def restart(self, which: int, kill: bool) -> None:
        if kill:
            self.running[which].die()
        else:
            self.running[which].close()
        self.running[which] = Installed(self.at, self.file, None)

    @rule(user=users)
    def reset(self, user: str) -> None:
        with contextlib.closing(self.at.administration(longest_of(self.file))) as administration:
            administration.reset(f"user:{user}", TESTER)
        self.model.reset(user)
        self.clock.now += self.second_of_a_reset

    @rule(
        user=users,
        limits=st.one_of(windows, st.sampled_from([UNLIMITED, BLOCKED])),
        seconds=st.sampled_from([1, 30, 500]),
    )
    def allow_or_block(self, user: str, limits: Limits, seconds: int) -> None:
        with contextlib.closing(self.at.administration(longest_of(self.file))) as administration:
            override = Override(f"user:{user}", self.fit(limits), administration.now() + seconds)
            administration.set_override(override, TESTER)
        self.model.overrides[user] = override
        self.heed()

    @rule(user=users)
    def revoke(self, user: str) -> None:
        with contextlib.closing(self.at.administration(longest_of(self.file))) as administration:
            administration.remove_override(f"user:{user}", TESTER)
        self.model.overrides.pop(user, None)
        self.heed()

    def heed(self) -> None:
        """Within a second all daemons know of it."""
        for daemon in self.running:
            daemon.maintain()

    @invariant()
    def the_windows_are_those_of_the_model(self) -> None:
        for daemon in self.running:
            for user in USERS:
                limits = self.model.limits(user, daemon.limits, self.now) or daemon.limits
                assert daemon.usage(f"user:{user}", limits) == tuple(
                    self.model.used(user, limit.seconds, self.now) for limit in limits
                )


class OnPostgresql(Installation):
    """In a database of its own for each run."""

    def place(self) -> Place:
        logs = PostgresqlLogs(self.directory)
        self._files.callback(logs.close)
        return PostgresqlPlace(self.directory, self.clock, logs.config)


class OnRedis(Installation):
    """With the same windows all the time: keys hold no more than the ones in use need.

    What a mail is charged in the second of a reset is taken for given back, if it was charged before that: it may be
    charged for it again, which is the strict side. So that second passes.
    """

    second_of_a_reset = 1
    url: str

    def place(self) -> Place:
        return RedisPlace(self.directory, self.clock, {"url": self.url, "prefix": new_prefix()})

    def fit(self, limits: Limits) -> Limits:
        if limits in (UNLIMITED, BLOCKED):
            return limits
        of_one_mail = tuple(limit for limit in limits if limit.is_per_mail)
        others = windows_of(limits) or limits
        return (*of_one_mail, *[Limit(others[at % len(others)].maximum, WINDOWS[at + 1]) for at in range(2)])


@pytest.mark.hypothesis
@pytest.mark.parametrize(("machine", "runs"), [(Installation, 50), (OnPostgresql, 4)], ids=["sqlite", "postgresql"])
def test_on_a_log(machine: type[Installation], runs: int) -> None:
    run_state_machine_as_test(machine, settings=settings(EXAMPLES, max_examples=examples(runs)))


@pytest.mark.hypothesis
def test_on_redis(redis_url: str) -> None:
    class Here(OnRedis):
        url = redis_url

    run_state_machine_as_test(Here, settings=settings(EXAMPLES, max_examples=examples(20)))


@pytest.mark.parametrize("restarts", [False, True])
def test_a_reset_takes_back_what_a_longer_window_holds_later(
    tmp_path: pathlib.Path, clock: Clock, restarts: bool
) -> None:
    """``reset`` reads the configuration of that time, whose windows are shorter."""
    place = LogPlace(tmp_path, clock)
    longer, shorter = (Limit(7, 1_000),), (Limit(7, 60),)
    daemon = Installed(place, longer, None)
    other = Installed(place, longer, None)  # of another host, perhaps, with another configuration
    mail = Request(DATA, "mail", "", "alice", "", "", "", 5)
    assert daemon.ask(mail)
    clock.now += 100
    for one in (daemon, other):
        assert not one.ask(replace(mail, instance="too many"))
    daemon.reload(shorter)
    with contextlib.closing(place.administration(longest_of(shorter))) as administration:
        assert administration.reset("user:alice", TESTER) == 0  # in the windows that it knows
    if restarts:
        daemon.die()
        daemon = Installed(place, longer, None)
    else:
        daemon.reload(longer)
    assert daemon.usage("user:alice", longer) == other.usage("user:alice", longer) == (0,)
    assert other.ask(replace(mail, instance="again"))
    assert not daemon.ask(replace(mail, instance="too many again"))
    daemon.close()
    other.close()
