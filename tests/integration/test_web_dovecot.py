"""A real Dovecot asks whether somebody may log in, as docs/web.md has it: who is blocked is kept out."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import free_port
from support.postfix import PASSWORD, USERS, dovecot_conf
from support.programs import require, require_root
from support.public import public_directory
from support.wait import wait_until
from support.web_process import DOVECOT, OPERATOR, WebProcess

PAGE = Path(__file__).resolve().parents[2] / "docs" / "web.md"

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_postfix]


class Logins:
    """Dovecot with some users, which asks the page."""

    def __init__(self, root: Path, web: WebProcess) -> None:
        self.root = root
        self.web = web
        (root / "users").write_text("".join(f"{user}:{PASSWORD}\n" for user in USERS))
        (root / "queue" / "private").mkdir(parents=True)
        program = require("dovecot")
        text = dovecot_conf(program).format_map({"root": str(root)})
        port = web.settings["web_address"][1]
        block = block_of(program).replace("localhost:9646", f"localhost:{port}").replace("prl_...", DOVECOT)
        (root / "dovecot.conf").write_text(text + block)
        self.process = subprocess.Popen([program, "-F", "-c", root / "dovecot.conf"])

    def works(self, user: str) -> bool:
        """Whether ``user`` may log in with the right password."""
        done = subprocess.run(
            [require("doveadm"), "-c", self.root / "dovecot.conf", "auth", "test", user, PASSWORD],
            capture_output=True,
            text=True,
            timeout=30,
        )
        return "auth succeeded" in done.stdout

    def log_text(self) -> str:
        """What Dovecot has logged."""
        log = self.root / "dovecot.log"
        return log.read_text(errors="replace") if log.exists() else ""


def block_of(program: Path) -> str:
    """What the page says for this version of Dovecot."""
    said = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = "2.3" if tuple(map(int, said.split()[0].split(".")[:2])) < (2, 4) else "2.4"
    found = re.search(rf"^```dovecot-{re.escape(version)}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def logins() -> Iterator[Logins]:
    """Dovecot, and the page on loopback."""
    require_root()
    with public_directory() as root:
        (root / "dovecot").mkdir()
        with WebProcess(root / "web", web_address=["127.0.0.1", free_port()]) as web:
            assert isinstance(web, WebProcess)
            made = Logins(root, web)
            try:
                wait_until(lambda: made.works(USERS[0]), "somebody may log in")
                yield made
            finally:
                made.process.terminate()
                made.process.wait(20)


def test_who_is_blocked_cannot_log_in(logins: Logins) -> None:
    one, other = USERS[:2]
    with logins.web.client(OPERATOR) as program:
        program.post("/api/v1/block", json={"id": one, "seconds": 3600, "note": "stolen"}).raise_for_status()
        wait_until(lambda: not logins.works(one), "who is blocked cannot log in")
        assert logins.works(other)
        logins.web.logged("Dovecot is told that", one, "is blocked")
        program.post("/api/v1/revoke", json={"id": one}).raise_for_status()
        wait_until(lambda: logins.works(one), "who is free again may log in")
    logins.web.stop()
    began = time.monotonic()
    assert logins.works(one), f"Dovecot lets them in while nobody answers: {logins.log_text()}"
    assert time.monotonic() - began < 15
