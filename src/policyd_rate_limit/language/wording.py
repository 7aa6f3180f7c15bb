"""Sentences, numbers, periods and limits in one language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import unit_of
from policyd_rate_limit.domain.counting import BYTES, attribute_of
from policyd_rate_limit.domain.limits import SUFFIXES, spell_period
from policyd_rate_limit.language.catalogue import ENGLISH, texts_of

if TYPE_CHECKING:
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.language.catalogue import Text

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


class Wording:
    """What is said in ``language``, made of its ``texts``. All of it is plain text."""

    def __init__(self, language: str, texts: Mapping[str, Text]) -> None:
        self.language = language
        self._texts = texts

    def say(self, text_name: str, /, **values: object) -> str:
        """The text of this name, with ``values`` in it; of one with a plural ``count`` chooses the form."""
        return self._form_of(text_name, values.get("count")).format(
            **{key: self.number(value) if isinstance(value, int) else value for key, value in values.items()}
        )

    def any_number(self, text_name: str) -> str:
        """The text of this name where there may be any number: ``any number of recipients``."""
        text = self._texts[text_name]
        assert not isinstance(text, str), text_name  # noqa: S101 - the files of all languages have the same names
        return text["any"]

    def has(self, text_name: str) -> bool:
        """Whether there is a text of this name."""
        return text_name in self._texts

    def number(self, number: int) -> str:
        """``number`` with its thousands apart."""
        return f"{number:,}".replace(",", self._form_of("date.thousands"))

    @property
    def decimal(self) -> str:
        """The sign before the decimals of a number."""
        return self._form_of("date.decimal")

    def listed(self, words: Sequence[str], how: str = "and") -> str:
        """``words`` as a sentence has them: ``a, b and c``. ``how``: one of the texts ``list``: and, or, nor."""
        if len(words) < 2:
            return "".join(words)
        return self.say(f"list.{how}", first=self.say("list.comma").join(words[:-1]), last=words[-1])

    def duration(self, seconds: int) -> str:
        """``seconds`` as people say it, in its two largest units."""
        parts: list[str] = []
        for unit, length in _UNITS:
            number, seconds = divmod(seconds, length)
            if number or parts:
                parts.append(self.say(f"duration.{unit}", count=number) if number else "")
        return " ".join(part for part in parts[:2] if part) or self.say("duration.s", count=0)

    def period(self, seconds: int) -> str:
        """``seconds`` in the largest unit that they are a multiple of: ``90 minutes``."""
        return self._in_unit("period", seconds)

    def each(self, seconds: int) -> str:
        """The same behind "per": ``day``, ``2 hours``."""
        return self._in_unit("each", seconds)

    def window(self, limit: Limit) -> str:
        """``in any 10 minutes``."""
        return self.say("window.mail") if limit.is_per_mail else self._in_unit("window", limit.seconds)

    def amount(self, amount: int, unit: str) -> str:
        """``amount`` of what a counter counts: ``1 recipient``, ``50 MB``, ``3 different recipients``."""
        if unit == BYTES:
            fitting = (suffix for suffix in SUFFIXES if suffix and amount and amount % SUFFIXES[suffix] == 0)
            suffix = max(fitting, key=SUFFIXES.__getitem__, default="")
            if suffix:
                return self.say("amount.bytes_short", amount=self.number(amount // SUFFIXES[suffix]), suffix=suffix)
        return self.say(self._name_of_amount(unit), count=amount, attribute=attribute_of(unit))

    def any_amount(self, unit: str) -> str:
        """Any amount of what a counter counts: ``any number of recipients``."""
        return self.any_number(self._name_of_amount(unit)).format(attribute=attribute_of(unit))

    def limit(self, limit: Limit, counter: str) -> str:
        """``100 recipients in any hour``."""
        return self.say("limit.one", amount=self.amount(limit.maximum, unit_of(counter)), window=self.window(limit))

    def limits(self, limits: Limits, counter: str) -> str:
        """All of ``limits``, which are those of ``counter``."""
        if any(limit.maximum == 0 for limit in limits):
            return self.say("limit.nothing")
        return self.listed([self.limit(limit, counter) for limit in limits]) or self.say("limit.unlimited")

    def date(self, text: str) -> str:
        """The date that ``text`` writes as ``2026-11-28 14:00:00``; what is none stays as it is."""
        try:
            clock = datetime.fromisoformat(text)
        except ValueError:
            return text
        return clock.strftime(f"{self._form_of('date.day')} {self._form_of('date.time')}")

    def day_of_plot(self, clock: datetime) -> str:
        """The day of ``clock`` on the axis of a plot: ``Sat 28 Nov``."""
        return self._dated("date.plot_day", clock)

    def month_of_plot(self, clock: datetime) -> str:
        """The month of ``clock`` on the axis of a plot: ``Nov 2026``."""
        return self._dated("date.plot_month", clock)

    def moment_of_plot(self, clock: datetime) -> str:
        """The minute of ``clock`` beside a plot: ``Sat 2026-11-28 14:00``."""
        return self._dated("date.plot_moment", clock)

    def _dated(self, text_name: str, clock: datetime) -> str:
        # Not by strftime, whose names are those of the locale of the process.
        return self.say(
            text_name,
            weekday=self._form_of("date.weekdays").split()[clock.weekday()],
            month=self._form_of("date.months").split()[clock.month - 1],
            day=clock.day,
            year=str(clock.year),
            date=clock.strftime(self._form_of("date.day")),
            time=clock.strftime(self._form_of("date.minute")),
        )

    def _in_unit(self, section: str, seconds: int) -> str:
        spelt = spell_period(seconds)
        return self.say(f"{section}.{spelt[-1]}", count=int(spelt[:-1]))

    def _name_of_amount(self, unit: str) -> str:
        attribute = attribute_of(unit)
        if not attribute:
            return f"amount.{unit}"
        name = f"different.{attribute}"
        return name if self.has(name) else "different.other"

    def _form_of(self, text_name: str, count: object = None) -> str:
        text = self._texts[text_name]
        return text if isinstance(text, str) else text["one" if count == 1 else "other"]


@cache
def english() -> Wording:
    """The language of commands."""
    return Wording(ENGLISH, texts_of(ENGLISH))
