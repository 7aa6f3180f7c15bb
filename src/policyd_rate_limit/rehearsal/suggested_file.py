"""A suggestion as a configuration: rules in the language of the file, with comments that say why."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from datetime import datetime, tzinfo
from typing import Final

from policyd_rate_limit.domain.limits import Limit, spell_limit, spell_period
from policyd_rate_limit.domain.networks import parse_network
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.rehearsal.suggestion import Outlier, SuggestedRule, Suggestion
from policyd_rate_limit.system.logs import one_line

MOST_NAMED: Final = 100
"""The most accounts that look stolen which the comments name; the JSON and the page have all."""

_WIDTH: Final = 118
_PLAIN: Final = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*(@[a-z0-9][a-z0-9.-]*)?")
_PATTERN_SIGNS: Final = re.compile(r"[*?]|\A\$|\A/.+/\Z", re.DOTALL)
_KEYWORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def configuration(suggestion: Suggestion, zone: tzinfo, now: float) -> str:
    """The configuration that says what ``suggestion`` does, in YAML; ``now``: Unix seconds."""
    return "\n".join([*_head(suggestion, zone, now), *_rules(suggestion)]) + "\n"


def unwritable(rule: SuggestedRule) -> int:
    """How many outliers have a name that no configuration can hold, such as one that is not UTF-8."""
    return sum(not _is_writable(outlier.name) for outlier in rule.outliers)


def pattern(name: str, *, is_client: bool) -> str:
    """The pattern that matches the id ``name``, which is a client's or not, and nothing else."""
    if not is_client and (_PATTERN_SIGNS.search(name) or ("/" in name and _is_network(name))):
        return f"/\\A{re.escape(name)}\\Z/"
    return name


def _head(suggestion: Suggestion, zone: tzinfo, now: float) -> Iterator[str]:
    of_what = f"{quantity(suggestion.mails, 'mail')} to {quantity(suggestion.recipients, 'recipient')}"
    made = f"Suggested by policyd-rate-limit suggest on {_moment(now, zone)}"
    yield from _comment(f"{made}, of {of_what}{_from_to(suggestion, zone)}.")
    yield "# Only what is below is said here: bring it into the configuration that you have, and rehearse that with"
    yield "#   policyd-rate-limit simulate -f FILE LOG..."
    for remark in suggestion.remarks:
        yield from _comment(f"{remark[:1].upper()}{remark[1:]}.")
    if suggestion.suspects:
        yield "#"
        number = quantity(len(suggestion.suspects), "account")
        yield from _comment(
            f"{number} may be stolen. What they did is left out of what is below, and would be refused. Look at them; "
            "who is honest needs an entry in overrides."
        )
        for suspect in suggestion.suspects[:MOST_NAMED]:
            yield f"# - {one_line(suspect.name)}, on {suspect.day:%a %Y-%m-%d}:"
            for reason in suspect.reasons:
                yield from _comment(one_line(reason), "    ")
        if len(suggestion.suspects) > MOST_NAMED:
            yield f"# - and {len(suggestion.suspects) - MOST_NAMED} more: --json and --html name all"


def _rules(suggestion: Suggestion) -> Iterator[str]:
    yield ""
    if not suggestion.rules:
        yield "rules: {}"
        return
    yield "rules:"
    for rule in suggestion.rules:
        subject = rule.subject
        yield f"  {subject.name}:"
        yield f"    key: {subject.key}"
        if not subject.of_users:
            yield '    match: {sasl_username: ""}'
        yield from _comment(_why(rule, suggestion), "", "    ")
        yield f"    limits: {_limits(window.limit for window in rule.windows)}"
        written = [outlier for outlier in rule.outliers if _is_writable(outlier.name)]
        if written:
            yield "    overrides:"
            for outlier in written:
                yield from _override(outlier, is_client=subject.key == "client_address")
        if len(written) < len(rule.outliers):
            left_out = len(rule.outliers) - len(written)
            yield from _comment(f"{left_out} more of a name that no configuration can hold", "", "    ")


def _why(rule: SuggestedRule, suggestion: Suggestion) -> str:
    peaks = ", ".join(f"{one.spared} in {spell_period(one.seconds)}" for one in rule.windows)
    of_all = f"{float(suggestion.spare):g} % of {quantity(rule.ids, rule.subject.noun, rule.subject.nouns)}"
    room = f"{float(suggestion.room):g} times that is allowed, up to a round number."
    crowded = (
        " There was no room to tell all of them apart: these are too high, if anything." if rule.is_crowded else ""
    )
    gone = (
        f" {quantity(rule.forgotten, 'time', 'times')} one of those who send least had to be forgotten."
        if rule.forgotten
        else ""
    )
    return f"{of_all} never had more than {peaks}: {room}{crowded}{gone}"


def _override(outlier: Outlier, *, is_client: bool) -> Iterator[str]:
    yield from _comment(one_line(outlier.why), "", "      ")
    yield f"      {_key(pattern(outlier.name, is_client=is_client))}: {_limits(outlier.limits)}"


def _limits(limits: Iterable[Limit]) -> str:
    return f"[{', '.join(map(spell_limit, limits))}]"


def _comment(text: str, hanging: str = "", indent: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        _WIDTH - len(indent),
        initial_indent=f"{indent}# {hanging}",
        subsequent_indent=f"{indent}# {hanging}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _key(text: str) -> str:
    """``text`` as a key of YAML: as it is where nothing else can be meant, else in quotes."""
    if _PLAIN.fullmatch(text) and text not in _KEYWORDS:
        return text
    return f'"{"".join(map(_quoted, text))}"'


def _quoted(sign: str) -> str:
    if sign in '"\\':
        return f"\\{sign}"
    return sign if sign.isprintable() else f"\\U{ord(sign):08x}"


def _is_writable(name: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" or sign == "\0" for sign in name)


def _is_network(name: str) -> bool:
    try:
        parse_network(name)
    except ValueError:
        return False
    return True


def _from_to(suggestion: Suggestion, zone: tzinfo) -> str:
    if suggestion.began is None or suggestion.ended is None:
        return ""
    return f" from {_moment(suggestion.began, zone)} to {_moment(suggestion.ended, zone)}"


def _moment(time: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(time, zone):%Y-%m-%d %H:%M}"
