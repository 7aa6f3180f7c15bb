"""What ``shadow --json`` may have written: figures, or an error that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.rehearsal.shadow_figures import read_shadow

_ID = {"id": "alice", "key": "shy|user:alice", "limit": [9, 3600], "refused": 2, "blocks": 0, "since": 5, "last": 9}
_RULE = {"shadow": True, "refused": 3, "blocks": 0, "ids": [_ID, _ID], "other_ids": {"ids": 1, "refused": 1}}
SEEDS = (
    json.dumps({"since": 0, "time": 10, "rules": {"shy": _RULE, "other/bytes": {**_RULE, "ids": []}}}).encode(),
    b'\xef\xbb\xbf {"since": 1e400, "time": -0, "rules": {"": {"refused": 1, "ids": [[]], "other_ids": null}}}',
    b'{"since": 1, "since": true, "time": NaN, "rules": {"\\ud800": {}}}',
)


def one_input(data: bytes) -> None:
    """Read it out of memory, as a file of no name that a configuration has."""
    descriptor = os.memfd_create("shadow")
    try:
        os.write(descriptor, data)
        path = Path(f"/proc/self/fd/{descriptor}")
        try:
            found = read_shadow(path)
        except ConfigError as error:
            (problem,) = error.problems
            assert problem.file == str(path)
            assert problem.expected
            return
    finally:
        os.close(descriptor)
    assert found is not None
    assert 0 <= found.since <= found.until
    for rule in found.rules.values():
        assert all(one.first <= one.last and one.refused >= 0 for one in rule.ids.values())
