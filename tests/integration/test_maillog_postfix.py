"""The log of a real Postfix tells what mails it took: submitted, local, filtered, bounced, refused."""

from __future__ import annotations

import re
import smtplib
import time
from collections import Counter
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest

from policyd_rate_limit.cli.mail_logs import HostZone
from policyd_rate_limit.maillog.mail import Origin
from support import maillog_model as model
from support.filtering import add_filters, sendmail
from support.maillogs import Log
from support.postfix import PASSWORD, Postfix

if TYPE_CHECKING:
    from pathlib import Path

    from policyd_rate_limit.maillog.mail import Mail

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

REFUSALS = "{{ {{refused@example.net = 450 4.7.1 Too many; mails}} }}"
PARAMETERS = {
    "enable_long_queue_ids": "{long}",
    "transport_maps": "inline:{{ {{bounced.example = error:5.1.1 no such user}} }}",
    "smtpd_recipient_restrictions": f"check_recipient_access inline:{REFUSALS}",
    "smtpd_client_port_logging": "{long}",
}


class Site:
    """A Postfix with filters, and what was sent to it."""

    def __init__(self, postfix: Postfix, ports: dict[str, int]) -> None:
        self.postfix = postfix
        self.ports = ports

    def submit(self, port: str, sender: str, *recipients: str, message_id: str = "") -> None:
        """Submit one mail as alice; refused recipients are left out."""
        message = EmailMessage()
        message["From"] = "someone@example.org"
        if message_id:
            message["Message-ID"] = message_id
        message.set_content("Hello")
        with smtplib.SMTP("127.0.0.1", self.ports[port], local_hostname="laptop.example.org", timeout=60) as connection:
            connection.login("alice", PASSWORD)
            connection.sendmail(sender, recipients, message.as_bytes())

    def log(self, removed: int, seconds: float = 60.0) -> bytes:
        """What Postfix logged, once so many mails have left its queue."""
        end = time.monotonic() + seconds
        path = self.postfix.root / "mail.log"
        while (so_far := len(re.findall(rb": removed\n", path.read_bytes()))) < removed:
            assert time.monotonic() < end, f"{so_far} of {removed} removed\n{self.postfix.log_text()}"
            time.sleep(0.05)
        return path.read_bytes()


def site(long_ids: str) -> Site:
    postfix = Postfix({name: value.format(long=long_ids) for name, value in PARAMETERS.items()})
    return Site(postfix, {**add_filters(postfix), "plain": postfix.port})


def summary(mail: Mail) -> tuple[Any, ...]:
    """What a mail is to be known by here; the refused one by its reply."""
    return (
        mail.origin,
        mail.service,
        mail.sasl_username,
        mail.sender,
        mail.recipient_count,
        mail.recipients,
        mail.reply,
    )


ONE, TWO, REFUSED = "one@example.net", "two@example.net", "refused@example.net"
AGAIN = (Origin.REINJECTED, "postfix/again/smtpd", "")
EXPECTED = Counter(
    [
        (Origin.SMTP, "postfix/smtpd", "alice", "a@example.org", 2, (ONE, TWO), ""),
        (Origin.SMTP, "postfix/smtpd", "alice", '"a b"@example.org', 1, (ONE,), ""),
        (
            *(Origin.REJECTED, "postfix/smtpd", "alice", '"a b"@example.org', 1, (REFUSED,)),
            f"<{REFUSED}>: Recipient address rejected: Too many; mails",
        ),
        (Origin.SMTP, "postfix/filtered/smtpd", "alice", "f@example.org", 1, (ONE,), ""),
        (*AGAIN, "f@example.org", 1, (ONE,), ""),
        (Origin.SMTP, "postfix/filtered/smtpd", "alice", "g@example.org", 1, (ONE,), ""),
        (*AGAIN, "g@example.org", 1, (ONE,), ""),
        (Origin.SMTP, "postfix/traced/smtpd", "alice", "t@example.org", 2, (ONE, TWO), ""),
        (*AGAIN, "t@example.org", 2, (ONE, TWO), ""),
        (Origin.SMTP, "postfix/proxied/smtpd", "alice", "p@example.org", 1, (ONE,), ""),
        (Origin.LOCAL, "postfix/pickup", "", "h@example.org", 1, ("gone@bounced.example",), ""),
        (Origin.INTERNAL, "postfix/cleanup", "", "", 1, ("h@example.org",), ""),
        (Origin.LOCAL, "postfix/pickup", "", "root@example.org", 1, (ONE,), ""),
    ]
)


@pytest.mark.parametrize("long_ids", ["yes", "no"])
def test_what_was_sent_is_what_the_log_tells(tmp_path: Path, long_ids: str) -> None:
    there = site(long_ids)
    began = time.time()
    with there.postfix:
        there.submit("plain", "a@example.org", ONE, TWO, message_id="<1@example.org>")
        there.submit("plain", '"a b"@example.org', ONE, REFUSED, message_id="<2@example.org>")
        there.submit("filtered", "f@example.org", ONE, message_id="<3@example.org>")
        there.submit("filtered", "g@example.org", ONE)
        there.submit("traced", "t@example.org", ONE, TWO, message_id="<4@example.org>")
        there.submit("proxied", "p@example.org", ONE, message_id="<5@example.org>")
        sendmail(there.postfix, "h@example.org", "gone@bounced.example")
        sendmail(there.postfix, "root@example.org", ONE)
        data = there.log(removed=12)
    ended = time.time()

    log = Log(tmp_path, data, wants_recipients=True, now=ended, zone=HostZone())
    assert Counter(map(summary, log.mails)) == EXPECTED, data.decode()
    assert all(int(began) <= mail.began <= mail.time <= ended for mail in log.mails)
    assert log.tally.of_postfix == log.tally.lines == data.count(b"\n")
    assert (log.tally.unfinished, log.tally.again, log.tally.backwards) == (0, 0, 0)

    lines = [model.line_of(line) for line in data.decode().splitlines()]
    for form in model.FORMS:  # the same lines, as other programs would have written them
        same = Log(tmp_path, model.render(lines, form), wants_recipients=True, now=ended)
        assert Counter(map(summary, same.mails)) == EXPECTED, form
