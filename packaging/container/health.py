"""The health check of the container: ends with 0 when the daemon answers a policy request, which charges nobody."""

from __future__ import annotations

import ipaddress
import socket
import sys

from policyd_rate_limit import config
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.system.sockets import Address

SECONDS = 5.0
MOST_BYTES = 4096


def connect(address: Address) -> socket.socket:
    """A connection to where the daemon listens."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(address)
        return connection
    host, port = address
    if not host or ipaddress.ip_address(host).is_unspecified:  # all addresses of the container
        host = "::1" if ":" in host else "127.0.0.1"
    return socket.create_connection((host, port), SECONDS)


def main() -> str | None:
    """What is wrong; None: nothing."""
    try:
        settings = config.load(config.find()).settings
        stage = next(iter(stages(settings.count_mode)))
        with connect(settings.SOCKET) as connection:
            # Nobody sends it, from nowhere.
            connection.sendall(f"request=smtpd_access_policy\nprotocol_state={stage}\n\n".encode())
            answer = b""
            while not answer.endswith(b"\n\n") and len(answer) < MOST_BYTES:
                data = connection.recv(MOST_BYTES)
                if not data:
                    break
                answer += data
    except OSError as error:
        return f"the daemon does not answer: {error}"
    return None if answer.startswith(b"action=") else f"the daemon answers {answer!r}"


if __name__ == "__main__":
    sys.exit(main())
