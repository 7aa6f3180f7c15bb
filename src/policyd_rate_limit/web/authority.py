"""What somebody may see and do. Pages and API ask here, and nowhere else.

A role says whether somebody may change anything. Domains, where an account has any, say of whom: their administrator
sees the users and senders of these domains alone, and may lower what those may send, never raise it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.counter import kind_of
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.rules.attributes import ascii_domain, domain_of
from policyd_rate_limit.domain.rules.keys import DOMAIN_KINDS
from policyd_rate_limit.errors import PolicydError, StoreFull

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policyd_rate_limit.admin.desk import Desk
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Override

PEOPLE = frozenset({"user", "sender"})
"""The kinds of counters that belong to a domain by what follows the last ``@`` of their id."""


MOST_IN_FORCE = 1_000
"""Overrides of the ids of its domains that an account bound to domains may add to: a tenth of all that there may be."""


class Role(enum.StrEnum):
    """What an account or a token is for."""

    VIEW = "view"  # sees, and changes nothing
    OPERATE = "operate"  # sees, and changes
    DOVECOT = "dovecot"  # of tokens alone: asks whether a user may log in, and nothing else


class Forbidden(PolicydError):
    """Somebody may not do what they ask for; the message says what they may not."""


class Authority(NamedTuple):
    """A ``role``, for ``domains`` alone, in their ASCII form (RFC 5891); none: for everybody."""

    role: Role
    domains: tuple[str, ...] = ()

    @property
    def is_for_all(self) -> bool:
        """Whether it is bound to no domain."""
        return not self.domains

    @property
    def may_change(self) -> bool:
        """Whether it is a role that changes anything at all."""
        return self.role is Role.OPERATE

    def reaches(self, counter: str) -> bool:
        """Whether it may see ``counter``: how much it has counted, its limits, its overrides."""
        if self.role is Role.DOVECOT:
            return False
        return self.is_for_all or _domain_of(counter) in self.domains

    def reached(self, counters: Iterable[str]) -> tuple[str, ...]:
        """Those of ``counters`` that it may see."""
        return tuple(filter(self.reaches, counters))

    def at(self, desk: Desk) -> Desk:
        """``desk`` as it may use it: a name may be of its domains in one rule, and in another one of somebody else.

        Where a rule counts recipients, ``alice@example.org`` is also whoever writes to her.
        """
        return desk if self.is_for_all else desk.limited_to(self.reaches)

    def check_sight(self, counters: Iterable[str]) -> None:
        """Raise Forbidden unless it may see each of ``counters``, which are those that an id stands for."""
        if not all(map(self.reaches, counters)):
            raise Forbidden(f"that is not of {_written(self.domains)}, and this account sees nothing else")

    def check_change(self, counters: Iterable[str]) -> None:
        """Raise Forbidden unless it may change each of ``counters`` at all."""
        counters = tuple(counters)
        self.check_sight(counters)
        if not self.may_change:
            raise Forbidden("this account may look, and change nothing")

    def check_whole(self, what: str) -> None:
        """Raise Forbidden unless it is for everybody: ``what`` is of no single domain."""
        if self.role is Role.DOVECOT or not self.is_for_all:
            raise Forbidden(f"{what} is for accounts that are bound to no domain")

    def check_override(
        self, desk: Desk, name: str, limits: Limits, seconds: int, rule: str | None = None
    ) -> Mapping[str, Override] | None:
        """Raise Forbidden unless it may put ``limits`` in force for ``name``, for so many ``seconds``.

        That may be right only as long as the overrides are in force that it returns; None: it is right in any case.

        Who is bound to domains may lower alone: not below what is in force with any of them, and not for a shorter time
        than an override that lowers already. Asks the store; raises NotAnId and StoreError.
        """
        counters = desk.keys(name, rule)
        self.check_change(counters)
        if self.is_for_all:
            return None
        overrides = desk.overrides()
        of_domains = {*self.reached(overrides), *counters}
        if len(of_domains) > MOST_IN_FORCE and not overrides.keys() >= set(counters):
            raise StoreFull(f"{MOST_IN_FORCE} overrides are in force in {_written(self.domains)}, and no more may be")
        for counter in counters:
            override = overrides.get(counter)
            in_force = desk.in_force(counter, override, desk.from_table(counter, name)).limits
            usual = desk.in_force(counter, None, desk.from_table(counter, name)).limits
            if not (is_no_looser(limits, in_force) and is_no_looser(limits, usual)):
                raise Forbidden("an administrator of domains may lower limits, and these would be higher")
            if override is not None and override.until > desk.store.now() + seconds and not _raises(in_force, usual):
                raise Forbidden("stricter limits are in force for longer than that, and would end earlier")
        return overrides

    def check_revoke(self, desk: Desk, name: str, rule: str | None = None) -> Mapping[str, Override] | None:
        """Raise Forbidden unless it may end the overrides of ``name``; returns what :meth:`check_override` does.

        Who is bound to domains may end those alone that raise limits. Asks the store; raises NotAnId and StoreError.
        """
        counters = desk.keys(name, rule)
        self.check_change(counters)
        if self.is_for_all:
            return None
        overrides = desk.overrides()
        for counter in counters:
            if counter in overrides:
                usual = desk.in_force(counter, None, desk.from_table(counter, name)).limits
                if not _raises(overrides[counter].limits, usual):
                    raise Forbidden("an administrator of domains may not end a block or lower limits")
        return overrides

    def check_reset(self, desk: Desk, name: str, rule: str | None = None) -> None:
        """Raise Forbidden unless it may take back what was counted for ``name``, which frees it. Raises NotAnId."""
        self.check_change(desk.keys(name, rule))
        if not self.is_for_all:
            raise Forbidden("an administrator of domains may not take back what was counted")


def is_no_looser(new: Limits, old: Limits) -> bool:
    """Whether whatever ``new`` admits, ``old`` admits as well, of which none (``()``) is no limit.

    At most N in S seconds implies at most as many or more in as many seconds or fewer.
    """
    return all(any(n.maximum <= o.maximum and (n.seconds >= o.seconds or not n.maximum) for n in new) for o in old)


def _raises(override: Limits, usual: Limits) -> bool:
    """Whether to end ``override`` lets nothing more pass."""
    return is_no_looser(usual, override)


def _domain_of(counter: str) -> str:
    """The domain that ``counter`` belongs to, in its ASCII form; empty: to none."""
    kind = kind_of(counter)
    if kind in PEOPLE:
        return domain_of(id_of_key(counter))
    if kind in DOMAIN_KINDS and kind != "recipient_domain":
        return ascii_domain(id_of_key(counter))
    return ""


def _written(domains: tuple[str, ...]) -> str:
    return ", ".join(domains) or "anything"
