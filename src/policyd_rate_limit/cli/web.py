"""``web``: serve the pages and the API."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.errors import PolicydError

if TYPE_CHECKING:
    from policyd_rate_limit.system.sockets import Address

EXTRA = "make install EXTRAS=web, or pip install policyd-rate-limit[web]"


class MissingLibrary(PolicydError):
    """What serves pages is not installed."""


def _loopback(_context: click.Context, _option: click.Parameter, text: str | None) -> Address | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError as error:
        raise click.BadParameter(f"expected an address and a port such as 127.0.0.1:9646, found {text}") from error
    if not address.is_loopback:
        raise click.BadParameter(f"{address} is not of this host alone: listen on 127.0.0.1, behind your TLS proxy")
    if not 1 <= number <= 65535:
        raise click.BadParameter(f"expected a port from 1 to 65535, found {number}")
    return str(address), number


@click.command(short_help="Serve web pages and an API, behind your TLS proxy.")
@click.option("--socket", "path", metavar="PATH", help="The UNIX socket to listen on, in place of web_address.")
@click.option(
    "--listen",
    metavar="127.0.0.1:PORT",
    callback=_loopback,
    help="The port of loopback to listen on, in place of that.",
)
@click.pass_obj
def command(file: Path | None, path: str | None, listen: Address | None) -> Exit:
    """Serve web pages and a JSON API for whoever answers the telephone, until SIGTERM or SIGINT.

    A process of its own beside the daemon, as the same account. It listens on a UNIX socket or loopback; browsers come
    by a proxy of yours that speaks TLS: docs/web.md.
    """
    if path is not None and listen is not None:
        raise click.UsageError("--socket or --listen, not both")
    try:
        from policyd_rate_limit.web.serving import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "policyd_rate_limit":
            raise
        raise MissingLibrary(f"the library {error.name} is not installed: {EXTRA}") from error
    run(load(file, serves=True), path if path is not None else listen)
    return Exit.OK
