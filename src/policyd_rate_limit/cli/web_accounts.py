"""What ``web-user`` and ``web-token`` have in common: the accounts file and what is said of roles and domains."""

from __future__ import annotations

import contextlib
import grp
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.cli.actor import of_this_shell
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.web import accounts_file
from policyd_rate_limit.web.accounts import EXPECTED_NAME, NAME, NOBODY, Accounts, AccountsError, authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.web.accounts import Account, Token
    from policyd_rate_limit.web.authority import Authority

_log = logging.getLogger(__name__)


def _name(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if not NAME.fullmatch(text):
        raise click.BadParameter(f"expected {EXPECTED_NAME}, found {text!r}")
    return text


name_argument = click.argument("name", callback=_name)

domain_option = click.option(
    "--domain",
    "domains",
    metavar="DOMAIN",
    multiple=True,
    help="Only for the users and senders of this domain, whose limits may then be lowered alone; may be repeated.",
)


def read_authority(role: str, domains: tuple[str, ...]) -> Authority:
    """What a command line says somebody may. Raises click.BadParameter."""
    try:
        return authority(role, domains)
    except AccountsError as error:
        raise click.BadParameter(str(error), param_hint="--domain") from error


def accounts_in(path: Path | None) -> Accounts:
    """Those in the file that the configuration at ``path`` names; none where there is no file yet."""
    file = _file(path)
    return accounts_file.load(file)[0] if file.exists() else NOBODY


@contextlib.contextmanager
def changing(path: Path | None) -> Iterator[tuple[Accounts, Callable[[Accounts], None]]]:
    """The accounts, and the means to put others in their place, as nobody else does meanwhile. Raises AccountsError."""
    settings = load(path)
    try:
        group: int | None = grp.getgrnam(settings.group).gr_gid
    except KeyError:
        group = None
        _log.warning("group %s does not exist, and so root alone may read the file", settings.group)
    file = Path(settings.web_accounts)
    with accounts_file.changing(file, group) as put:
        yield (accounts_file.load(file)[0] if file.exists() else NOBODY), put


def enter(path: Path | None, action: str, subject: str, its: Authority | None = None) -> None:
    """Tell the audit trail of ``action`` on the account or token ``subject``, which ``its`` says may do what.

    The last thing that a command does: root becomes the daemons' account for it. That the database is away is no reason
    not to make, or end, an account, and is said; so is that no daemon has made it yet.
    """
    settings = load(path)
    if not backend_of(settings).is_made:
        _log.warning("the audit trail does not tell of this: no daemon has made the database yet")
        return
    by = of_this_shell()
    domains = ", ".join(its.domains) if its is not None else ""
    detail = "" if its is None else f"{its.role} for {domains or 'all'}"
    try:
        with open_desk(settings) as desk:
            desk.store.note(by, action, subject, detail)
    except PolicydError as error:
        _log.warning("the audit trail does not tell of this: %s", error)


def write_list(
    what: str,
    columns: Sequence[str],
    found: Iterable[tuple[Account | Token, Mapping[str, object], Sequence[str]]],
    *,
    as_json: bool,
) -> None:
    """Write the list of ``found``, which are ``what``: accounts or tokens.

    Beside each stands what is told of it behind name, role and domains: members of its JSON, texts in ``columns``.
    """
    found = sorted(found, key=lambda one: one[0].name)
    if as_json:
        told = [
            {"name": one.name, "role": str(one.authority.role), "domains": list(one.authority.domains), **members}
            for one, members, _ in found
        ]
        write_json({what: told})
    elif found:
        rows = [
            [
                Cell(one.name),
                Cell(str(one.authority.role)),
                Cell(" ".join(one.authority.domains) or "all"),
                *map(Cell, texts),
            ]
            for one, _, texts in found
        ]
        write([Table([Column("NAME", name=True), *map(Column, ("ROLE", "DOMAINS", *columns))], rows)])
    else:
        write([Cell(f"there are no {what}")])


def _file(path: Path | None) -> Path:
    return Path(load(path).web_accounts)
