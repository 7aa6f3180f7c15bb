"""Services of a Postfix that hand mail to a content filter, and one that takes it back; what else brings it mail.

The filter changes nothing: mail goes straight to the smtpd that takes it back.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from support.daemon import free_port
from support.postfix import Postfix, write_cf
from support.programs import require

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICES: Final = """\
smtp       unix - - n - - smtp
xforward   unix - - n - - smtp
  -o smtp_send_xforward_command=yes
127.0.0.1:{again} inet n - n - - smtpd
  -o syslog_name={name}/again
  -o mynetworks=127.0.0.0/8
  -o smtpd_authorized_xforward_hosts=127.0.0.0/8
  -o smtpd_recipient_restrictions=
  -o smtpd_data_restrictions=
  -o smtpd_end_of_data_restrictions=
  -o smtpd_milters=
127.0.0.1:{filtered} inet n - n - - smtpd
  -o syslog_name={name}/filtered
  -o content_filter=smtp:[127.0.0.1]:{next}
127.0.0.1:{traced} inet n - n - - smtpd
  -o syslog_name={name}/traced
  -o content_filter=xforward:[127.0.0.1]:{next}
127.0.0.1:{proxied} inet n - n - - smtpd
  -o syslog_name={name}/proxied
  -o smtpd_proxy_filter=127.0.0.1:{again}
  -o smtpd_milters=
"""
"""After-queue filters, the second one with XFORWARD, and a before-queue filter; whoever hands mail back is believed."""


def add_filters(postfix: Postfix, *, name: str = "postfix", hand_to: int = 0) -> Mapping[str, int]:
    """Have ``postfix``, which does not run yet, filter what comes to other ports: these, by the name of the service.

    ``name``: how ``postfix`` logs. ``hand_to``: the port at which what is filtered after the queue comes back, unless
    it is that of ``again``: of another instance, for instance.
    """
    ports = {service: free_port() for service in ("again", "filtered", "traced", "proxied")}
    services = (postfix.config / "master.cf").read_text()
    more = SERVICES.format(name=name, next=hand_to or ports["again"], **ports)
    write_cf(postfix.config / "master.cf", services + more)
    return ports


def sendmail(postfix: Postfix, sender: str, recipient: str) -> None:
    """Submit one mail with sendmail(1), as a script of the host does."""
    subprocess.run(
        [require("sendmail"), "-C", postfix.config, "-f", sender, recipient],
        input=b"From: root\n\nHello\n",
        check=True,
        timeout=60,
    )
