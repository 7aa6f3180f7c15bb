"""A Postfix with the daemon behind it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from support.daemon import Daemon, free_port
from support.postfix import Postfix

RESTRICTIONS = {
    "RCPT": "smtpd_recipient_restrictions",
    "DATA": "smtpd_data_restrictions",
    "END-OF-MESSAGE": "smtpd_end_of_data_restrictions",
}


@contextlib.contextmanager
def mail_server(
    directory: pathlib.Path,
    hooks: Sequence[str] = ("RCPT",),
    *,
    socket: str = "unix",
    service: str | None = None,
    processes: int = 0,
    mynetworks: str = "",
    parameters: Mapping[str, str] | None = None,
    environment: dict[str, str] | None = None,
    **settings: Any,
) -> Iterator[tuple[Postfix, Daemon]]:
    """A Postfix that asks a daemon at each of ``hooks``.

    ``socket`` is ``"unix"``, in the queue directory of a chrooted smtpd, or ``"tcp"``. ``service`` replaces
    what Postfix asks. ``parameters`` are further ones of main.cf. The rest is of :class:`Postfix`, and settings of the
    daemon.
    """
    port = free_port()
    if service is None:
        service = "unix:ratelimit/policy" if socket == "unix" else f"inet:127.0.0.1:{port}"
    asking = {RESTRICTIONS[hook]: f"check_policy_service {service}" for hook in hooks}
    postfix = Postfix(
        {**asking, **(parameters or {})}, chroot=socket == "unix", processes=processes, mynetworks=mynetworks
    )
    address = str(postfix.queue / "ratelimit" / "policy") if socket == "unix" else ["127.0.0.1", port]
    with postfix, Daemon(directory, environment=environment, SOCKET=address, **settings) as daemon:
        yield postfix, daemon
