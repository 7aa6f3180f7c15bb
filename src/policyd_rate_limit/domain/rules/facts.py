"""What is known of a request beside its attributes."""

from __future__ import annotations

from time import localtime, strftime
from typing import Final, Protocol

from policyd_rate_limit.compiling import mypyc_attr


class Countries(Protocol):
    """What knows the countries of addresses."""

    def country_of(self, address: str) -> str:
        """The country of ``address``: two letters of ISO 3166-1 in upper case, empty where there is none.

        It does not wait, and does not fail, whatever a client has sent.
        """


@mypyc_attr(acyclic=True)
class Facts:
    """What rules look at besides what Postfix sent: when the request came, and from which country.

    ``now``: that moment, in Unix seconds. ``countries``: of addresses; None: nobody asks for any.
    """

    def __init__(self, now: float, countries: Countries | None = None) -> None:
        self.now = now
        self._countries = countries
        self._time_of_day = ""

    @property
    def time_of_day(self) -> str:
        """``22:05``, by the clock of this host."""
        if not self._time_of_day:
            self._time_of_day = strftime("%H:%M", localtime(self.now))
        return self._time_of_day

    def country_of(self, address: str) -> str:
        """The country of ``address``, as :meth:`Countries.country_of`; empty where none is known."""
        return "" if self._countries is None else self._countries.country_of(address)


NO_FACTS: Final = Facts(0.0)
"""Those of a request of which nobody asks for any."""
