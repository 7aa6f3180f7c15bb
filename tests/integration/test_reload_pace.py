"""A reload of a large configuration holds up no answer."""

from __future__ import annotations

import pathlib
import signal
import time
from collections.abc import Callable

import pytest

from support.daemon import Client, Daemon, mail
from support.load import SUCCESS

IDS = 100_000
MOST_SECONDS = 0.1  # that an answer may take meanwhile
TRIES = 3  # since whoever else the processor works for holds answers up too


def write(path: pathlib.Path, daemon: Daemon, mails: int, count: int) -> None:
    """The daemon's configuration with limits of their own for ``count`` ids, in the format of ``path``."""
    if path.suffix == ".conf":
        settings = "".join(f"{name} = {value!r}\n" for name, value in daemon.settings.items())
        ids = "".join(f" 'user{number}@x.org': [[{mails + number % 50},60]],\n" for number in range(count))
        path.write_text(f"{settings}limits_by_id = {{\n{ids}}}\n")
    else:
        settings = _settings(daemon)
        ids = "".join(f"  user{number}@x.org: [[{mails + number % 50},60]]\n" for number in range(count))
        path.write_text(f"{settings}limits_by_id:\n{ids}")


def write_rule(path: pathlib.Path, daemon: Daemon, mails: int, count: int) -> None:
    """The daemon's configuration with a rule that has as many overrides."""
    settings = _settings(daemon)
    ids = "".join(f"      user{number}@x.org: {mails + number % 50}/1m\n" for number in range(count))
    path.write_text(f"{settings}rules:\n  person:\n    key: sasl_username\n    limits: []\n    overrides:\n{ids}")


def write_table(path: pathlib.Path, daemon: Daemon, mails: int, count: int) -> None:
    """The daemon's configuration with a table in place of as many limits."""
    tables = f"tables:\n  tiers:\n{_tiers('    {}: {}/1m', mails, count)}"
    path.write_text(_settings(daemon) + _TAKES_TIERS + tables)


def write_file(path: pathlib.Path, daemon: Daemon, mails: int, count: int) -> None:
    """The same in a file; that it is another one is a change of the configuration."""
    file = path.with_name(f"tiers{mails}")
    file.write_text(_tiers("{} {}/1m", mails, count))
    path.write_text(f"{_settings(daemon)}{_TAKES_TIERS}tables:\n  tiers: file:{file}\n")


_TAKES_TIERS = "rules:\n  person: {key: sasl_username, limits: [], overrides: $tiers}\n"


def _settings(daemon: Daemon) -> str:
    return "".join(f"{name}: {value!r}\n" for name, value in daemon.settings.items())


def _tiers(line: str, mails: int, count: int) -> str:
    return "".join(line.format(f"user{number}@x.org", mails + number % 50) + "\n" for number in range(count))


def longest_answer(daemon: Daemon, client: Client, reloads: int) -> float:
    """Seconds of the slowest answer from a SIGHUP until the file is in force for the ``reloads``-th time."""
    slowest = 0.0
    daemon.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 60
    while daemon.log_text().count("; changed: ") < reloads:
        for _ in range(20):
            began = time.monotonic()
            assert client.ask(**mail("somebody else")) == SUCCESS
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.001)
        assert time.monotonic() < end, daemon.log_text()
    return slowest


@pytest.mark.alone
@pytest.mark.long(30)
@pytest.mark.parametrize(
    ("suffix", "write"),
    [(".conf", write), (".yaml", write), (".yaml", write_rule), (".yaml", write_table), (".yaml", write_file)],
    ids=["conf", "yaml", "overrides of a rule", "table", "table in a file"],
)
def test_a_reload_holds_up_no_answer(
    tmp_path: pathlib.Path, suffix: str, write: Callable[[pathlib.Path, Daemon, int, int], None]
) -> None:
    path = tmp_path / f"large{suffix}"
    daemon = Daemon(tmp_path, limits=[], debug=False)
    write(path, daemon, 1, 1)
    daemon.path = path
    with daemon, Client(daemon.address) as client:
        slowest = []
        for reloads in range(1, TRIES + 1):
            write(path, daemon, 1 + reloads, IDS)
            slowest.append(longest_answer(daemon, client, reloads))
            if slowest[-1] < MOST_SECONDS:
                break
        assert min(slowest) < MOST_SECONDS, slowest
        admitted = [client.ask(**mail("user0@x.org")) == SUCCESS for _ in range(2 + reloads)]
        assert admitted == [True] * (1 + reloads) + [False]
        assert daemon.stop() == 0
