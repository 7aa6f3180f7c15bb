"""``--clean``: what a nightly cron job runs."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import click

from policyd_rate_limit import app
from policyd_rate_limit.cli.exits import Exit, tell
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.errors import ConfigError, PolicydError
from policyd_rate_limit.system import accounts


def clean(path: Path | None) -> Exit:
    """Delete old records from the database and say how many. Raises ConfigError and UnknownAccount."""
    settings = load(path)
    # Root becomes the daemon's account before it touches the database, whose files would else be root's and
    # lock the daemon out.
    account = accounts.resolve(settings.user, settings.group) if os.geteuid() == 0 else None
    try:
        app.make_state_directories(settings, account)
        if account is not None:
            accounts.drop_privileges(account)
        deleted = app.clean(settings)
    except ConfigError:
        raise  # a driver that is missing, say: the same status as when the daemon starts
    except (PolicydError, OSError) as error:
        tell(error)
        return Exit.CLEAN_FAILED
    except Exception:  # noqa: BLE001 - whatever it was, it is --clean that failed
        traceback.print_exc()
        return Exit.CLEAN_FAILED
    click.echo(f"{deleted} records deleted")
    return Exit.OK
