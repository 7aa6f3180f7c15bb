"""What a log has to say about limits: its mails, put together as a rehearsal has them, looked at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING

from policyd_rate_limit.rehearsal.decided import DecidedMails
from policyd_rate_limit.rehearsal.figures import Figures
from policyd_rate_limit.rehearsal.gathering import Gathering
from policyd_rate_limit.rehearsal.observing import Observation, Subject
from policyd_rate_limit.rehearsal.replies import Replies
from policyd_rate_limit.rehearsal.users import Users
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.tables.countries import open_countries

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.maillog.mail import Decided, Mail


def learn(
    settings: Settings,
    items: Iterable[Mail | Decided],
    zone: tzinfo,
    subjects: Sequence[Subject],
    windows: Sequence[int],
) -> tuple[Observation, Figures]:
    """What ``items``, in the order of time, show of ``subjects`` in ``windows`` (seconds), and what was left out.

    ``settings`` are those in force: by their texts the refusals of limits are known, of which the mails count as well,
    and their ``geoip`` says in which countries clients are. ``zone``: whose days habits are looked at by. Raises
    ConfigError: the file of countries cannot be read.
    """
    figures = Figures()
    replies = Replies([settings])
    units = {rule.name: rule.unit for rule in make_rules(settings, make_subjects(settings), None)}
    country_of = open_countries(settings).country_of if settings.geoip else None
    observation = Observation(subjects, windows, zone=zone, ipv6_prefix=settings.ipv6_prefix, country_of=country_of)
    users = Users()
    gathered = Gathering(replies, users, figures).gather(items)
    observation.look(DecidedMails(units, users, figures).told(gathered))
    return observation, figures
