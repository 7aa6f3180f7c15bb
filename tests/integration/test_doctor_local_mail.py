"""What ``doctor`` advises for mail that local users hand to sendmail, done on a real Postfix."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.commands import call
from support.daemon import Daemon, free_port
from support.faketime import Clock
from support.postfix import Postfix, write_cf
from support.programs import require
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

CHECK = "check_policy_service { unix:ratelimit/policy, default_action=DUNNO }"


def advice(daemon: Daemon, postfix: Postfix) -> list[str]:
    """The lines that would mend it; none when nothing is wrong."""
    done = call(daemon.path, "doctor", "--postfix-config", postfix.config, "--json")
    found = [finding for finding in json.loads(done.stdout)["findings"] if finding["check"] == "local-mail"]
    return [line for finding in found for line in finding["mend"].splitlines()]


def sendmail(postfix: Postfix) -> subprocess.CompletedProcess[str]:
    """Hand in one mail of alice's as a local user does."""
    return subprocess.run(
        [require("sendmail"), "-C", postfix.config, "-f", "alice@example.org", "someone@example.net"],
        input="Subject: test\n\nHello\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def deferred(postfix: Postfix) -> int:
    return len(re.findall(r"smtp\[\d+\]: .* status=deferred .*Rate limit reach", postfix.log_text()))


def test_local_mail_is_led_through_an_smtpd_and_waits_for_its_turn(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    postfix = Postfix({"smtpd_recipient_restrictions": f"{CHECK}, reject"}, mynetworks="127.0.0.0/8")
    address = str(postfix.queue / "ratelimit" / "policy")
    settings: dict[str, Any] = {"SOCKET": address, "limits": [[2, 3600]], "limit_by_sender": True}
    with postfix, Daemon(tmp_path, environment=clock.environment, **settings) as daemon:
        for _ in range(3):
            assert sendmail(postfix).returncode == 0
        postfix.wait_until_delivered(3)  # beyond the limit

        lines = advice(daemon, postfix)
        start = next(number for number, line in enumerate(lines) if line.startswith("master.cf: "))
        master_cf = [line[len("master.cf: ") :] for line in lines[start:]]
        path = postfix.config / "master.cf"
        others = [line for line in path.read_text().splitlines() if not line.startswith("pickup")]
        text = "\n".join([*others, "smtp unix - - n - - smtp", *master_cf]) + "\n"
        write_cf(path, re.sub(r"(127\.0\.0\.1\]?):10027", rf"\1:{free_port()}", text))
        postfix.command("reload")
        assert advice(daemon, postfix) == []

        for _ in range(4):
            assert sendmail(postfix).returncode == 0
        wait_until(lambda: deferred(postfix) == 2, "two mails wait in the queue", 30)
        postfix.wait_until_delivered(5)
        clock.forward(3601)
        postfix.command("flush")
        postfix.wait_until_delivered(7)


def test_a_user_may_be_kept_from_sendmail(tmp_path: Path) -> None:
    postfix = Postfix({"smtpd_recipient_restrictions": f"{CHECK}, reject"})
    with postfix, Daemon(tmp_path, SOCKET=str(postfix.queue / "ratelimit" / "policy")) as daemon:
        (line,) = [line for line in advice(daemon, postfix) if line.startswith("main.cf:")]
        setting = line.removeprefix("main.cf:").strip().replace("www-data", "root")  # as whom the test runs
        path = postfix.config / "main.cf"
        write_cf(path, f"{path.read_text()}{setting}\n")
        refused = sendmail(postfix)
        assert refused.returncode != 0
        assert "User root(0) is not allowed to submit mail" in refused.stderr
        assert advice(daemon, postfix) == []
