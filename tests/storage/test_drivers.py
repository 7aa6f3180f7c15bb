"""Databases whose Python package is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules[{package!r}] = None
from policyd_rate_limit.errors import ConfigError
try:
    import policyd_rate_limit.storage.{module}
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [("pymysql", "log.mysql", "mysql"), ("psycopg", "log.postgresql", "postgresql"), ("redis", "redis.store", "redis")],
)
def test_a_missing_driver_is_told_with_what_installs_it(package: str, module: str, extra: str) -> None:
    """In an interpreter that does not find it."""
    program = PROGRAM.format(package=package, module=module)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "backend" in said
    assert f"pip install 'policyd-rate-limit[{extra}]'" in said
    assert said.count("\n") == 1
