"""Rules and mails of the past of all kinds: what a rehearsal counts is what a model of the promises says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.maillog.mail import Mail, Origin
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal.rehearsing import rehearse
from policyd_rate_limit.rehearsal.result import Rehearsal
from policyd_rate_limit.rehearsal.stages import Stages
from support.examples import examples
from support.model_of_rules import DATA, END, RCPT, Asked, Model, Said, as_text
from support.rehearsed import NOON, REPLY, settings_of
from support.traffic import CLIENTS, RECIPIENTS, SENDERS, SIZES, USERS, files

STAGES = [(RCPT,), (DATA,), (END,), (RCPT, DATA), (DATA, END), (RCPT, DATA, END)]
PAUSES = (0.0, 0.0, 0.5, 1.0, 2.0, 5.25, 19.0, 61.0)
COUNTED = ("mails", "refused", "held", "marked", "warned", "refused_recipients")
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

Sent = tuple[float, str, str, str, tuple[str, ...], int, bool]
"""A pause, user, sender, client, recipients, size, and whether it was refused in the past."""

SOME: st.SearchStrategy[list[Sent]] = st.lists(
    st.tuples(
        st.sampled_from(PAUSES),
        st.sampled_from(USERS),
        st.sampled_from(SENDERS),
        st.sampled_from(CLIENTS),
        st.lists(st.sampled_from(RECIPIENTS), min_size=1, max_size=4, unique=True).map(tuple),
        st.sampled_from(SIZES),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=15,
    max_size=40,
)


def in_the_past(sent: Sequence[Sent]) -> Iterator[Mail]:
    """As a log tells of them; of those that were refused one recipient is known, and no size."""
    now = NOON + 50.0  # shortly before the minute in which some rules begin to hold
    for number, (pause, user, sender, client, recipients, size, was_refused) in enumerate(sent):
        now += pause
        others: dict[str, Any] = {
            "client_address": "" if client == "unknown" else client,
            "sasl_username": user,
            "sender": sender,
            "number": number,
        }
        if was_refused and user:  # or it would be taken to be the user who sent so before
            # Each on a host of its own: it goes on with no other.
            yield Mail(
                now, now, Origin.REJECTED, f"mx{number}", "smtpd", "", **others,
                recipient_count=1, recipients=recipients[:1], stage=RCPT, reply=REPLY,
            )  # fmt: skip
        else:
            yield Mail(
                now, now, Origin.SMTP, "mx", "smtpd", f"{number:X}", **others,
                size=size, recipient_count=len(recipients), recipients=recipients,
            )  # fmt: skip


class Expected:
    """What the model says of each mail, counted by rule."""

    def __init__(self, said: Sequence[Said], stages: Sequence[str]) -> None:
        self.said = said
        self.stages = stages
        self.model = Model()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.refused = 0
        self.refused_recipients = 0

    def put(self, mail: Mail, number: int) -> bool:
        """Whether any of its recipients is refused."""
        of_mail: dict[str, Counter[str]] = defaultdict(Counter)
        passed = list(mail.recipients)
        for stage in self.stages:
            if stage == RCPT:
                passed = [one for one in passed if not self._ask(mail, number, RCPT, [one], of_mail)]
            elif self._ask(mail, number, stage, passed, of_mail):
                passed = []
            if not passed:
                break
        for rule, found in of_mail.items():
            self.counts[rule]["refused_recipients"] += found.pop("refused_recipients", 0)
            for what in +found:
                self.counts[rule][what] += 1
        refused = len(mail.recipients) - len(passed)
        self.refused += refused > 0
        self.refused_recipients += refused
        return refused > 0

    def _ask(
        self, mail: Mail, number: int, stage: str, recipients: Sequence[str], of_mail: dict[str, Counter[str]]
    ) -> bool:
        asked: Asked = {
            "protocol_state": stage,
            "instance": str(number),
            "sasl_username": mail.sasl_username,
            "sender": mail.sender,
            "client_address": mail.client_address,
            "policy_context": "",
            "recipient": recipients[0] if len(recipients) == 1 else "",
            "recipient_count": 0 if stage == RCPT else len(recipients),
            "size": mail.size,
        }
        for name in self.model.charged(self.said, asked, mail.time):
            of_mail[name]["mails"] = 1
        answer = self.model.ask(self.said, asked, mail.time)
        rules = {one.name: one for one in self.said}
        for name, verdict in answer.told:
            found = of_mail[name]
            if verdict == "marked":
                found["held" if (rules[name].action or "").lower().startswith("hold") else "marked"] = 1
            elif verdict == "refused" or (verdict == "would-refuse" and (stage == RCPT or not found["refused"])):
                found["refused"] = 1
                found["refused_recipients"] += len(recipients)
        for name, *_ in answer.warned:
            of_mail[name]["warned"] = 1
        return answer.refused


def counted(result: Rehearsal) -> dict[str, dict[str, int]]:
    return {
        one.name: {what: getattr(one.counts, what) for what in COUNTED if getattr(one.counts, what)}
        for one in result.new.rules
    }


def check(said: Sequence[Said], sent: Sequence[Sent], stages: Sequence[str]) -> Rehearsal:
    mails = list(in_the_past(sent))
    expected = Expected(said, stages)
    newly = 0
    for number, mail in enumerate(mails):
        is_refused = expected.put(mail, number)
        newly += is_refused and mail.origin is Origin.SMTP
    result = rehearse(settings_of(as_text(said)), None, Stages(tuple(stages), ""), iter(mails), Tally())
    assert counted(result) == {one.name: dict(+expected.counts[one.name]) for one in said}
    assert (result.mails, result.new.refused, result.new.refused_recipients) == (
        len(mails),
        expected.refused,
        expected.refused_recipients,
    )
    assert result.newly_refused == newly
    for one in result.new.rules:
        assert sum(found.counts.refused_recipients for found in one.ids) == one.counts.refused_recipients
    assert sum(result.series.refused) == result.new.refused
    return result


@pytest.mark.parametrize("stages", STAGES, ids="+".join)
@settings(UNHURRIED, max_examples=examples(15))
@given(st.data())
def test_what_is_counted_is_what_the_model_says(stages: Sequence[str], data: st.DataObject) -> None:
    check(data.draw(files(most=3)), data.draw(SOME), stages)


@settings(UNHURRIED, max_examples=examples(20))
@given(files(most=2), files(most=2), SOME)
def test_two_configurations_side_by_side_are_what_each_is_alone(
    new: tuple[Said, ...], old: tuple[Said, ...], sent: list[Sent]
) -> None:
    alone = [check(said, sent, (RCPT, DATA, END)) for said in (new, old)]
    both = rehearse(
        settings_of(as_text(new)),
        settings_of(as_text(old)),
        Stages((RCPT, DATA, END), ""),
        in_the_past(sent),
        Tally(),
    )
    assert both.old is not None
    assert both.new.rules == alone[0].new.rules
    assert both.old.rules == alone[1].new.rules
    assert both.newly_refused - both.no_longer_refused == alone[0].new.refused - alone[1].new.refused
    refused = [
        {one.key for rule in result.new.rules if not rule.shadow for one in rule.ids if one.counts.refused}
        for result in alone
    ]
    assert {one.key for ids in both.newly_hit.values() for one in ids} == refused[0] - refused[1]
    assert {one.key for ids in both.no_longer_hit.values() for one in ids} == refused[1] - refused[0]
