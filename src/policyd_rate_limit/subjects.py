"""Makes the subjects that the settings have charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.identity import Subjects

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.config import Settings


def make_subjects(settings: Settings, pause: Callable[[], None] | None = None) -> Subjects:
    """Who is charged within which limits; ``pause`` is called now and then while that is made of many ids."""
    return Subjects(
        limits=settings.limits,
        limits_by_id=settings.limits_by_id,
        limit_by_sasl=settings.limit_by_sasl,
        limit_by_sender=settings.limit_by_sender,
        limit_by_ip=settings.limit_by_ip,
        limited_networks=settings.limited_networks,
        ipv6_prefix=settings.ipv6_prefix,
        pause=pause,
    )
