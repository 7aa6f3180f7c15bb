"""PostgreSQL: the batch table, and what leads to it."""

from __future__ import annotations

from policyd_rate_limit.storage.drivers import missing_driver

try:
    import psycopg  # noqa: F401 - all modules in here need it, and who lacks it is to be told so
except ImportError as error:
    raise missing_driver("PostgreSQL", "postgresql", error) from error
