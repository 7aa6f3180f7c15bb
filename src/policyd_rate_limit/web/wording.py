"""How pages say something: the texts of a language with markup around what is put into them.

What is put into a text is escaped: texts are markup, as the templates are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from policyd_rate_limit.domain.counter import kind_of, rule_and_key
from policyd_rate_limit.domain.counting import BYTES
from policyd_rate_limit.domain.limits import SUFFIXES
from policyd_rate_limit.language import wording as plain
from policyd_rate_limit.language.catalogue import LANGUAGES, texts_of
from policyd_rate_limit.language.told import ENTRIES, retold

if TYPE_CHECKING:
    from policyd_rate_limit.language.catalogue import Text

MOST_ACCEPTED: Final = 20
"""Of the languages that a browser names, so many are looked at."""

NO_BREAK: Final = "\N{NO-BREAK SPACE}"


class Wording(plain.Wording):
    """What pages say in one language. ``zone`` is that of times; None: that of this machine."""

    def __init__(self, language: str, texts: Mapping[str, Text], zone: tzinfo | None = None) -> None:
        super().__init__(language, texts)
        self.zone = zone

    def __call__(self, text_name: str, /, **values: object) -> Markup:
        """The text of this name as markup, with ``values`` in it: what is no markup itself is escaped."""
        text = Markup(self._form_of(text_name, values.get("count")))  # noqa: S704 - the texts are ours
        return text.format(
            **{key: self.number(value) if isinstance(value, int) else value for key, value in values.items()}
        )

    def percent(self, share: float) -> str:
        """``share`` in per cent; no more than is all there is unless it is."""
        return f"{int(share * 100 + 1e-9)}{NO_BREAK}%"

    def moment(self, date: int, now: int | None = None) -> Markup:
        """``date`` (Unix second), without the day where that is the one of ``now``; it is not broken into lines."""
        local, today = self._local(date), None if now is None else self._local(now)
        if local is None:
            text = str(date)  # no year of a calendar
        elif today is not None and local.date() == today.date():
            text = local.strftime(self._format("time"))
        else:
            text = local.strftime(f"{self._format('day')} {self._format('time')}")
        return Markup('<span class="whole">{}</span>').format(text)

    def day(self, date: int) -> str:
        """The day of ``date`` (Unix second)."""
        local = self._local(date)
        return str(date) if local is None else local.strftime(self._format("day"))

    def hour(self, date: int) -> Markup:
        """The day and the minute of ``date`` (Unix second); it is not broken into lines."""
        local = self._local(date)
        text = str(date) if local is None else local.strftime(f"{self._format('day')} {self._format('minute')}")
        return Markup('<span class="whole">{}</span>').format(text)

    def iso(self, date: int) -> str:
        """``date`` (Unix second) as programs read it in a page."""
        local = self._local(date)
        return "" if local is None else local.astimezone().isoformat()

    @property
    def zone_name(self) -> str:
        """What the zone of times is called."""
        return datetime.now(self.zone).astimezone(self.zone).tzname() or ""

    def counted(self, amount: int, unit: str) -> str:
        """``amount`` of what a counter counts, without the unit where it stands beside it; sizes are rounded down."""
        if unit != BYTES or amount < 1000:
            return self.number(amount)
        suffix = next(suffix for suffix in ("G", "M", "k") if amount >= SUFFIXES[suffix])
        tenths = amount * 10 // SUFFIXES[suffix]
        return f"{self.number(tenths // 10)}{self.decimal}{tenths % 10} {suffix}B"

    @staticmethod
    def place(place: str) -> Markup:
        """The database, in front of what is said of it."""
        return Markup("{}; ").format(place)

    def kind(self, counter: str) -> Markup:
        """What ``counter`` counts: ``SASL user``."""
        return Markup(" + ").join(map(self._kind, kind_of(counter).split("+")))

    def _kind(self, kind: str) -> Markup:
        if kind.startswith("$"):
            return self("kind.table", table=kind)
        return self(f"kind.{kind}") if self.has(f"kind.{kind}") else self("kind.other", kind=kind)

    def rule(self, name: str) -> Markup:
        """The rule of that name, or that which the settings of version 1 are."""
        return self("id.default_rule") if name == "default" else self("id.of_rule", rule=name)

    def rule_of(self, counter: str) -> Markup:
        """The rule of ``counter``."""
        return self.rule(rule_and_key(counter)[0])

    def verdict(self, kind: str) -> Markup:
        """What became of a request, by the verdict of the log."""
        return self(f"verdict.{kind}") if self.has(f"verdict.{kind}") else Markup.escape(kind)

    def told(self, sentence: str) -> Markup:
        """``sentence``, which the program says in English, in this language; where it has none for it, as it is."""
        found = retold(sentence, self)
        return Markup('<span lang="en">{}</span>').format(sentence) if found is None else Markup.escape(found)

    def own(self, text: str) -> str:
        """``text`` in this language where the program has written it; else it is somebody's, and stays as it is."""
        return retold(text, self, ENTRIES) or text

    def can_tell(self, sentence: str) -> bool:
        """Whether ``sentence``, which the program says in English, has one in this language."""
        return retold(sentence, self) is not None

    def _format(self, name: str) -> str:
        return self._form_of(f"date.{name}")

    def _local(self, date: int) -> datetime | None:
        try:
            return datetime.fromtimestamp(date, self.zone)
        except (ValueError, OverflowError, OSError):
            return None


@cache
def wording(language: str) -> Wording:
    """The texts of ``language``, one of :data:`.catalogue.LANGUAGES`."""
    return Wording(language, texts_of(language))


def accepted(header: str) -> str:
    """The one of :data:`LANGUAGES` that a browser wants most, by its Accept-Language (RFC 9110, 12.5.4)."""
    best, quality_of_best = LANGUAGES[0], 0.0
    for part in header.split(",")[:MOST_ACCEPTED]:
        name, _, parameters = part.partition(";")
        quality = 1.0
        key, _, value = parameters.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                continue
        language = name.strip().lower().partition("-")[0]
        if language in LANGUAGES and quality > quality_of_best:
            best, quality_of_best = language, quality
    return best
