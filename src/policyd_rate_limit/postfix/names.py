"""Which restrictions this Postfix knows; one that it does not know makes smtpd answer 451 4.3.5 to everybody."""

from __future__ import annotations

import difflib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.postfix import restrictions
from policyd_rate_limit.postfix.restrictions import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policyd_rate_limit.postfix.postconf import Postfix
    from policyd_rate_limit.postfix.restrictions import Restriction

MOST_PROGRAM_BYTES = 1 << 26
"""Of smtpd(8) that are read; Debian's has a quarter of a million."""

_ACCESS = (
    *("ccert", "client", "client_a", "client_mx", "client_ns", "etrn", "helo", "helo_a", "helo_mx", "helo_ns"),
    *("recipient", "recipient_a", "recipient_mx", "recipient_ns", "sasl", "sender", "sender_a", "sender_mx"),
    *("sender_ns", "reverse_client_hostname", "reverse_client_hostname_a", "reverse_client_hostname_mx"),
    "reverse_client_hostname_ns",
)
_PERMIT = (
    *("auth_destination", "dnswl_client", "inet_interfaces", "mx_backup", "mynetworks", "naked_ip_address"),
    *("rhswl_client", "sasl_authenticated", "tls_all_clientcerts", "tls_clientcerts"),
)
_REJECT = (
    *("authenticated_sender_login_mismatch", "invalid_helo_hostname", "invalid_hostname"),
    *("known_sender_login_mismatch", "maps_rbl", "multi_recipient_bounce", "non_fqdn_helo_hostname"),
    *("non_fqdn_hostname", "non_fqdn_recipient", "non_fqdn_sender", "plaintext_session", "rbl", "rbl_client"),
    *("rhsbl_client", "rhsbl_helo", "rhsbl_recipient", "rhsbl_reverse_client", "rhsbl_sender"),
    *("sender_login_mismatch", "unauth_destination", "unauth_pipelining"),
    *("unauthenticated_sender_login_mismatch", "unknown_address", "unknown_client", "unknown_client_hostname"),
    *("unknown_helo_hostname", "unknown_hostname", "unknown_recipient_domain"),
    *("unknown_reverse_client_hostname", "unknown_sender_domain", "unlisted_recipient", "unlisted_sender"),
    *("unverified_recipient", "unverified_sender"),
)

NAMES = frozenset(
    (
        *(f"check_{what}_access" for what in _ACCESS),
        *(f"permit_{what}" for what in _PERMIT),
        *(f"reject_{what}" for what in _REJECT),
        *("check_policy_service", "check_recipient_maps", "check_relay_domains", "defer", "defer_if_permit"),
        *("defer_if_reject", "defer_unauth_destination", "permit", "reject", "sleep", "warn_if_reject"),
    )
)
"""Those of Postfix 3.0 to 3.10: postconf(5), the older names in SMTPD_ACCESS_README and RELEASE_NOTES included."""

REMOVED = {"check_relay_domains": (3, 9), "permit_naked_ip_address": (3, 9), "reject_maps_rbl": (3, 9)}
"""The version from which on Postfix answers with a configuration error: DEPRECATION_README."""

_NEWER = re.compile(r"(check|defer|permit|reject|warn)_[a-z0-9_]+")
_CLOSE = 0.8


class RestrictionNames:
    """The names that the smtpd of ``postfix`` understands in a list of restrictions."""

    def __init__(self, postfix: Postfix) -> None:
        self.version = f"Postfix {postfix.value('mail_version')}"
        numbers = re.match(r"(\d+)\.(\d+)", postfix.value("mail_version"))
        self._version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
        self._program = Path(postfix.value("daemon_directory")) / "smtpd"

    def knows(self, name: str) -> bool:
        """Whether ``name``, in lower case, is a restriction."""
        if name in NAMES:
            return self._version < REMOVED.get(name, (1 << 30, 0))
        # One of a later version: the program has each of its names as a text of C, or at the end of a longer one.
        return _NEWER.fullmatch(name) is not None and name.encode() + b"\0" in self._texts

    def nearest(self, name: str) -> str | None:
        """What may have been meant by a name that is not known."""
        known = [candidate for candidate in sorted(NAMES) if self.knows(candidate)]
        return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE)), None)

    @cached_property
    def _texts(self) -> bytes:
        try:
            with self._program.open("rb") as program:
                return program.read(MOST_PROGRAM_BYTES)
        except OSError:
            return b""


def cleaned(
    found: Iterable[Restriction],
    names: RestrictionNames,
    classes: Mapping[str, str] | None = None,
    *,
    tables: bool = True,
) -> list[Restriction]:
    """``found`` as smtpd understands it: options in their braces, slips of the pen mended, other words left out.

    ``tables``: whether a table alone is a restriction there.
    """
    kept = []
    for restriction in found:
        name = restriction.name
        if name not in (classes or {}) and not (":" in name and tables) and not names.knows(name):
            nearest = names.nearest(name)
            if nearest is None:
                continue
            name = nearest
        if restrictions.takes_an_argument(name) and not restriction.argument:
            continue
        argument = restriction.argument
        if name == "check_policy_service":
            asked = restrictions.policy_service(argument, restriction.stray)
            if restriction.stray or set(asked.options) - OPTIONS:
                known = {option: value for option, value in asked.options.items() if option in OPTIONS}
                argument = str(asked._replace(options=known))
        kept.append(restriction._replace(name=name, argument=argument, stray=()))
    return kept
