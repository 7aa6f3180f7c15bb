"""``web-token create|list|revoke``: what programs show to the API."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import click

from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.output import json_option, moment
from policyd_rate_limit.cli.web_accounts import (
    accounts_in,
    changing,
    domain_option,
    enter,
    name_argument,
    read_authority,
    write_list,
)
from policyd_rate_limit.cli.words import period
from policyd_rate_limit.web.accounts import Token, token_digest

ROLES = ["view", "operate", "dovecot"]
LONGEST = 10 * 365 * 86_400  # seconds
TOKEN_BYTES = 32
BEGINNING = "prl_"
"""Of each token, by which scanners for secrets in sources know one."""


@click.group(short_help="Make and revoke tokens of the API.", subcommand_metavar="create|list|revoke")
def command() -> None:
    """Make and revoke the tokens by which programs use the API. What is changed holds within a second or two.

    The file that the setting web_accounts names keeps nothing of a token but its SHA-256.
    """


@command.command("create", short_help="Make a token, and write it once.")
@name_argument
@click.option(
    "--role",
    default="view",
    show_default=True,
    type=click.Choice(ROLES),
    help="To look, to change, too, or for Dovecot's auth-policy alone.",
)
@domain_option
@click.option(
    "--for",
    "seconds",
    metavar="PERIOD",
    callback=lambda context, option, text: None if text is None else period(LONGEST)(context, option, text),
    help="How long it is valid: 90d, 52w. Else until it is revoked.",
)
@click.pass_obj
def create(path: Path | None, name: str, role: str, domains: tuple[str, ...], seconds: int | None) -> Exit:
    """Make a token and write it to standard output; nobody can tell it again. NAME is what list and audit call it.

    Exits with 1 when there is a token of that name.
    """
    its = read_authority(role, domains)
    token = BEGINNING + secrets.token_urlsafe(TOKEN_BYTES)
    now = int(time.time())
    with changing(path) as (accounts, put):
        if name in accounts.tokens:
            click.echo(f"there is a token {name} already: revoke ends it", err=True)
            return Exit.NO
        expires = None if seconds is None else now + seconds
        put(accounts.with_token(Token(name, its, token_digest(token), now, expires)))
    click.echo(token)
    enter(path, "web-token create", name, its)
    return Exit.OK


@command.command("list", short_help="List the tokens.")
@json_option
@click.pass_obj
def list_all(path: Path | None, as_json: bool) -> Exit:
    """List the tokens: what each may, and until when. What they are is not kept."""
    found = [
        (
            one,
            {"created": one.created, "expires": one.expires},
            [moment(one.created), "never" if one.expires is None else moment(one.expires)],
        )
        for one in accounts_in(path).tokens.values()
    ]
    write_list("tokens", ["CREATED", "EXPIRES"], found, as_json=as_json)
    return Exit.OK


@command.command("revoke", short_help="End a token.")
@name_argument
@click.pass_obj
def revoke(path: Path | None, name: str) -> Exit:
    """Have the token NAME be worth nothing from now on. Exits with 1 when there is none."""
    with changing(path) as (accounts, put):
        if name not in accounts.tokens:
            click.echo(f"there is no token {name}", err=True)
            return Exit.NO
        put(accounts.without_token(name))
    enter(path, "web-token revoke", name)
    return Exit.OK
