"""A configuration in ``.yaml``: settings, or problems that name a line of the file, and nothing else."""

from __future__ import annotations

from fuzz.configuration import read
from policyd_rate_limit.config.samples import yaml_sample
from policyd_rate_limit.config.yaml_file import read_yaml

SEEDS = (
    yaml_sample().encode(),
    b"debug: yes\nlimits: [[10, 60], [150, '1d']]\nsocket_permission: 0666\n",
    b"a: &a [1, 2]\nb: &b [*a, *a]\nlimits: *b\nlimits_by_id: {<<: {x: []}, no: [], 0123: [[1, 1]]}\n",
    b'report: !!str on\nreport_to: |\n  a@example.org\nSOCKET: ["::1", 0x10]\ndb_timeout: 1e1\n',
    b"limits_by_id:\n  ? alice\n  : [[1, 2001-01-01]]\n  'bob': !!binary aGk=\n---\n",
    b"a: [x\r\r\r\n",
)


def one_input(data: bytes) -> None:
    """Read ``data`` as a file."""
    read(data, read_yaml)
