"""What a request costs, from the requests that Postfix sends to what lies in the windows.

The model keeps, for each mail, what was charged for whom, and adds it all up each time.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import reduce
from operator import and_, or_

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from policyd_rate_limit.domain.charge import Demand, Waiting
from policyd_rate_limit.domain.counting import (
    DIGEST_CHARACTERS,
    MOST_INSTANCE,
    MOST_SIZE,
    QUESTIONS_PER_GENERATION,
    Cost,
    Repetitions,
    digest,
    mail_id,
    stages,
    stages_of_unit,
)
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT, Request
from policyd_rate_limit.policy import Actions
from policyd_rate_limit.service import Service
from policyd_rate_limit.system.throttle import Throttle
from support.callbacks import Answering
from support.examples import examples
from support.policies import Nobody, policy, subjects

T0 = 1_700_000_000.0
MODES = (None, 0, 1, 2)
COUNTED = {None: {RCPT, DATA, END_OF_MESSAGE}, 0: {RCPT}, 1: {DATA}, 2: {DATA}}
LIMITS = (Limit(5, 10), Limit(9, 60))


def request(stage: str = RCPT, mail: str = "mail", recipient: str = "", count: int = 0) -> Request:
    return Request(stage, mail, "", "alice", "alice@example.org", recipient, "192.0.2.1", count)


class Daemon:
    """A service and a ledger, and the entries that outlive it."""

    def __init__(self, count_mode: int | None) -> None:
        self.count_mode = count_mode
        self.now = T0
        self.entries: list[Entry] = []
        self.restart()

    def restart(self) -> None:
        """As after ``kill -9``: nothing but the entries is left."""
        self.ledger = Ledger(1000)
        self.ledger.advance(self.now)
        for entry in self.entries:
            self.ledger.apply(entry)
        self.service = Service(
            policy(subjects(LIMITS), Actions("success", "fail", None, "block"), self.count_mode),
            self._submit,
            observer=Nobody(),
            uncounted=Throttle(60, lambda: 0.0),
            policy_service="unix:policy",
        )

    def _submit(self, demand: Demand, waiting: Waiting) -> None:
        waiting.conclude(self.ledger.decide(demand, self.entries))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.advance(self.now)

    def ask(self, asked: Request) -> bool:
        """Whether ``asked`` is admitted."""
        answers: list[str | None] = []
        self.service.ask(asked, Answering(answers.append))
        assert answers in (["success"], ["fail"])
        return answers == ["success"]

    def usage(self) -> tuple[int, ...]:
        return self.ledger.windows.usage("user:alice", LIMITS)


class Model:
    """What each request costs, and whether that is within the limits."""

    def __init__(self, count_mode: int | None) -> None:
        self.count_mode = count_mode
        self.charges: list[list[float]] = []  # [time, amount], all that was ever admitted
        self.of_mail: dict[int, list[list[float]]] = {}
        self.recipients: dict[int, set[str]] = {}

    def usage(self, now: float) -> tuple[int, ...]:
        return tuple(
            sum(int(amount) for time, amount in self.charges if math.ceil(time) + limit.seconds > math.floor(now))
            for limit in LIMITS
        )

    def charged(self, mail: int) -> int:
        return sum(int(amount) for _, amount in self.of_mail.get(mail, ()))

    def ask(self, stage: str, mail: int, recipient: str, count: int, now: float) -> bool:
        """A request that is not one that is sent again."""
        if stage not in COUNTED[self.count_mode]:
            return True
        if self.count_mode is None and stage == RCPT:
            known = self.recipients.setdefault(mail, set())
            if recipient in known:
                return True
            admitted = self._charge(mail, 1, now)
            if admitted:
                known.add(recipient)
            return admitted
        if self.count_mode is None:
            missing = max(1, count) - self.charged(mail)
            if missing >= 0:
                return missing == 0 or self._charge(mail, missing, now)
            for charge in reversed(self.of_mail[mail]):
                taken = min(-missing, int(charge[1]))
                charge[1] -= taken
                missing += taken
            return True
        return self._charge(mail, max(1, count) if self.count_mode == 1 else 1, now)

    def _charge(self, mail: int, cost: int, now: float) -> bool:
        used = self.usage(now)
        if any(use + cost > limit.maximum for use, limit in zip(used, LIMITS, strict=True)):
            return False
        charge = [now, float(cost)]
        self.charges.append(charge)
        self.of_mail.setdefault(mail, []).append(charge)
        return True


class Session:
    """An smtpd process: it has a mail at a time."""

    def begin(self, mail: int) -> None:
        self.mail = mail
        self.accepted: list[str] = []
        self.stage = RCPT


class PostfixAsks(RuleBasedStateMachine):
    """Some smtpd processes, one daemon, any interleaving, against the model."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.mails = 0
        self.all_sessions: list[Session] = []

    @initialize(count_mode=st.sampled_from(MODES), hooked=st.sets(st.sampled_from([RCPT, DATA, END_OF_MESSAGE])))
    def start(self, count_mode: int | None, hooked: set[str]) -> None:
        self.hooked = hooked
        self.daemon = Daemon(count_mode)
        self.model = Model(count_mode)

    def _next_mail(self, session: Session) -> None:
        self.mails += 1
        session.begin(self.mails)

    def _ask(self, session: Session, recipient: str, lost: bool) -> bool:
        """``lost``: the answer is, on its way; Postfix asks again over a new connection."""
        if session.stage not in self.hooked:
            return True
        count = len(session.accepted) if session.stage != RCPT else 0
        asked = request(session.stage, f"mail{session.mail}", recipient, count)
        expected = self.model.ask(session.stage, session.mail, recipient, count, self.daemon.now)
        if lost:
            assert self.daemon.ask(asked) == expected
            self.daemon.service.unanswered(asked)
        assert self.daemon.ask(asked) == expected
        return expected

    @rule(target=sessions)
    def connect(self) -> Session:
        session = Session()
        self._next_mail(session)
        self.all_sessions.append(session)
        return session

    @rule(
        session=sessions,
        recipient=st.sampled_from(["a", "b", "c", "d", ""]),
        lost=st.booleans(),
        refused_elsewhere=st.sampled_from([False, False, True]),
    )
    def rcpt(self, session: Session, recipient: str, lost: bool, refused_elsewhere: bool) -> None:
        """``refused_elsewhere``: by a restriction that follows ours in main.cf."""
        if session.stage == RCPT and self._ask(session, recipient, lost) and not refused_elsewhere:
            session.accepted.append(recipient)

    @rule(session=sessions, lost=st.booleans(), refused_elsewhere=st.booleans())
    def data(self, session: Session, lost: bool, refused_elsewhere: bool) -> None:
        """A mail that is refused at DATA goes on: with more recipients, or with DATA again."""
        if session.stage != RCPT or not session.accepted:
            return
        session.stage = DATA
        recipient = session.accepted[0] if len(session.accepted) == 1 else ""
        if self._ask(session, recipient, lost) and not refused_elsewhere:
            session.stage = END_OF_MESSAGE
        else:
            session.stage = RCPT

    @rule(session=sessions, lost=st.booleans())
    def end_of_message(self, session: Session, lost: bool) -> None:
        if session.stage == END_OF_MESSAGE:
            admitted = self._ask(session, session.accepted[0] if len(session.accepted) == 1 else "", lost)
            if admitted and self.daemon.count_mode is None and self.hooked & {DATA, END_OF_MESSAGE}:
                assert self.model.charged(session.mail) == len(session.accepted)
            self._next_mail(session)

    @rule(session=sessions)
    def rset(self, session: Session) -> None:
        """The client gives the mail up: what was charged for it stays."""
        self._next_mail(session)

    @rule(seconds=st.floats(0, 12, allow_nan=False))
    def wait(self, seconds: float) -> None:
        self.daemon.advance(seconds)

    @rule()
    def restart(self) -> None:
        """In the modes that charge equal requests each, nobody knows now which of them were answered."""
        self.daemon.restart()
        if self.daemon.count_mode is not None:
            for session in self.all_sessions:
                self._next_mail(session)

    @invariant()
    def charged_as_the_model_says(self) -> None:
        if hasattr(self, "daemon"):
            usage = self.daemon.usage()
            assert usage == self.model.usage(self.daemon.now)
            assert all(used <= limit.maximum for used, limit in zip(usage, LIMITS, strict=True))


TestPostfixAsks = PostfixAsks.TestCase
TestPostfixAsks.settings = settings(max_examples=examples(100), stateful_step_count=40)


@pytest.mark.parametrize(
    ("count_mode", "stage", "count", "cost"),
    [
        (None, RCPT, 0, 1),
        (None, DATA, 3, 3),
        (None, DATA, 0, 1),
        (None, END_OF_MESSAGE, 3, 3),
        (0, RCPT, 0, 1),
        (0, DATA, 3, 0),
        (0, END_OF_MESSAGE, 3, 0),
        (1, RCPT, 0, 0),
        (1, DATA, 3, 3),
        (1, DATA, 0, 1),
        (1, END_OF_MESSAGE, 3, 0),
        (2, RCPT, 0, 0),
        (2, DATA, 3, 1),
        (2, END_OF_MESSAGE, 3, 0),
        *((mode, stage, 3, 0) for mode in MODES for stage in ("CONNECT", "EHLO", "MAIL", "VRFY", "ETRN", "")),
    ],
)
def test_what_one_request_costs(count_mode: int | None, stage: str, count: int, cost: int) -> None:
    daemon = Daemon(count_mode)
    assert daemon.ask(request(stage, count=count))
    assert daemon.usage() == (cost, cost)


@pytest.mark.parametrize(("count_mode", "stage"), [(0, RCPT), (1, DATA), (2, DATA)])
def test_an_equal_request_that_was_answered_before_costs_again(count_mode: int, stage: str) -> None:
    daemon = Daemon(count_mode)
    assert [daemon.ask(request(stage, count=1)) for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize(("count_mode", "stage"), [(None, RCPT), (None, DATA), (0, RCPT), (1, DATA), (2, DATA)])
@pytest.mark.parametrize("restart", [False, True])
def test_what_got_no_answer_is_charged_once(count_mode: int | None, stage: str, restart: bool) -> None:
    daemon = Daemon(count_mode)
    for _ in range(4):
        assert daemon.ask(request(stage, count=1))
        if restart:
            daemon.restart()
        else:
            daemon.service.unanswered(request(stage, count=1))
    assert daemon.usage() == (1, 1)


@pytest.mark.parametrize("count_mode", [1, None])
def test_a_mail_that_comes_to_data_twice_with_more_recipients(count_mode: int | None) -> None:
    """The client makes another restriction refuse the first DATA, such as reject_unauth_pipelining."""
    daemon = Daemon(count_mode)
    assert daemon.ask(request(DATA, count=1))
    daemon.restart()
    assert not daemon.ask(request(DATA, count=8))
    assert daemon.ask(request(DATA, count=4))
    assert daemon.usage() == ((5, 5) if count_mode == 1 else (4, 4))


def test_eleven_recipients_against_a_limit_of_ten_do_not_pass_for_ever() -> None:
    """Recipients that were accepted stay counted when a later one of the same mail is refused."""
    for count_mode in (None, 0):
        daemon = Daemon(count_mode)
        for mail in range(3):
            answers = [daemon.ask(request(RCPT, f"mail{mail}", f"r{number}")) for number in range(6)]
            assert answers == [mail == 0] * 5 + [False]


@pytest.mark.parametrize("count_mode", [None, 0, 1, 2])
def test_without_an_instance_each_request_is_a_mail_of_its_own(count_mode: int | None) -> None:
    daemon = Daemon(count_mode)
    stage = RCPT if RCPT in COUNTED[count_mode] else DATA
    for _ in range(3):
        assert daemon.ask(request(stage, mail="", count=1))
        daemon.service.unanswered(request(stage, mail="", count=1))
    assert daemon.usage() == (3, 3)


def test_what_is_given_back_late_is_given_back_once() -> None:
    """A client may take longer between RCPT and END-OF-MESSAGE than a restarted daemon remembers."""
    daemon = Daemon(None)
    limits = (Limit(9, 10_000),)
    for recipient in "abc":
        assert daemon.ask(request(RCPT, recipient=recipient))
    daemon.advance(REMEMBERED_SECONDS + 1)
    for stage in (DATA, END_OF_MESSAGE, END_OF_MESSAGE):
        assert daemon.ask(request(stage, count=1))
        assert daemon.ledger.windows.usage("user:alice", limits) == (1,)
    daemon.restart()
    assert daemon.ledger.windows.usage("user:alice", limits) == (1,)


def test_unanswered_requests_at_stages_that_do_not_count() -> None:
    daemon = Daemon(0)
    daemon.service.unanswered(request(DATA))
    daemon.service.unanswered(request(RCPT))
    assert daemon.ask(request(RCPT))
    assert daemon.ask(request(RCPT))
    assert daemon.usage() == (2, 2)


def test_the_memory_of_repetitions_is_bounded() -> None:
    repetitions = Repetitions()
    assert [repetitions.part("q") for _ in range(3)] == ["q", "q-1", "q-2"]
    for number in range(QUESTIONS_PER_GENERATION):
        repetitions.part(f"other{number}")
    assert repetitions.part("q") == "q-3"
    repetitions.unanswered("q")
    repetitions.unanswered("never asked")
    assert repetitions.part("q") == "q-3"
    for number in range(2 * QUESTIONS_PER_GENERATION):
        repetitions.part(f"more{number}")
    assert repetitions.part("q") == "q"


@given(st.text(max_size=200))
def test_the_id_of_a_mail_is_bounded(instance: str) -> None:
    assert len(mail_id(instance)) <= MOST_INSTANCE
    assert (mail_id(instance) == instance) == (len(instance) <= MOST_INSTANCE)


def test_digests_take_any_bytes() -> None:
    texts = ["", "a", "A", "ä", "\udcff", "\udcfe", "a" * 100_000]
    assert len({digest(text) for text in texts}) == len(texts)
    assert {len(digest(text)) for text in texts} == {DIGEST_CHARACTERS}


def test_a_digest_is_too_long_to_be_searched_for() -> None:
    """Two texts with one digest are found after 2**72 tries, and need a longer time than anybody has."""
    bits = 8 * len(base64.b64decode(digest("alice@example.org"), validate=True))
    assert bits >= 128
    # No bit of it is always the same.
    digests = [int.from_bytes(base64.b64decode(digest(str(number)))) for number in range(200)]
    assert reduce(or_, digests) == 2**bits - 1
    assert reduce(and_, digests) == 0


@pytest.mark.parametrize("count_mode", MODES)
def test_recipients_that_were_found_for_their_digests_are_counted_each(count_mode: int | None) -> None:
    """These two have the same one of 64 bits by BLAKE2b, which recipients were known by once."""
    found = ("victim1+illhemgffcimnjlp@e.com", "victim1+ighahnahhkenbjng@e.com")
    assert len({hashlib.blake2b(address.encode(), digest_size=8).digest() for address in found}) == 1
    daemon = Daemon(count_mode)
    for address in found:
        assert daemon.ask(request(RCPT, recipient=address))
    assert daemon.usage() == ((2, 2) if RCPT in COUNTED[count_mode] else (0, 0))


def test_every_mode_counts_at_the_stages_of_the_specification() -> None:
    assert {mode: set(stages(mode)) for mode in MODES} == COUNTED


def with_size(size: str) -> Request:
    return Request(END_OF_MESSAGE, "1.0", "", "a", "", "", "", 2, f"request=smtpd_access_policy\nsize={size}\n\n")


@pytest.mark.parametrize(
    ("unit", "by_recipient", "expected"),
    [
        ("recipients", False, {RCPT, DATA, END_OF_MESSAGE}),
        ("recipients", True, {RCPT}),
        ("messages", False, {RCPT, DATA, END_OF_MESSAGE}),
        ("messages", True, {RCPT}),
        ("bytes", False, {END_OF_MESSAGE}),
    ],
)
def test_a_unit_is_counted_where_it_is_known(unit: str, by_recipient: bool, expected: set[str]) -> None:
    assert {*stages_of_unit(unit, by_recipient=by_recipient)} == expected


def test_a_message_is_one_at_each_stage() -> None:
    costs = [cost(with_size("7")) for cost in stages_of_unit("messages", by_recipient=False).values()]
    assert costs == [Cost(1, "", settles=True)] * 3


@pytest.mark.parametrize(
    ("size", "amount"),
    [
        ("0", 0),
        ("1234", 1234),
        ("", 0),
        ("-1", 0),
        ("1e9", 0),
        ("٣", 0),
        ("9" * 30, MOST_SIZE),
        (str(MOST_SIZE), MOST_SIZE),
    ],
)
def test_the_size_of_a_mail_is_its_bytes(size: str, amount: int) -> None:
    assert stages_of_unit("bytes", by_recipient=False)[END_OF_MESSAGE](with_size(size)) == Cost(
        amount, "", settles=True
    )
