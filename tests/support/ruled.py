"""Rules as a configuration has them, decided in memory by a clock of the test's."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.tables import TablesForCommands
from policyd_rate_limit.config.checking import check
from policyd_rate_limit.config.yaml_file import read_yaml
from policyd_rate_limit.domain.charge import Demand, Usage, Waiting
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.outcome import Outcome
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT, Request
from policyd_rate_limit.domain.rules.facts import Countries
from policyd_rate_limit.policy import Actions, Policy
from policyd_rate_limit.protocol.codec import Decoder
from policyd_rate_limit.ruling import make_policy
from policyd_rate_limit.service import Asking, Service
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.system.throttle import Throttle
from support.policies import Nobody

NOON = 1_790_000_000.0 - 1_790_000_000.0 % 86_400 + 12 * 3600
"""A noon, in UTC."""


def policy_of(text: str, countries: Countries | None = None) -> Policy:
    """What a ``.yaml`` of this text says about each mail."""
    return _policy_and_tables(text, countries)[0]


def _policy_and_tables(text: str, countries: Countries | None) -> tuple[Policy, TablesForCommands]:
    settings = check(read_yaml(textwrap.dedent(text), "x.yaml")).settings
    actions = Actions(settings.success_action, settings.fail_action, None, settings.block_action)
    tables = TablesForCommands(settings, backend_of(settings))
    policy = make_policy(settings, make_subjects(settings), None, actions, countries=countries, tables=tables.by_name)
    tables.read()
    return policy, tables


def request(stage: str = RCPT, instance: str = "1f3a.65", **attributes: str | int) -> Request:
    """What Postfix asks at ``stage``, as it is read from a connection."""
    given = {
        "request": "smtpd_access_policy",
        "protocol_state": stage,
        "protocol_name": "ESMTP",
        "client_address": "192.0.2.1",
        "client_name": "client.example",
        "helo_name": "client.example",
        "sender": "alice@example.org",
        "recipient": "bob@example.net" if stage == RCPT else "",
        "recipient_count": 0 if stage == RCPT else 1,
        "queue_id": "",
        "instance": instance,
        "size": 0,
        "sasl_username": "alice@example.org",
        **attributes,
    }
    lines = "".join(f"{name}={value}\n" for name, value in given.items())
    (found,) = Decoder().feed(lines.encode("utf-8", "surrogateescape") + b"\n")
    return found


class Ruled(Asking):
    """A service that decides by the rules of ``text``, and what it answered last."""

    def __init__(self, text: str, now: float = NOON, countries: Countries | None = None) -> None:
        self.now = now
        self.ledger = Ledger(1000)
        self.entries: list[Entry] = []
        self._answers: list[Outcome] = []
        self._mails = 0
        policy, self._tables = _policy_and_tables(text, countries)
        self.service = Service(
            policy,
            self._submit,
            observer=Nobody(),
            uncounted=Throttle(3600, lambda: self.now),
            policy_service="unix:ratelimit/policy",
            explain=self._explain,
            clock=lambda: self.now,
        )

    def reload(self, text: str) -> None:
        self.service.policy, self._tables = _policy_and_tables(text, None)

    def ask(self, asked: Request) -> str:
        """The action that answers ``asked``."""
        self._answers.clear()
        try:
            self.service.ask(asked, self)
        finally:
            self._tables.close()  # it connects again where it has to
        (outcome,) = self._answers
        assert outcome.action is not None
        return outcome.action

    def mail(self, recipients: int = 1, *, size: int = 1000, **attributes: str) -> list[str]:
        """The actions for one mail from its first RCPT on: at each, at DATA and at its end, up to the first refusal."""
        self._mails += 1
        instance = f"{self._mails:x}.0"
        answers: list[str] = []
        for number in range(recipients):
            to: dict[str, str | int] = {"recipient": f"bob{number}@example.net", **attributes}
            answers.append(self.ask(request(RCPT, instance, **to)))
            if answers[-1] != "dunno":
                return answers
        later: dict[str, str | int] = {**attributes, "recipient_count": recipients}
        if recipients > 1 or "recipient" not in later:
            later.pop("recipient", None)
        for stage in (DATA, END_OF_MESSAGE):
            answers.append(self.ask(request(stage, instance, **{**later, "size": size})))
            if answers[-1] != "dunno":
                break
        return answers

    def admitted(self, mails: int, **attributes: str) -> int:
        """How many of so many mails go on their way without any action."""
        return sum(set(self.mail(1, size=1000, **attributes)) == {"dunno"} for _ in range(mails))

    def counted(self, counter: str) -> int:
        """What is in the windows of ``counter``."""
        return sum(amount for name, _, amount in self.ledger.charges() if name == counter)

    def answer(self, outcome: Outcome) -> None:
        self._answers.append(outcome)

    def _submit(self, demand: Demand, waiting: Waiting) -> None:
        self.ledger.advance(self.now)
        waiting.conclude(self.ledger.decide(demand, self.entries))

    def _explain(self, demand: Demand, done: Callable[[tuple[Usage, ...]], None]) -> None:
        done(self.ledger.explain(demand))
