"""``web-user add|passwd|remove|list``: who may log in to the web page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.output import json_option
from policyd_rate_limit.cli.web_accounts import (
    accounts_in,
    changing,
    domain_option,
    enter,
    name_argument,
    read_authority,
    write_list,
)
from policyd_rate_limit.web.accounts import Account
from policyd_rate_limit.web.passwords import MOST_BYTES, hash_password, why_not

ROLES = ["view", "operate"]


@click.group(short_help="Make and remove accounts of the web page.", subcommand_metavar="add|passwd|remove|list")
def command() -> None:
    """Make and remove the accounts that may log in to the web page. What is changed holds within a second or two.

    web-user add NAME asks for a password, or reads one line from standard input. The file of the accounts keeps a
    hash of it (scrypt); the setting web_accounts names it.
    """


@command.command("add", short_help="Make an account.")
@name_argument
@click.option("--role", default="view", show_default=True, type=click.Choice(ROLES), help="To look, or to change, too.")
@domain_option
@click.option("--no-password", is_flag=True, help="Only for whom the proxy has logged in (web_user_header).")
@click.pass_obj
def add(path: Path | None, name: str, role: str, domains: tuple[str, ...], no_password: bool) -> Exit:
    """Make the account NAME. Exits with 1 when there is one already."""
    its = read_authority(role, domains)
    kept = None if no_password else hash_password(_password())
    with changing(path) as (accounts, put):
        if name in accounts.accounts:
            click.echo(f"{name} has an account already: passwd changes its password, remove ends it", err=True)
            return Exit.NO
        put(accounts.with_account(Account(name, its, kept)))
    enter(path, "web-user add", name, its)
    return Exit.OK


@command.command("passwd", short_help="Give an account another password.")
@name_argument
@click.pass_obj
def passwd(path: Path | None, name: str) -> Exit:
    """Give the account NAME another password, and end its sessions. Exits with 1 when there is none."""
    if name not in accounts_in(path).accounts:
        return _unknown(name)
    kept = hash_password(_password())
    with changing(path) as (accounts, put):
        account = accounts.accounts.get(name)
        if account is None:
            return _unknown(name)
        put(accounts.with_account(account._replace(password=kept)))
    enter(path, "web-user passwd", name)
    return Exit.OK


@command.command("remove", short_help="Remove an account.")
@name_argument
@click.pass_obj
def remove(path: Path | None, name: str) -> Exit:
    """Remove the account NAME, and end its sessions. Exits with 1 when there is none."""
    with changing(path) as (accounts, put):
        if name not in accounts.accounts:
            return _unknown(name)
        put(accounts.without_account(name))
    enter(path, "web-user remove", name)
    return Exit.OK


@command.command("list", short_help="List the accounts.")
@json_option
@click.pass_obj
def list_all(path: Path | None, as_json: bool) -> Exit:
    """List the accounts, and what each may."""
    found = [
        (one, {"password": one.password is not None}, ["at the proxy" if one.password is None else "yes"])
        for one in accounts_in(path).accounts.values()
    ]
    write_list("accounts", ["PASSWORD"], found, as_json=as_json)
    return Exit.OK


def _unknown(name: str) -> Exit:
    click.echo(f"{name} has no account", err=True)
    return Exit.NO


def _password() -> str:
    """Asked for twice on a terminal, else one line of standard input. Raises click.UsageError."""
    if sys.stdin is not None and sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, type=str)
    else:
        password = sys.stdin.readline(MOST_BYTES + 2).removesuffix("\n").removesuffix("\r") if sys.stdin else ""
    wrong = why_not(password)
    if wrong is not None:
        raise click.UsageError(f"that is no password to be set: {wrong}")
    return password
