"""What ``simulate`` makes of the log of a real Postfix is, mail for mail, what the real daemon has answered to it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any, NamedTuple

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.maillog.reading import read
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal import facts
from policyd_rate_limit.rehearsal.rehearsing import rehearse
from policyd_rate_limit.rehearsal.stages import Stages
from support import maillog_model as model
from support.commands import call
from support.daemon import Daemon, free_port
from support.filtering import add_filters, sendmail
from support.mail_server import RESTRICTIONS
from support.milter import milter
from support.postfix import Postfix, Sent, send, write_cf
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

MAILS = 60
LAST = "last@example.net"
OTHERWISE = "for another reason"
UNWANTED = "Message-ID: <{}@example.org>\r\nSubject: unwanted"  # whose header is refused once its id is logged
MILTERED = "refused by the milter"
REFUSED = "refused@example.net"
SYSLOG_NAME = "${multi_instance_name?{$multi_instance_name}:{postfix}}"  # the default of postconf(5)
PARAMETERS = {
    "header_checks": "regexp:$config_directory/header_checks",
    "smtpd_relay_restrictions": (
        f"check_recipient_access inline:{{ {{{REFUSED} = 550 5.7.1 {OTHERWISE}}} }},"
        " permit_mynetworks, permit_sasl_authenticated, reject"
    ),
}
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
    "shy": {"key": "sasl_username", "limits": "6/1h", "shadow": True},
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
    with site(tmp_path, hooks, **settings) as (there, daemon):
        answered = list(traffic(there, most_recipients, senders))
        log = tmp_path / "mail.log"
        decisions = tmp_path / "decisions.log"
        answered.append(there.postfix.send("z", [LAST]))
        wait_until(there.is_over, "all is logged")
        log.write_bytes((there.postfix.root / "mail.log").read_bytes())
    decisions.write_text(daemon.log_text())  # all of it, as it has ended
    assert_all_kinds(log.read_text())
    truth = truth_of(decisions.read_text().splitlines(), answered)
    stages = [word for hook in hooks for word in ("--stage", hook)]

    alone = simulated(daemon, *stages, str(log))
    assert counted(alone["rules"]) == truth
    assert alone["refused"] == sum(map(is_refused, answered))
    assert alone["mails"] == len(answered)
    assert alone["newly_hit"] == {}
    assert {name for name, counts in truth.items() if counts["refused"]} >= {"person", "clients", "told"}
    assert truth["news"]["held"]
    assert truth["names"]["marked"]
    assert truth["person"]["warned"]
    if "RCPT" not in hooks:  # there, whoever is held has no queue id yet
        to_be_held = re.findall(r": (\w+): hold: ", log.read_text())
        assert set(to_be_held) & set(re.findall(r": (\w+): (?:milter-)?reject: (?:header|END)", log.read_text()))
    if "RCPT" in hooks:
        assert truth["one-mail"]["refused"]
        assert 0 < alone["rules"]["volume"]["mails"] < alone["rules"]["person"]["mails"]

    lines = [model.line_of(line) for line in log.read_text().splitlines()]
    for form in model.FORMS:  # the same lines, as other programs would have written them
        other = tmp_path / "other.log"
        other.write_bytes(model.render(lines, form))
        assert counted(rehearsed_here(daemon, hooks, other)["rules"]) == truth, form

    figures = tmp_path / "shadow.json"
    figures.write_text(call(daemon.path, "shadow", "--json", "-n", "10000").stdout)
    against = simulated(daemon, "--against", str(figures), *stages, str(log))
    assert (against["compared_with"], against["newly_hit"], against["no_longer_hit"]) == ("shadow", {}, {})
    compared = against["shadow"]["rules"]
    assert {name: (rule["shadow"], rule["differing"]) for name, rule in compared.items()} == {
        name: (requests_refused(decisions.read_text(), name), []) for name in ("told", "shy")
    }
    assert len(alone["rules"]["shy"]["ids"]) > 1

    exact = simulated(daemon, *stages, str(decisions), str(log))
    assert counted(exact["rules"]) == truth
    assert exact["mails"] == len(answered)
    assert exact["log"]["known_from_decisions"] == len(answered)


class Site(NamedTuple):
    """Two instances of Postfix that write one log, and at which ports one of them takes mail of users."""

    postfix: Postfix
    out: Postfix
    ports: Sequence[int]

    def is_over(self) -> bool:
        """Whether all mails have left both queues, but for those that are held, which is logged."""
        waiting = [
            path
            for one in (self.postfix, self.out)
            for name in ("maildrop", "incoming", "active", "deferred")
            for path in (one.queue / name).rglob("*")
            if path.is_file()
        ]
        log = self.postfix.log_text()
        active = re.findall(r": (\w+): from=<.*\(queue active\)$", log, re.MULTILINE)
        return not waiting and set(active) == set(re.findall(r": (\w+): removed$", log, re.MULTILINE))


@contextlib.contextmanager
def site(directory: pathlib.Path, hooks: Sequence[str], **settings: Any) -> Iterator[tuple[Site, Daemon]]:
    """Both ask one daemon; what the first one gives to filters after its queue comes back to the second one."""
    port = free_port()
    parameters = {
        **PARAMETERS,
        **{RESTRICTIONS[hook]: f"check_policy_service inet:127.0.0.1:{port}" for hook in hooks},
        "enable_long_queue_ids": "yes" if "RCPT" in hooks else "no",
    }
    stack = contextlib.ExitStack()
    parameters["smtpd_milters"] = f"inet:127.0.0.1:{stack.enter_context(milter(MILTERED, f'550 5.7.1 {OTHERWISE}'))}"
    postfix = Postfix(parameters)
    # Whoever does not authenticate may not relay there: what goes to that domain is bounced.
    out_port = free_port()
    parameters["transport_maps"] = f"inline:{{ {{bounced.example = smtp:[127.0.0.1]:{out_port}}} }}"
    instance = {"multi_instance_enable": "yes", "multi_instance_name": "postfix-out", "syslog_name": SYSLOG_NAME}
    out = Postfix({**parameters, **instance}, chroot=False, port=out_port)
    out.log_with(postfix)
    of_out = add_filters(out, name="postfix-out")
    of_first = add_filters(postfix, hand_to=of_out["again"])
    for one in (postfix, out):
        write_cf(one.config / "header_checks", f"/^Subject: unwanted/ REJECT {OTHERWISE}\n")
    taking = [ports[name] for ports in (of_first, of_out) for name in ("filtered", "traced", "proxied")]
    with stack, postfix, out, Daemon(directory, SOCKET=["127.0.0.1", port], **settings) as daemon:
        yield Site(postfix, out, [postfix.port, out.port, *taking]), daemon


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


def rehearsed_here(daemon: Daemon, hooks: Sequence[str], log: pathlib.Path) -> Any:
    """The same, in the process of the tests: to start the command for each form would take most of the time."""
    tally = Tally()
    items = read([log], wants_recipients=True, now=time.time(), zone=UTC, tally=tally)
    settings = config.load(daemon.path).settings
    return facts.of_rehearsal(rehearse(settings, None, Stages(tuple(hooks), "as the test has it"), items, tally))


def counted(rules: Mapping[str, Any]) -> Truth:
    """What is told of each rule, without what is 0."""
    what = ("refused", "held", "marked", "warned", "refused_recipients")
    found = {name: Counter({one: rule[one] for one in what}) for name, rule in rules.items()}
    return {name: +counts for name, counts in found.items() if +counts}


def traffic(there: Site, most_recipients: int, senders: Sequence[str]) -> Iterator[Sent]:
    """Mails about which the daemon is asked, among others: by any service, filtered or not.

    They are of users to one recipient or several, with the user's name as sender and one of ``senders`` behind it.
    Some sessions have two mails, of different senders: two all of whose recipients are refused would count as one.
    """
    chance = random.Random(15)
    sent = 0
    while sent < MAILS:
        not_asked_about(there, chance)
        user = chance.choice(("alice", "alice", "bob", "carol", "x"))
        with there.postfix.submission(user, chance.choice(there.ports)) as session:
            for sender in chance.sample(senders, min(len(senders), chance.choice((1, 1, 2)))):
                sent += 1
                # What is held is logged with its first recipient alone.
                most = most_recipients if user != "x" else 1
                domain = chance.choice(("example.net", "example.net", "bounced.example"))
                recipients = [f"r{sent}.{number}@{domain}" for number in range(chance.randint(1, most))]
                header = "Subject: test"
                if len(recipients) == 1 and chance.random() < 0.3:  # of more, the log would not say how many they were
                    header = chance.choice((UNWANTED.format(sent), f"Subject: {MILTERED}"))
                if chance.random() < 0.1:
                    recipients.insert(chance.randrange(2), REFUSED)
                yield send(session, user + sender, recipients, header=header)


def not_asked_about(there: Site, chance: random.Random) -> None:
    """Perhaps a mail of a program of the host, or one that is refused before the daemon is asked."""
    sender = f"{chance.choice(('alice', 'bob'))}@example.org"
    what = chance.randrange(6)
    if what == 0:
        sendmail(there.postfix, sender, chance.choice(("local@example.net", "gone@bounced.example")))
    elif what == 1:
        with there.postfix.submission("alice", chance.choice(there.ports)) as session:
            assert not send(session, "alice", [REFUSED]).ok


def is_refused(one: Sent) -> bool:
    """Whether a limit refused any recipient of it."""
    replies = [*one.refused.values(), *([] if one.ok else [one.reply])]
    return any(OTHERWISE not in reply for reply in replies)


def assert_all_kinds(log: str) -> None:
    """The log has mail of every origin, or what is not seen in it is not compared."""
    for kind in (
        *(" postfix/smtpd[", " postfix-out/smtpd[", " postfix/filtered/", " postfix-out/filtered/", "orig_queue_id="),
        *("orig_client=", "/pickup[", "status=bounced", "non-delivery notification", "queued as ", OTHERWISE),
        *("milter-reject: END-OF-MESSAGE", " reject: header", " postfix-out/proxied/smtpd["),
    ):
        assert kind in log, kind


def requests_refused(log: str, name: str) -> int:
    """How many requests the rule ``name`` would have refused, by the daemon's log."""
    told = [json.loads(line) for line in log.splitlines()]
    return sum(one.get("rule") == name and one.get("verdict") == "would-refuse" for one in told)


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
