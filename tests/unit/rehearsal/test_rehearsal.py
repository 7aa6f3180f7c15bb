"""What a rehearsal tells of rules and ids, beyond what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.rehearsal import counting
from policyd_rate_limit.rehearsal.ids import Ids
from policyd_rate_limit.rehearsal.result import Counts
from support.rehearsed import NOON, mail, of_id, refusal, rehearsed, rule

PERSON = "rules: {person: {key: sasl_username, limits: %s}}"
ALICE = "user:alice@example.org"


def test_since_when_and_how_long_an_id_has_to_wait() -> None:
    found = of_id(rule(rehearsed(PERSON % "2/1h", [mail(at) for at in (0, 60, 120, 1800)]), "person"), ALICE)
    assert (found.since, found.last, found.limit) == (NOON + 120, NOON + 1800, Limit(2, 3600))
    assert (found.longest_wait, found.free_at) == (3600 - 120, NOON + 3600)
    assert [tuple(peak) for peak in found.peaks] == [(Limit(2, 3600), 2)]


def test_what_costs_more_than_its_limit_is_never_free() -> None:
    found = of_id(rule(rehearsed(PERSON % "2/1h", [mail(0, recipient_count=3)]), "person"), ALICE)
    assert (found.counts.refused_recipients, found.longest_wait, found.free_at) == (3, None, None)


def test_who_exceeds_a_rule_that_blocks_is_blocked_by_the_clock_of_the_log() -> None:
    text = "rules: {person: {key: sasl_username, limits: 1/1m, block: 1h}}"
    found = of_id(rule(rehearsed(text, [mail(at) for at in (0, 30, 1800, 3629, 3700)]), "person"), ALICE)
    assert (found.counts.mails, found.counts.refused, found.counts.blocks) == (5, 3, 1)
    assert found.longest_wait == 3600


def test_a_mail_that_goes_to_some_is_refused_in_part() -> None:
    text = PERSON % "2/1h"
    told = rule(rehearsed(text, [mail(0, recipient_count=3), mail(1, recipient_count=2)], stages=["RCPT"]), "person")
    assert told.counts == Counts(mails=2, refused=2, partly=1, refused_recipients=3)


def test_what_was_refused_then_is_no_news() -> None:
    result = rehearsed(
        PERSON % "1/1h", [mail(0), refusal(60), mail(120, "bob@example.org"), mail(180, "bob@example.org")]
    )
    assert (result.refused_before, result.newly_refused, result.no_longer_refused) == (1, 1, 0)
    assert [one.key for one in result.newly_hit["person"]] == ["user:bob@example.org"]


def test_a_rule_of_another_name_hits_the_same_id() -> None:
    mails = [mail(0), mail(60)]
    assert rehearsed(PERSON % "1/1h", mails, old="limits: 1/1h").newly_hit == {}
    by_client = "rules: {client: {key: client_address, limits: 1/1h}}"
    assert [one.key for one in rehearsed(by_client, mails, old="limits: 1/1h").newly_hit["client"]] == [
        "client:192.0.2.1"
    ]


def test_recipients_without_an_address_are_told_apart_and_in_no_domain() -> None:
    to = "to: {key: sender, count: distinct recipient, limits: 3/1h}"
    text = f"rules: {{{to}, domain: {{key: recipient_domain, limits: 1/1h}}}}"
    result = rehearsed(text, [mail(0, recipient_count=5, recipients=("a@x", "b@x"))])
    assert (rule(result, "to").counts.refused_recipients, rule(result, "domain").counts.refused_recipients) == (1, 1)


def test_mails_that_no_rule_charges_are_counted() -> None:
    assert rehearsed(PERSON % "1/1h", [mail(0, ""), mail(1)]).new.unlimited == 1


def test_tables_in_files_are_read_and_what_does_not_answer_is_told(tmp_path: Path) -> None:
    (tmp_path / "staff").write_text("alice@example.org\n")
    text = f"""
        sqlite_config: {{database: {tmp_path / "missing.sqlite3"}}}
        tables: {{staff: "file:{tmp_path / "staff"}", plan: "sql:SELECT plan FROM mailbox WHERE address = ?"}}
        rules: {{person: {{key: sasl_username, limits: 1/1h, overrides: {{$plan=large: 9/1h, $staff: 2/1h}}}}}}
    """
    result = rehearsed(text, [mail(at) for at in range(3)])
    assert rule(result, "person").counts.refused == 1
    (told,) = result.remarks
    assert told.startswith("tables.plan does not answer, and is taken to say nothing: ")


def test_refusals_at_a_stage_at_which_nobody_is_taken_to_ask_are_remarked() -> None:
    (told,) = rehearsed(PERSON % "1/1h", [refusal(0)]).remarks
    assert "--stage RCPT" in told


def test_ids_are_bounded_and_those_that_were_refused_stay_longest() -> None:
    ids = Ids("person", most_kept=8)
    for number in range(8):
        ids.begin(f"person|user:{number}", (), number).refused = number % 2
    ids.begin("person|user:new", (), 100)
    assert (len(ids.states), ids.forgotten, ids.dropped) == (7, 2, 0)
    for number in range(20):
        ids.begin(f"person|user:more-{number}", (), 101 + number).refused = 5
    told, others, counts = ids.told()
    assert len(ids.states) <= 8
    assert ids.dropped > 0
    assert sum(one.counts.refused for one in told) + counts.refused == 4 + 20 * 5
    assert others == ids.dropped


def test_those_of_the_mail_at_hand_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "Ids", lambda name: Ids(name, most_kept=2))
    text = "rules: {to: {key: recipient, limits: 0/1h}}"
    names = tuple(f"{number}@x" for number in range(9))
    told = rule(rehearsed(text, [mail(0, recipient_count=9, recipients=names)]), "to")
    assert told.counts.refused_recipients == 9
    assert len(told.ids) == 9
