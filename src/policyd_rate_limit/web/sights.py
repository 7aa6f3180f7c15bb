"""What visitors see of one id, and of all: what is not theirs is left out. For pages and API alike.

Each is to be asked of :class:`.desks.Desks`, and raises NotAnId, Forbidden and StoreError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.admin.close_up import close_up
from policyd_rate_limit.admin.heaviest import Heaviest
from policyd_rate_limit.admin.history import history
from policyd_rate_limit.admin.overview import overview, overview_by
from policyd_rate_limit.admin.senders import Senders
from policyd_rate_limit.admin.standing import standings
from policyd_rate_limit.admin.strangers import stranger

if TYPE_CHECKING:
    from policyd_rate_limit.admin.buckets import Step
    from policyd_rate_limit.admin.close_up import CloseUp
    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.admin.history import History
    from policyd_rate_limit.admin.overview import Overview
    from policyd_rate_limit.admin.remembering import Memory
    from policyd_rate_limit.admin.senders import Sender
    from policyd_rate_limit.admin.standing import Standing
    from policyd_rate_limit.admin.strangers import Stranger
    from policyd_rate_limit.admin.watching import Watcher
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.storage.administration import AuditEntry
    from policyd_rate_limit.web.authority import Authority

MOST_OF_DOMAINS = 50_000
"""Of so many ids of its domains a list for an administrator of domains is made."""


def standings_of(desk: Desk, authority: Authority, name: str, rule: str | None = None) -> list[Standing]:
    """How the counters of ``name`` stand, and those that it shares with others, as far as these may be seen."""
    desk = authority.at(desk)
    authority.check_sight(desk.keys(name, rule))
    return [one for one in standings(desk, name, rule) if authority.reaches(one.key)]


def stranger_of(desk: Desk, authority: Authority, name: str) -> Stranger | None:
    """What to say of ``name`` where nothing is on record of it; of names that are like it those that may be seen."""
    desk = authority.at(desk)
    authority.check_sight(desk.keys(name))
    found = stranger(desk, name)
    return None if found is None else found._replace(nearest=authority.reached(found.nearest))


def history_of(
    desk: Desk, authority: Authority, name: str, step: Step, *, last: int, most: int, rule: str | None = None
) -> History:
    """What ``name`` has sent."""
    desk = authority.at(desk)
    authority.check_sight(desk.keys(name, rule))
    return history(desk, name, step, last=last, most=most, rule=rule)


def close_up_of(desk: Desk, authority: Authority, watcher: Watcher, name: str) -> CloseUp:
    """All about ``name``, and of what it shares with others what may be seen."""
    desk = authority.at(desk)
    authority.check_sight(desk.keys(name))
    return close_up(desk, watcher, name, authority.reaches)


def heaviest_of(
    desk: Desk, authority: Authority, window: int, most: int, *, by_share: bool
) -> tuple[int, list[Sender]]:
    """When that was (Unix second), and who sends most in ``window`` (seconds). Reads all that was counted in it."""
    senders = Senders(desk, window)
    now = senders.look()
    return now, senders.heaviest(most, by_share=by_share, among=authority.reaches)


def heaviest_known(
    desk: Desk, authority: Authority, memory: Memory, window: int, most: int, *, by_share: bool
) -> tuple[int, list[Sender]]:
    """The same, at once, of what ``memory`` knows; of the ids of a domain up to :data:`MOST_OF_DOMAINS`."""
    now = desk.store.now()
    among = None
    if not authority.is_for_all:
        among = authority.reached(memory.of_domains(authority.domains, MOST_OF_DOMAINS))
    return now, Heaviest(desk, memory, window).best(most, by_share=by_share, among=among)


def overview_of(settings: Settings, desk: Desk, authority: Authority, memory: Memory | None = None) -> Overview:
    """How the whole stands. Who is bound to domains sees whether daemon and database are there, and their overrides.

    ``memory``: what is known of all that was counted; None: that is read.
    """
    if authority.is_for_all:
        return overview(settings, desk) if memory is None else overview_by(settings, desk, memory)
    return overview(settings, desk, among=authority.reaches)


def audit_of(
    desk: Desk, authority: Authority, name: str | None, *, since: int, most: int, before: int | None
) -> list[AuditEntry]:
    """The latest changes first, ``most`` of those since ``since`` (Unix second), of ``name`` or of all (None).

    ``before``: only those with lower numbers. Who is bound to domains sees those of single ids alone.
    """
    if name is None:
        authority.check_whole("the audit trail of all")
        return desk.store.audit(since, most=most, before=before)
    subjects = authority.at(desk).keys(name)
    authority.check_sight(subjects)
    return desk.store.audit(since, most=most, before=before, subjects=subjects)
