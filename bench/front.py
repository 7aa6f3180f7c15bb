"""In front of a real Postfix: how long a mail takes without a policy server, with the floor, with ours, with 1.2.0."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import time
from typing import Any

from contenders import FLOOR, LIMITS, SQLITE, VERSION_1_2_0, Contestant, Fill, prepared
from loads import say
from support.postfix import Postfix
from support.programs import require

SESSIONS = 20
MAILS = 3_000
OLD_ROWS = 1_000_000  # in the database of those that have one
WITHOUT = "without"


def run(directory: pathlib.Path, places: dict[str, str], *, rounds: int, mails: int = MAILS) -> dict[str, Any]:
    """The seconds for ``mails`` mails by contender and round; each round starts a Postfix of its own for each."""
    measurements: list[dict[str, Any]] = []
    # smtp-source does not authenticate: its sender is charged.
    settings = {"limit_by_sasl": False, "limit_by_sender": True, "limits": LIMITS}
    with contextlib.ExitStack() as stack:
        running: list[Contestant | None] = [None]
        for contender in (FLOOR, SQLITE, VERSION_1_2_0):
            say(f"filling {contender.name}")
            contestant = stack.enter_context(prepared(contender, directory / contender.key, places, settings))
            contestant.fill(Fill(ids=OLD_ROWS, spent=0))
            contestant.start()
            contestant.ask()
            running.append(contestant)
        for number in range(1, rounds + 1):
            for one in running:
                key = one.contender.key if one else WITHOUT
                seconds = _send(one, mails)
                measurements.append({"contender": key, "round": number, "mails": mails, "seconds": seconds})
                say(f"Postfix, round {number}: {1e3 * seconds / mails:.2f} ms per mail {key}")
    return {"measurements": measurements, "sessions": SESSIONS, "mails": mails, "old_rows": OLD_ROWS}


def _send(contestant: Contestant | None, mails: int) -> float:
    """Seconds until Postfix has taken ``mails`` mails; RuntimeError when it has not taken all of them."""
    parameters = {"smtpd_client_connection_count_limit": "0", "default_process_limit": str(5 * SESSIONS)}
    if contestant is not None:
        parameters["smtpd_recipient_restrictions"] = f"check_policy_service inet:127.0.0.1:{contestant.port}"
    with Postfix(parameters, mynetworks="127.0.0.0/8") as postfix:
        source = [str(require("smtp-source")), "-s", str(SESSIONS), "-f", "bench@example.org", "-t", "to@example.net"]
        # The first mails start all the processes that then stay.
        subprocess.run([*source, "-m", str(5 * SESSIONS), f"127.0.0.1:{postfix.port}"], check=True)
        begin = time.perf_counter()
        subprocess.run([*source, "-m", str(mails), f"127.0.0.1:{postfix.port}"], check=True)
        seconds = time.perf_counter() - begin
        postfix.assert_no_trouble()
        return seconds
