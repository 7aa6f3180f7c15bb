"""What ``simulate`` makes of the log of a real Postfix is, mail for mail, what the real daemon has answered to it."""

from __future__ import annotations

import json
import os
import pathlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from support import maillog_model as model
from support.commands import call
from support.daemon import Daemon
from support.mail_server import mail_server
from support.postfix import Postfix, Sent, send
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

MAILS = 36
LAST = "last@example.net"
RULES: Mapping[str, Mapping[str, Any]] = {
    "one-mail": {"key": "sasl_username", "limits": "3/mail", "action": "450 4.7.1 {rule} of {key}: {used} in one mail"},
    "person": {
        "key": "sasl_username",
        "limits": ["9/1h", "12/1d"],
        "warn": 50,
        "match": {"sasl_username": ["alice", "bob"]},
    },
    "clients": {
        "key": "client_address",
        "count": "messages",
        "limits": "3/1h",
        "match": {"sasl_username": "carol"},
        "block": "1h",
    },
    "told": {"key": "server", "count": "messages", "limits": "10/1h", "shadow": True},
}
AT_DATA = {
    **RULES,
    "news": {
        "key": "sender_domain",
        "count": "messages",
        "limits": "3/1h",
        "match": {"sender": ["*-sales@*", "*-info@*"]},
        "unless": {"sasl_username": "bob"},
        "action": "HOLD {rule}",
    },
    "names": {"key": "sasl_username", "count": "distinct sender", "limits": "2/1d", "action": "prepend X-Rate: {used}"},
}
EVERYWHERE = {
    **RULES,
    "news": {
        "key": "sender",
        "count": "messages",
        "limits": "1/1h",
        "match": {"sasl_username": "x"},
        "action": "HOLD {rule}",
    },
    "names": {
        "key": "client_address",
        "count": "distinct recipient",
        "limits": "9/1d",
        "action": "prepend X-Rate: {key}",
    },
    # What was refused by it in the past would have no size in Postfix's log.
    "volume": {
        "key": "sasl_username",
        "count": "bytes",
        "limits": "100k/1h",
        "match": {"sasl_username": "bob"},
    },
}

Truth = dict[str, Counter[str]]
"""By rule: mails that were refused, held, marked and warned of, and refused recipients."""


@pytest.mark.parametrize(
    ("hooks", "rules", "most_recipients", "senders"),
    [
        # Of a mail to more than two that is refused at DATA a log of Postfix does not say to how many it was.
        (("DATA",), AT_DATA, 2, ("", "2", "-sales", "-info")),
        # Nor, before version 3.9 or so, whose a mail was all of whose recipients are refused.
        (("RCPT", "DATA", "END-OF-MESSAGE"), EVERYWHERE, 5, ("",)),
    ],
    ids=["at DATA", "everywhere"],
)
def test_what_is_told_of_the_past_is_what_was_answered_then(
    tmp_path: pathlib.Path,
    hooks: Sequence[str],
    rules: Mapping[str, Any],
    most_recipients: int,
    senders: Sequence[str],
) -> None:
    settings: dict[str, Any] = {"limits": "20/1h", "rules": rules, "debug": True, "log_format": "json"}
    with mail_server(tmp_path, hooks, **settings) as (postfix, daemon):
        answered = list(traffic(postfix, most_recipients, senders))
        log = tmp_path / "mail.log"
        decisions = tmp_path / "decisions.log"
        answered.append(postfix.send("z", [LAST]))
        wait_until(lambda: f": to=<{LAST}>" in postfix.log_text(), "all is logged")
        log.write_bytes((postfix.root / "mail.log").read_bytes())
    decisions.write_text(daemon.log_text())  # all of it, as it has ended
    truth = truth_of(decisions.read_text().splitlines(), answered)
    stages = [word for hook in hooks for word in ("--stage", hook)]

    alone = simulated(daemon, *stages, str(log))
    assert counted(alone["rules"]) == truth
    assert alone["refused"] == sum(bool(one.refused) or not one.ok for one in answered)
    assert alone["mails"] == len(answered)
    assert alone["newly_hit"] == {}
    assert {name for name, counts in truth.items() if counts["refused"]} >= {"person", "clients", "told"}
    assert truth["news"]["held"]
    assert truth["names"]["marked"]
    assert truth["person"]["warned"]
    if "RCPT" in hooks:
        assert truth["one-mail"]["refused"]
        assert 0 < alone["rules"]["volume"]["mails"] < alone["rules"]["person"]["mails"]

    lines = [model.line_of(line) for line in log.read_text().splitlines()]
    for form in model.FORMS:  # the same lines, as other programs would have written them
        other = tmp_path / "other.log"
        other.write_bytes(model.render(lines, form))
        assert counted(simulated(daemon, "--zone", "UTC", *stages, str(other))["rules"]) == truth, form

    exact = simulated(daemon, *stages, str(decisions), str(log))
    assert counted(exact["rules"]) == truth
    assert exact["mails"] == len(answered)
    assert exact["log"]["known_from_decisions"] == len(answered)


def simulated(daemon: Daemon, *arguments: str) -> Any:
    """What it tells, for which it needs no daemon: nobody who was refused then is refused for the first time."""
    own = daemon.path.parent / "home" / ".config" / "policyd-rate-limit.yaml"
    if not own.exists():
        own.parent.mkdir(parents=True)
        own.symlink_to(daemon.path)  # is what is in force here, whatever the machine has in /etc
    home = str(own.parent.parent)
    done = call(daemon.path, "simulate", "--json", *arguments, env={**os.environ, "HOME": home})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counted(rules: Mapping[str, Any]) -> Truth:
    """What is told of each rule, without what is 0."""
    what = ("refused", "held", "marked", "warned", "refused_recipients")
    found = {name: Counter({one: rule[one] for one in what}) for name, rule in rules.items()}
    return {name: +counts for name, counts in found.items() if +counts}


def traffic(postfix: Postfix, most_recipients: int, senders: Sequence[str]) -> Iterator[Sent]:
    """Mails of users to one recipient or several, with the user's name as sender and one of ``senders`` behind it.

    Some sessions have two mails, of different senders: two all of whose recipients are refused would count as one.
    """
    chance = random.Random(15)
    sent = 0
    while sent < MAILS:
        user = chance.choice(("alice", "alice", "bob", "carol", "x"))
        with postfix.submission(user) as session:
            for sender in chance.sample(senders, min(len(senders), chance.choice((1, 1, 2)))):
                sent += 1
                # What is held is logged with its first recipient alone.
                most = most_recipients if user != "x" else 1
                recipients = [f"r{sent}.{number}@example.net" for number in range(chance.randint(1, most))]
                yield send(session, user + sender, recipients)


def when(instance: str) -> tuple[int, int]:
    """When its mail began: seconds and microseconds stand behind the process id."""
    _, seconds, microseconds, *_ = instance.split(".")
    return int(seconds, 16), int(microseconds, 16)


def truth_of(lines: Sequence[str], answered: Sequence[Sent]) -> Truth:
    """What the daemon says that it has answered, by its log, to the mails that were ``answered`` in this order."""
    instances = sorted({told["instance"] for told in map(json.loads, lines) if "instance" in told}, key=when)
    assert len(instances) == len(answered)
    recipients = {instance: len(one.accepted) for instance, one in zip(instances, answered, strict=True)}
    found: Truth = defaultdict(Counter)
    seen: set[tuple[str, str, str]] = set()
    for line in lines:
        told = json.loads(line)
        name, instance, verdict = told.get("rule", "default"), told.get("instance"), told.get("verdict")
        if not instance:
            continue
        counts = found[name]
        if verdict in ("refused", "would-refuse"):
            what = "refused"
            if verdict == "would-refuse" and told["stage"] != "RCPT" and (name, instance, what) in seen:
                continue  # it would not have come so far
            counts["refused_recipients"] += 1 if told["stage"] == "RCPT" else recipients[instance]
        elif verdict == "marked":
            what = "held" if name == "news" else "marked"
        elif verdict == "warned":
            what = "warned"
        else:
            continue
        if (name, instance, what) not in seen:
            seen.add((name, instance, what))
            counts[what] += 1
    return {name: +counts for name, counts in found.items() if +counts}
