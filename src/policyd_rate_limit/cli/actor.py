"""Who asks for a change by a command, as the audit trail has it."""

from __future__ import annotations

import os

from policyd_rate_limit.storage.administration import Actor
from policyd_rate_limit.system.accounts import login_name


def of_this_shell() -> Actor:
    """Whoever has typed the command. Ask before root becomes the daemons' account."""
    return Actor(login_name(), f"shell on {os.uname().nodename}")
