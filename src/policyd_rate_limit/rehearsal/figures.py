"""What was read of a log, and what of it was not rehearsed, and why: each a figure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from policyd_rate_limit.maillog.mail import Origin

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.tally import Tally


@dataclass(slots=True)
class Figures:
    """Mails, and refusals, that were left out, or of which not all is known.

    ``nobody_asks``: which smtpd did not take, so that no policy server is asked: local ones, bounces, what a content
    filter hands back. ``refused_otherwise``: refusals that were not those of a rate limit. ``refused_elsewhere``: those
    of a rate limit at a stage at which nothing counts. ``refused_for_content``: mails that a milter or a content check
    refused at their end, which are rehearsed. ``not_asked``: mails about which the daemon, whose decisions the log
    tells, was not asked. ``known_from_decisions``: mails that are known from its decisions.
    """

    nobody_asks: int = 0
    refused_otherwise: int = 0
    refused_elsewhere: int = 0
    refused_for_content: int = 0
    not_asked: int = 0
    known_from_decisions: int = 0


def of_log(tally: Tally, figures: Figures) -> dict[str, int]:
    """All figures by name, as programs and pages are told."""
    return {
        "lines": tally.lines,
        "of_postfix": tally.of_postfix,
        "of_daemon": tally.of_daemon,
        "of_others": tally.others,
        "not_understood": tally.not_understood,
        **{origin.value: tally.mails[origin] for origin in Origin},
        "decisions": tally.decisions,
        "unfinished": tally.unfinished,
        "again": tally.again,
        "backwards": tally.backwards,
        **asdict(figures),
    }
