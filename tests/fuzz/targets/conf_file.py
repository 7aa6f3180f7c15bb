"""A configuration in ``.conf``: settings, or problems that name a line of the file, and nothing else."""

from __future__ import annotations

from fuzz.configuration import read
from policyd_rate_limit.config.conf_file import read_conf
from policyd_rate_limit.config.samples import conf_sample

SEEDS = (
    conf_sample().encode(),
    b"from policyd_rate_limit.const import SQLITE_DB\nbackend = SQLITE_DB\nlimits = [[10, 60], (150, 24 * 60 ** 2)]\n",
    b"x = {'a': [1, 2.5, None, True], b'b': (), 0o17: {1, 2}}\nlimits_by_id = {'a': x, 'b': -x}\n",
    b"# -*- coding: latin-1 -*-\n# \xe9t\xe9\nreport = True\nreport_to = 'a@example.org' 'b'\n",
    b"SOCKET = ['::1', 8552]\nsocket_permission = 0o666\na = b = [[1, 1]] + [[2, 2]]\nlimits = a\n",
)


def one_input(data: bytes) -> None:
    """Read ``data`` as a file."""
    read(data, read_conf)
