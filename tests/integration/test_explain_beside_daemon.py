"""``explain`` beside a running daemon."""

from __future__ import annotations

import pathlib

from support.commands import ask
from support.daemon import Client, admitted, running


def test_nothing_is_counted(tmp_path: pathlib.Path) -> None:
    rules = {"person": {"key": "sasl_username", "limits": "3/1h"}}
    with running(tmp_path / "host", limits=[], rules=rules) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 2) == 2
        for _ in range(3):
            told = ask(daemon.path, "explain", "sasl_username=alice", "recipient=bob@example.org")
            (person,) = told["rules"]
            assert (told["outcome"], [window["used"] for window in person["windows"]]) == ("accept", [2])
        assert admitted(client, "alice", 2) == 1
        assert ask(daemon.path, "explain", "sasl_username=alice", "recipient=b@example.org")["outcome"] == "refuse"
