"""What is known of a request beside its attributes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import localtime, strftime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from policyd_rate_limit.compiling import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Callable


class Answer(NamedTuple):
    """What a source says of a value; ``text`` None: nothing."""

    text: str | None


@mypyc_attr(allow_interpreted_subclasses=True)
class Source(ABC):
    """Something outside of this process that can be asked about a value, such as a database; ``name``: unique."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def known(self, value: str) -> Answer | None:
        """What it says of ``value``, as far as that is known without asking it; None: it has to be asked."""

    @abstractmethod
    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:
        """Have ``done`` called, at once or later, with what it says of ``value``; None: nothing, as far as is known.

        ``began``: since when the request waits, by the monotonic clock: each is waited for but once.
        """


class Question(NamedTuple):
    """A ``source`` that has to be asked about ``value``."""

    source: Source
    value: str


class Countries(Protocol):
    """What knows the countries of addresses."""

    def country_of(self, address: str) -> str:
        """The country of ``address``: two letters of ISO 3166-1 in upper case, empty where there is none.

        It does not wait, and does not fail, whatever a client has sent.
        """


class Facts:
    """What rules look at besides what Postfix sent: when the request came, from which country, what sources say.

    ``now``: that moment, in Unix seconds. ``countries``: of addresses; None: nobody asks for any. Where a source has to
    be asked, rules see at first that it says nothing, and ``questions`` holds what to ask: once :meth:`learn` has been
    told all the answers, the rules can be looked at again. What is known of a value is the same for as long as the
    request is looked at.
    """

    def __init__(self, now: float, countries: Countries | None = None, *, may_ask: bool = True) -> None:
        self.now = now
        self._countries = countries
        self.questions: list[Question] = []
        self._may_ask = may_ask
        self._time_of_day = ""
        self._answers: dict[Question, str | None] = {}

    @property
    def time_of_day(self) -> str:
        """``22:05``, by the clock of this host."""
        if not self._time_of_day:
            self._time_of_day = strftime("%H:%M", localtime(self.now))
        return self._time_of_day

    def country_of(self, address: str) -> str:
        """The country of ``address``, as :meth:`Countries.country_of`; empty where none is known."""
        return "" if self._countries is None else self._countries.country_of(address)

    def said(self, source: Source, value: str) -> str | None:
        """What ``source`` says of ``value``; None: nothing, or it has to be asked."""
        question = Question(source, value)
        if question in self._answers:
            return self._answers[question]
        answer = source.known(value)
        if not self._may_ask:  # nor keep anything
            return None if answer is None else answer.text
        if answer is not None:
            self._answers[question] = answer.text
            return answer.text
        if question not in self.questions:
            self.questions.append(question)
        return None

    def learn(self, question: Question, text: str | None) -> None:
        """``text`` is the answer to ``question``; None: there is none."""
        self._answers[question] = text


NO_FACTS: Final = Facts(0.0, may_ask=False)
"""Those of a request of which no rule looks at any."""
