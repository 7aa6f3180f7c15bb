"""``explain [ATTRIBUTE=VALUE ...]``: what the rules make of one request."""

from __future__ import annotations

import sys
import time
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.condition_words import condition_in_words
from policyd_rate_limit.admin.explanation import Applied, Explanation, Skipped, explain
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.admin.rule_words import stages_in_words
from policyd_rate_limit.cli.exits import Exit, tell
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import duration, json_option, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import written, written_override
from policyd_rate_limit.domain.limits import spell_limit, spell_period
from policyd_rate_limit.domain.request import RCPT
from policyd_rate_limit.domain.rules.attributes import KINDS
from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.language.wording import english
from policyd_rate_limit.protocol.attributes import MAX_REQUEST, POLICY_REQUEST, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.conditions import Condition

_MADE = ("sasl_domain", "sender_domain", "recipient_domain", "country", "time")
_MADE_OF = {"time": "the clock of this host", "country": "that of client_address"}
_KNOWN = ("request", *(name for name in KINDS if name not in _MADE))


@click.command(short_help="Say what the rules make of a request.")
@click.argument("attributes", metavar="[ATTRIBUTE=VALUE]...", nargs=-1)
@json_option
@click.pass_obj
def command(path: Path | None, attributes: tuple[str, ...], as_json: bool) -> Exit:
    """Say which rules apply to a request, with which limits, what is used of them, and why the others do not.

    Nothing is counted. ATTRIBUTE is one of Postfix's policy protocol, such as sasl_username=alice
    client_address=192.0.2.1; without any they are read from standard input, one a line, as Postfix sends them. A
    protocol_state that is not given is RCPT.
    """
    lines = attributes or _sent()
    given = _read(lines)
    is_assumed = not given.get("protocol_state")
    request = _request({"request": POLICY_REQUEST, **given, **({"protocol_state": RCPT} if is_assumed else {})})
    settings = load(path)
    with open_desk(settings) as desk:
        found = explain(settings, desk, request)
    if as_json:
        write_json(facts.of_explanation(request.protocol_state, found))
    else:
        assumed = " (protocol_state is not given)" if is_assumed else ""
        country = "" if found.country is None else f", {_from(found.country)}"
        begin = Cell(f"at {request.protocol_state}{assumed}{country}, nothing is counted:")
        write([begin, *map(_told, found.rules), *map(_unasked, found.unasked), _end(found)])
    if found.failure is None:
        return Exit.OK
    tell(found.failure)
    return Exit.RUN_TIME


def _sent() -> Sequence[str]:
    """The lines of the request on standard input."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_REQUEST + 1)
    return data.decode("utf-8", "surrogateescape").partition("\n\n")[0].strip("\n").split("\n") if data else ()


def _read(lines: Sequence[str]) -> dict[str, str]:
    """The attributes in ``lines``. Raises click.BadParameter."""
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if not equals or "\n" in line:
            raise click.BadParameter(f"expected ATTRIBUTE=VALUE, found {line!r}")
        if name in _MADE:
            what = _MADE_OF.get(name, "made of the address that it is the domain of")
            raise click.BadParameter(f"{name} is no attribute of a request: it is {what}")
        if name not in _KNOWN:
            near = get_close_matches(name.lower()[:100], _KNOWN, 1)
            raise click.BadParameter(f"unknown attribute {name!r}{f'; did you mean {near[0]}?' if near else ''}")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    if not found:
        raise click.BadParameter("expected attributes such as sasl_username=alice, found none")
    return found


def _request(given: dict[str, str]) -> Request:
    text = "".join(f"{name}={value}\n" for name, value in given.items())
    try:
        return decode(text.encode("utf-8", "surrogateescape"))
    except ProtocolError as error:
        raise click.BadParameter(str(error)) from error


def _from(country: str) -> str:
    return f"from country {country}" if country else "from no country that is known"


def _told(one: Applied | Skipped) -> Cell:
    return Cell(f"{one.rule.name}: {_why_not(one) if isinstance(one, Skipped) else _applied(one)}")


def _why_not(one: Skipped) -> str:
    if one.stages:
        return f"does not apply: it counts at {stages_in_words(one.rule, english())} alone"
    if one.failing:
        return f"does not apply: match does not hold, {_seen(one.failing, 'not that ')}"
    if one.exempting:
        return f"does not apply: unless holds, {_seen(one.exempting, '')}"
    if one.rule.match is None and one.empty and one.empty[0].startswith("limit_by_"):
        return f"does not apply: nobody whom it charges ({english().listed(one.empty)}) sends it"
    return (
        f"does not apply: {english().listed(one.empty)} {'is' if len(one.empty) == 1 else 'are'} empty"
        if one.empty
        else ("does not apply: it charges nobody")
    )


def _seen(conditions: Sequence[tuple[Condition, str]], negation: str) -> str:
    return "; ".join(f"{negation}{condition_in_words(one, english())} (it is {value!r})" for one, value in conditions)


def _applied(one: Applied) -> str:
    in_force = one.in_force
    source = f"override {one.pattern} of {in_force.source}" if one.pattern else in_force.source
    limits = f"{written(in_force.limits)}, from {source}"
    if in_force.override is not None:
        limits = written_override(in_force.override, int(time.time()))
    used = [f"{usage.used} of {spell_limit(usage.limit)}{_free(usage.free_in)}" for usage in one.usages or ()]
    known = "used is not known" if one.usages is None else f"used {', '.join(used)}" if used else ""
    warns = f"warns at {one.rule.warn} %" if one.rule.warn else ""
    blocks = f"blocks for {spell_period(one.rule.block)}" if one.rule.block else ""
    shadow = "in shadow" if one.rule.shadow else ""
    charges = f"charges {english().amount(one.cost, one.rule.unit)} to {one.counter}"
    parts = [charges, limits, known, warns, blocks, shadow]
    return "; ".join(part for part in parts if part)


def _free(seconds: int | None) -> str:
    if seconds is None:
        return " (exceeded, however long it waits)"
    return f" (exceeded, free in {duration(seconds)})" if seconds else ""


def _unasked(table: str) -> Cell:
    return Cell(f"tables.{table}: not known while the database is away, and taken to say nothing")


def _end(found: Explanation) -> Cell:
    if found.outcome is None:
        return Cell("answer: not known while the database is away")
    return Cell(f"answer now: {found.outcome.action or 'none'} ({found.outcome.kind})", "bold")
