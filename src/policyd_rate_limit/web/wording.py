"""The texts of the pages, by language: they stand in ``texts/LANGUAGE.toml``, apart from templates and code.

What is put into a text is escaped: texts are markup, as the templates are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime, tzinfo
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from policyd_rate_limit.domain.counter import kind_of, rule_and_key, unit_of
from policyd_rate_limit.domain.counting import BYTES, attribute_of
from policyd_rate_limit.domain.limits import SUFFIXES, spell_period

if TYPE_CHECKING:
    from policyd_rate_limit.domain.limits import Limit, Limits

LANGUAGES: Final = ("en", "de")
"""The first is the one for whoever wants none of them."""

MOST_ACCEPTED: Final = 20
"""Of the languages that a browser names, so many are looked at."""

NO_BREAK: Final = "\N{NO-BREAK SPACE}"

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

Text = str | Mapping[str, str]


class Wording:
    """Texts, numbers, times and limits in one language. ``zone`` is that of times; None: that of this machine."""

    def __init__(self, language: str, texts: Mapping[str, Text], zone: tzinfo | None = None) -> None:
        self.language = language
        self.zone = zone
        self._texts = texts

    def __call__(self, text_name: str, /, **values: object) -> Markup:
        """The text of this name, with ``values`` in it; of one with a plural ``count`` chooses the form."""
        text = self._texts[text_name]
        if not isinstance(text, str):
            text = text["one" if values.get("count") == 1 else "other"]
        return Markup(text).format(  # noqa: S704 - the texts are ours, and what is put into them is escaped
            **{key: self.number(value) if isinstance(value, int) else value for key, value in values.items()}
        )

    def has(self, name: str) -> bool:
        """Whether there is a text of this name."""
        return name in self._texts

    def number(self, number: int) -> str:
        """``number`` with its thousands apart."""
        return f"{number:,}".replace(",", str(self._texts["date.thousands"]))

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

    def hour(self, date: int) -> str:
        """The day and the minute of ``date`` (Unix second)."""
        local = self._local(date)
        return str(date) if local is None else local.strftime(f"{self._format('day')} {self._format('minute')}")

    def iso(self, date: int) -> str:
        """``date`` (Unix second) as programs read it in a page."""
        local = self._local(date)
        return "" if local is None else local.astimezone().isoformat()

    @property
    def zone_name(self) -> str:
        """What the zone of times is called."""
        return datetime.now(self.zone).astimezone(self.zone).tzname() or ""

    def duration(self, seconds: int) -> Markup:
        """``seconds`` as people say it, in its two largest units."""
        parts: list[Markup] = []
        for unit, length in _UNITS:
            number, seconds = divmod(seconds, length)
            if number or parts:
                parts.append(self(f"duration.{unit}", count=number) if number else Markup())
        return Markup(" ").join(part for part in parts[:2] if part) or self("duration.s", count=0)

    def amount(self, amount: int, unit: str) -> Markup:
        """``amount`` of what a counter counts: ``1 recipient``, ``50 MB``."""
        attribute = attribute_of(unit)
        if attribute:
            return self("amount.distinct", count=amount, attribute=attribute)
        if unit != BYTES:
            return self(f"amount.{unit}", count=amount)
        fitting = (suffix for suffix in SUFFIXES if suffix and amount and amount % SUFFIXES[suffix] == 0)
        suffix = max(fitting, key=SUFFIXES.__getitem__, default="")
        if suffix:
            return self("amount.bytes_short", amount=self.number(amount // SUFFIXES[suffix]), suffix=suffix)
        return self("amount.bytes", count=amount)

    def counted(self, amount: int, unit: str) -> str:
        """``amount`` of what a counter counts, without the unit where it stands beside it; sizes are rounded down."""
        if unit != BYTES or amount < 1000:
            return self.number(amount)
        suffix = next(suffix for suffix in ("G", "M", "k") if amount >= SUFFIXES[suffix])
        tenths = amount * 10 // SUFFIXES[suffix]
        return f"{self.number(tenths // 10)}{self._texts['date.decimal']}{tenths % 10} {suffix}B"

    @staticmethod
    def place(place: str) -> Markup:
        """The database, in front of what is said of it."""
        return Markup("{}; ").format(place)

    def window(self, limit: Limit) -> Markup:
        """``in any 10 minutes``."""
        if limit.is_per_mail:
            return self("window.mail")
        spelt = spell_period(limit.seconds)
        return self(f"window.{spelt[-1]}", count=int(spelt[:-1]))

    def limit(self, limit: Limit, counter: str) -> Markup:
        """``100 recipients in any hour``."""
        return self("limit.one", amount=self.amount(limit.maximum, unit_of(counter)), window=self.window(limit))

    def limits(self, limits: Limits, counter: str) -> Markup:
        """All of ``limits``, which are those of ``counter``."""
        if any(limit.maximum == 0 for limit in limits):
            return self("limit.nothing")
        words = [self.limit(limit, counter) for limit in limits]
        if not words:
            return self("limit.unlimited")
        if len(words) == 1:
            return words[0]
        return self("limit.and", first=Markup(", ").join(words[:-1]), last=words[-1])

    def kind(self, counter: str) -> Markup:
        """What ``counter`` counts: ``SASL user``."""
        kind = kind_of(counter)
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

    def _format(self, name: str) -> str:
        return str(self._texts[f"date.{name}"])

    def _local(self, date: int) -> datetime | None:
        try:
            return datetime.fromtimestamp(date, self.zone)
        except (ValueError, OverflowError, OSError):
            return None


@cache
def wording(language: str) -> Wording:
    """The texts of ``language``, one of :data:`LANGUAGES`."""
    return Wording(language, texts_of(language))


def texts_of(language: str) -> dict[str, Text]:
    """The texts of ``language`` by name, such as ``now.title``."""
    path = files("policyd_rate_limit.web") / "texts" / f"{language}.toml"
    found: dict[str, Text] = {}
    for section, texts in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for name, text in texts.items():
            found[f"{section}.{name}"] = text
    return found


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
