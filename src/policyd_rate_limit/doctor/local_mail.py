"""Mail that no smtpd sees: what sendmail(1) hands to postdrop(1) and pickup(8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.finding import Finding, ok, warning
from policyd_rate_limit.postfix.lists import RECIPIENT_LIST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.doctor.hooks import Hooks
    from policyd_rate_limit.postfix.postconf import Postfix

PORT = 10027
"""Where the smtpd listens that local mail is led through."""

_USERS = "authorized_submit_users"


def examine(postfix: Postfix, hooks: Hooks) -> Iterator[Finding]:
    """Whether local users get around the daemon."""
    pickup = next((service for service in postfix.services if service.program == "pickup"), None)
    if pickup is None:
        return
    users = postfix.value(_USERS).replace(",", " ").split()
    if not users or not users[0].startswith("static:"):
        yield ok("local-mail", f"main.cf: {_USERS}", " ".join(users) or "nobody")
        return
    leads_to = next((hook.service for hook in hooks.counting if hook.service in postfix.behind_pickup), None)
    if leads_to is not None:
        yield ok("local-mail", f"master.cf, {pickup.key}", f"goes through {leads_to.name}, which asks the daemon")
        return
    asks = f"{hooks.line}, permit_mynetworks, reject" if hooks.earliest_list == RECIPIENT_LIST else hooks.line
    yield warning(
        "local-mail",
        f"main.cf: {_USERS}",
        "every local user may call sendmail, whose mail goes to pickup(8) and through no smtpd",
        "A web application, or a user with a shell, sends without limit. Either keep those who can speak SMTP from"
        " sendmail (the line of main.cf), or lead what pickup takes through an smtpd that asks the daemon (the lines"
        " of master.cf): what is beyond a limit then waits in the queue until it is admitted. limit_by_sender"
        " charges each sender, limit_by_ip with 127.0.0.0/8 in limited_networks all of them together.",
        f"main.cf:   {_USERS} = !www-data, static:anyone\n"
        f"master.cf: {pickup.line}\n"
        f"             -o content_filter=smtp:[127.0.0.1]:{PORT}\n"
        "             -o receive_override_options=no_address_mappings\n"
        f"           127.0.0.1:{PORT} inet n - n - - smtpd\n"
        "             -o content_filter=\n"
        f"             -o {{ {hooks.earliest_list} = {asks} }}",
    )
