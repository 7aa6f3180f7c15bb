"""Whose mail each smtpd takes, as main.cf and master.cf tell: users', other servers', or what a filter hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.whom import charges_others, charges_users

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.postfix.postconf import Postfix, Service

_SUBMISSION = ("submission", "submissions", "smtps", "587", "465")


class Services:
    """The smtpd services of ``postfix``, beside whom the rules of ``settings`` charge."""

    def __init__(self, postfix: Postfix, settings: Settings) -> None:
        self._postfix = postfix
        self.charges_others = charges_others(settings)
        self._charges_users = charges_users(settings)

    def has_users(self, service: Service) -> bool:
        """Whether users may authenticate with ``service``, and are charged then."""
        return self._charges_users and self._postfix.is_on("smtpd_sasl_auth_enable", service)

    def may_carry(self, service: Service) -> bool:
        """Whether users whom the daemon should limit send through ``service``."""
        if not self.is_for_users(service) and self.takes_back(service):
            return False
        return self.has_users(service)

    def may_charge(self, service: Service) -> bool:
        """Whether anybody is charged for what comes through ``service``."""
        return self.has_users(service) or self.charges_others

    def is_for_users(self, service: Service) -> bool:
        """Whether only users send through ``service``: it has them authenticate, where others need not."""
        return (
            self._postfix.override("smtpd_sasl_auth_enable", service) or ""
        ).lower() == "yes" or service.name in _SUBMISSION

    def takes_back(self, service: Service) -> bool:
        """Whether ``service`` looks like one to which a content filter hands mail back.

        FILTER_README and SMTPD_PROXY_README have it switch off in master.cf what was done before the filter, and
        believe what the filter says of the client. It may listen anywhere.
        """
        postfix = self._postfix
        if self.is_for_users(service) or service in postfix.behind_pickup:
            return False
        options = postfix.override("receive_override_options", service) or ""
        return (
            service.is_local
            or postfix.override("content_filter", service) == ""
            or postfix.override("smtpd_proxy_filter", service) == ""
            or bool(postfix.override("smtpd_authorized_xforward_hosts", service))
            or "no_header_body_checks" in options
            or "no_unknown_recipient_checks" in options
        )
