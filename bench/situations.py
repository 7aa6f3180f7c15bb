"""What administrators make of rules, each beside one rule of the same store: requests per second, and the ratio.

The daemons of one store run side by side and take turns, each with an empty database of its own. Limits are as many and
as long as an administrator would have them, and so high that nobody reaches them: an answer that refuses would be
another kind of work. All requests are those of users of one domain, who come from one address.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import loads
import servers
from contenders import POSTGRESQL, REDIS, SQLITE, Contender, Fill, fill_nothing
from support.mmdb import write_mmdb

STORES = (SQLITE, POSTGRESQL, REDIS)
DOMAIN = "example.org"
USERS = 100_000
LOAD = loads.BASE._replace(key="situations", name=f"{USERS:,} users of {DOMAIN}", ids=USERS, suffix=f"@{DOMAIN}")
HOUR, DAY = [10**12, 3600], [10**12, 86_400]  # limits
MANY = [10_000, 3600]  # different values: the most that there may be
ENTRIES = 100_000  # of the large table
LARGE = "large-table"


class Situation(NamedTuple):
    """``settings``: what the configuration says. ``files``: the lines of those that it names, as ``{directory}/name``.

    ``countries``: ``countries.mmdb`` is there.
    """

    key: str
    name: str
    settings: Mapping[str, Any]
    files: Mapping[str, Sequence[str]] = {}
    countries: bool = False


def _person(**words: object) -> dict[str, Any]:
    return {"key": "sasl_username", "limits": [HOUR, DAY], **words}


def _volume(**words: object) -> dict[str, Any]:
    return {"key": "client_address", "count": "bytes", "limits": ["10M/mail", DAY], **words}


ONE = Situation("one", "one rule", {"rules": {"person": _person()}})
_USER = f"user{{:07d}}@{DOMAIN}"
_NEWSLETTER = {"sasl_username": f"news@{DOMAIN}", "time": "22:00-06:00"}
_SITES = {"client_address": "192.0.2.0/24"}
SITUATIONS = (
    Situation(
        "hosting",
        "hosting provider, plans in a file",
        {
            "tables": {"plan": "file:{directory}/plans", "customer": {DOMAIN: "customer-7"}},
            "rules": {
                "mailbox": _person(
                    limits=[[1000, "mail"], HOUR, DAY], overrides={"$plan=business": [HOUR, DAY]}, warn=80
                ),
                "domain": _person(key="sasl_domain"),
                "customer": _person(key="$customer(sasl_domain)", limits=[DAY]),
                "machine": _person(key="server", limits=[HOUR]),
            },
        },
        {"plans": [f"{_USER.format(number)} business" for number in range(0, 10_000, 2)]},
    ),
    Situation(
        "university",
        "university",
        {
            "tables": {
                "campus": ["192.0.2.0/24", "2001:db8:17::/48"],
                "local": ["uni.example", "*.uni.example"],
                "staff": "file:{directory}/staff",
            },
            "rules": {
                "person": _person(overrides={"$staff": [HOUR, DAY]}),
                "outside": _person(
                    count="distinct recipient", unless={"recipient_domain": "$local"}, limits=[MANY], action="hold"
                ),
                "elsewhere": _person(unless={"client_address": "$campus"}, limits=[HOUR]),
            },
        },
        {"staff": [_USER.format(number) for number in range(0, 10_000, 2)]},
    ),
    Situation(
        "web-servers",
        "web servers",
        {
            "rules": {
                "site": _person(
                    key="client_address",
                    match=_SITES,
                    overrides={"192.0.2.80": [DAY]},
                    action="450 4.7.1 {key}: {used} of {maximum} in {period}, next in {free_in}",
                ),
                "volume": _volume(match=_SITES),
            }
        },
    ),
    Situation(
        "newsletter",
        "newsletter at night",
        {"rules": {"person": _person(unless=_NEWSLETTER), "night": _person(match=_NEWSLETTER, limits=[DAY])}},
    ),
    Situation(
        "members",
        "a cap for a domain, and one for each member",
        {
            "rules": {
                "domain": _person(key="sasl_domain", limits=[DAY], overrides={"big.example": [DAY]}),
                "member": _person(limits=[DAY], overrides={"*@big.example": [DAY]}),
            }
        },
    ),
    Situation(
        "inbound",
        "inbound",
        {
            "tables": {"partners": "file:{directory}/partners"},
            "rules": {
                "network": _person(
                    key="client_address/24/56",
                    match={"policy_context": ""},
                    unless={"client_address": "$partners"},
                    limits=[[10**12, 60], HOUR],
                ),
                "mailbox": _person(key="recipient", limits=[HOUR], shadow=True),
                "bounces": _person(key="recipient", match={"sender": ""}, limits=[HOUR]),
            },
        },
        {"partners": [f"198.51.{number}.0/24" for number in range(100)]},
    ),
    Situation(
        "countries",
        "stolen accounts",
        {
            "geoip": "{directory}/countries.mmdb",
            "rules": {
                "countries": _person(count="distinct country", limits=[MANY], block="1h"),
                "addresses": _person(count="distinct client_address", limits=[MANY], block="1h"),
            },
        },
        countries=True,
    ),
    Situation(
        "new-accounts",
        "new accounts, their dates in a file",
        {
            "tables": {"created": "file:{directory}/created"},
            "rules": {
                "first-week": _person(match={"$created(sasl_username)": "<7d"}, limits=[DAY]),
                "first-month": _person(match={"$created(sasl_username)": "<30d"}, limits=[DAY]),
                "person": _person(limits=[DAY]),
            },
        },
        {"created": [f"{_USER.format(number)} 2020-01-01" for number in range(10_000)]},
    ),
    Situation(
        LARGE,
        f"one rule with a table of {ENTRIES:,}",
        {
            "tables": {"staff": "file:{directory}/staff"},
            "rules": {"person": _person(overrides={"$staff": [HOUR, DAY]})},
        },
        {"staff": [_USER.format(number) for number in range(ENTRIES)]},
    ),
)


def in_situation(contender: Contender, situation: Situation) -> Contender:
    """This daemon on the store of ``contender``, as ``situation`` has it."""

    @contextlib.contextmanager
    def database(directory: pathlib.Path) -> Iterator[servers.Server]:
        home = directory.parent
        for name, lines in situation.files.items():
            (home / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if situation.countries:
            write_mmdb(home / "countries.mmdb", {"192.0.2.0/24": "FR", "198.51.100.0/24": "DE"})
        with contender.database(directory) as server:
            own: dict[str, Any] = {"limits": [], **_named(situation.settings, home)}
            yield server._replace(settings={**server.settings, **own})

    return contender._replace(
        key=f"{contender.key}-{situation.key}",
        name=f"{contender.name}, {situation.name}",
        database=database,
        fill=fill_nothing,
    )


def _named(value: Any, home: pathlib.Path) -> Any:
    """``value`` with the directory of its files."""
    if isinstance(value, Mapping):
        return {key: _named(part, home) for key, part in value.items()}
    if isinstance(value, list):
        return [_named(part, home) for part in value]
    return value.replace("{directory}", str(home)) if isinstance(value, str) else value


def run(
    directory: pathlib.Path,
    places: dict[str, str],
    *,
    seconds: float,
    rounds: int,
    contenders: Sequence[Contender] = STORES,
) -> dict[str, Any]:
    """As :func:`loads.run`, with the ``store`` and the ``situation`` of each measurement."""
    found: dict[str, Any] = {"measurements": [], "failed": []}
    for store in contenders:
        several = {in_situation(store, one).key: one for one in (ONE, *SITUATIONS)}
        result = loads.run(
            directory / store.key,
            places,
            seconds=seconds,
            rounds=rounds,
            contenders=[in_situation(store, one) for one in several.values()],
            loads=[LOAD],
            fill=Fill(spent=0),
        )
        for one in result["measurements"]:
            one |= {"store": store.key, "situation": several[one["contender"]].key}
        found["measurements"] += result["measurements"]
        found["failed"] += [{**one, "contender": store.key} for one in result["failed"]]
    return found
