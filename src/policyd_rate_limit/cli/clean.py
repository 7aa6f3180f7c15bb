"""``--clean``: what a nightly cron job runs."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path

import click

from policyd_rate_limit.admin import maintenance
from policyd_rate_limit.cli.exits import Exit, tell
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.errors import ConfigError, PolicydError, UnknownAccount


def clean(path: Path | None) -> Exit:
    """Delete old records from the database, say how many, mail the report. Raises ConfigError and UnknownAccount."""
    settings = load(path)
    # It takes a while to load; and not everything may be readable for the account that this process becomes.
    mailing = importlib.import_module("policyd_rate_limit.report.mailing") if settings.report else None
    try:
        # Deleted is deleted, and said before anybody waits for the mail.
        click.echo(f"{maintenance.clean(settings)} records deleted")
        if mailing is not None:
            mailing.mail_report(settings)
    except (ConfigError, UnknownAccount):
        raise  # a driver that is missing, say: the same status as when the daemon starts
    except BrokenPipeError:
        raise  # whoever reads what is said has gone: that is no failure of --clean
    except (PolicydError, OSError) as error:
        tell(error)
        return Exit.CLEAN_FAILED
    except Exception:  # noqa: BLE001 - whatever it was, it is --clean that failed
        traceback.print_exc()
        return Exit.CLEAN_FAILED
    return Exit.OK
