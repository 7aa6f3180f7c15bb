"""What ``doctor`` and the log say of a Postfix that runs, and what that Postfix does."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.daemon import Daemon
from support.doctor import CHECK, doctor, mend, wrong
from support.postfix import Postfix
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

IGNORED = ("--ignore", "local-mail", "--ignore", "default-action")
WITHOUT_BRACES = "check_policy_service unix:ratelimit/policy, default_action=DUNNO, permit_sasl_authenticated"


def test_what_postfix_does_not_know_keeps_everybody_out_until_it_is_mended_as_doctor_says(tmp_path: Path) -> None:
    postfix = Postfix({"smtpd_recipient_restrictions": WITHOUT_BRACES})
    with postfix, Daemon(tmp_path, SOCKET=str(postfix.queue / "ratelimit" / "policy"), limits=[[1, 3600]]) as daemon:
        assert postfix.send("alice").reply.startswith("451 4.3.5 ")
        finding, *others = wrong(doctor(daemon.path, postfix.config, *IGNORED))
        assert (finding["check"], others) == ("unknown-restriction", [])
        assert "default_action=DUNNO" in finding["found"]

        mend(finding, postfix.config)
        postfix.command("reload")
        assert wrong(doctor(daemon.path, postfix.config, *IGNORED)) == []
        assert postfix.send("bob").ok
        assert postfix.send("bob").reply.startswith("450 4.7.1 ")


@pytest.mark.parametrize("name", ["smtpd_client_restrictions", "smtpd_recipient_restrictions"])
def test_a_stranger_who_types_vrfy_or_etrn_says_nothing_about_the_hook(tmp_path: Path, name: str) -> None:
    postfix = Postfix({name: CHECK, "fast_flush_domains": "example.net"}, mynetworks="127.0.0.0/8")
    with postfix, Daemon(tmp_path, SOCKET=str(postfix.queue / "ratelimit" / "policy"), debug=True) as daemon:
        with postfix.submission() as connection:
            connection.docmd("VRFY", "someone@example.net")
            connection.docmd("ETRN", "example.net")
        wait_until(lambda: "not-counted" in daemon.log_text(), "the daemon has been asked", 30)
        assert postfix.send("alice").ok
        assert "does not count" not in daemon.log_text()
