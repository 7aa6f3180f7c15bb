"""Daemons that die at every point, one after the other: ``python dying.py <template> <directory>``.

A program of its own, since a process without threads may fork as often as it likes. For each death it leaves a
directory named after the kind of error before it, if any, and the point, with the database, the spool and a file
``answers``: one line for each batch that was answered, with all that has been charged so far.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from storage.daemon import Daemon
from storage.faults import DEAD, Fault, connections_with
from storage.stores import Clock, SqliteDatabase
from storage.test_sqlite_faults import batches

ERROR_BEFORE = 10  # points before death, in the later rounds


def live(home: pathlib.Path, fault: Fault) -> int:
    """Be a daemon that ends as ``fault`` says; the exit status."""
    with connections_with(fault), (home / "answers").open("w", buffering=1) as answers:
        daemon = Daemon(SqliteDatabase(home), Clock())
        for demands in batches():
            daemon.ask(*demands)
            answers.write(f"{json.dumps(daemon.charged)}\n")
            daemon.wait()
        daemon.close()
    return 0


def main(template: pathlib.Path, directory: pathlib.Path) -> None:
    """Let daemons die until one lives to its end."""
    content = template.read_bytes()
    for kind in ("", "IOERR"):
        for death in itertools.chain(range(1, 60, 4 if kind else 1), itertools.count(60, 5)):
            home = directory / f"{kind}{death}"
            home.mkdir()
            (home / "db.sqlite3").write_bytes(content)
            child = os.fork()
            if child == 0:
                os._exit(live(home, Fault(kind, death - ERROR_BEFORE, 5 if kind else 0, death=death)))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status != DEAD:
                assert status == 0, (home, status)
                assert death > 100
                break


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
