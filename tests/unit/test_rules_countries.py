"""Rules that look at the country of a client, from what Postfix sends to what it is answered."""

from __future__ import annotations

import pathlib

import pytest

from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.tables.country_file import read_countries
from support.mmdb import write_mmdb
from support.ruled import Ruled, request

HOME, ABROAD, NOWHERE, PRIVATE = "192.0.2.1", "198.51.100.1", "203.0.113.1", "10.0.0.1"
GEOIP = "geoip: /some/where.mmdb\n"


class World:
    """Rules of a text, in a world of two countries."""

    def __init__(self, directory: pathlib.Path) -> None:
        path = write_mmdb(directory / "world.mmdb", {"192.0.2.0/24": "DE", "198.51.100.0/24": "NO"})
        self._countries = read_countries(str(path))

    def ruled(self, rules: str) -> Ruled:
        return Ruled(GEOIP + "rules:\n" + rules, countries=self._countries)


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    return World(tmp_path)


def admitted(ruled: Ruled, *addresses: str) -> list[bool]:
    """Whether a mail from each of the addresses goes on its way."""
    return [ruled.admitted(1, client_address=one) == 1 for one in addresses]


def test_a_condition(world: World) -> None:
    ruled = world.ruled("  x: {key: sasl_username, limits: 0/1h, match: {country: [de, at]}}\n")
    assert admitted(ruled, HOME, ABROAD, NOWHERE, PRIVATE) == [False, True, True, True]
    ruled = world.ruled("  x: {key: sasl_username, limits: 0/1h, unless: {country: 'No'}}\n")
    assert admitted(ruled, HOME, ABROAD, NOWHERE, PRIVATE) == [False, True, False, False]
    ruled = world.ruled("  x: {key: sasl_username, limits: 0/1h, match: {country: ''}}\n")
    assert admitted(ruled, HOME, ABROAD, NOWHERE, PRIVATE, "unknown", "") == [True, True, False, False, False, False]
    ruled = world.ruled("  x: {key: sasl_username, limits: 0/1h, match: {country: '?*'}}\n")
    assert admitted(ruled, HOME, ABROAD, NOWHERE, PRIVATE) == [False, False, True, True]


def test_a_key_and_its_overrides(world: World) -> None:
    ruled = world.ruled("  x: {key: country, limits: 1/1h, overrides: {DE: 2/1h}}\n")
    assert admitted(ruled, HOME, "192.0.2.2", "192.0.2.3", ABROAD, ABROAD) == [True, True, False, True, False]
    assert admitted(ruled, *[NOWHERE] * 3, *[PRIVATE] * 3) == [True] * 6
    assert (ruled.counted("x|country:de"), ruled.counted("x|country:no")) == (2, 1)


def test_each_user_in_each_country(world: World) -> None:
    ruled = world.ruled("  x: {key: sasl_username+country, limits: 1/1h}\n")
    assert admitted(ruled, HOME, HOME, ABROAD, ABROAD) == [True, False, True, False]


def test_a_text(world: World) -> None:
    ruled = world.ruled(
        "  x: {key: sasl_username, limits: 0/1h, action: '450 4.7.1 {sasl_username} from <{country}>'}\n"
    )
    assert ruled.ask(request(client_address=HOME)) == "450 4.7.1 alice@example.org from <DE>"
    assert ruled.ask(request(client_address=PRIVATE)) == "450 4.7.1 alice@example.org from <>"


def test_a_reload_takes_countries_in_and_leaves_them_out(world: World) -> None:
    ruled = Ruled("rules: {x: {key: sasl_username, limits: 0/1h}}\n")
    assert not ruled.service.policy.asks_facts
    assert admitted(ruled, HOME) == [False]
    ruled.service.policy = world.ruled("  x: {key: sasl_username, limits: 0/1h, match: {country: de}}\n").service.policy
    assert admitted(ruled, HOME, ABROAD) == [False, True]


def test_a_table_of_countries(world: World) -> None:
    tables = "  near: {key: sasl_username, limits: 0/1h, match: {country: $union}}\ntables: {union: [at, DE]}\n"
    assert admitted(world.ruled(tables), HOME, ABROAD, NOWHERE) == [False, True, True]
    tables = "  far: {key: $region(country), limits: 1/1h}\ntables: {region: {DE: europe, 'NO': europe, US: america}}\n"
    assert admitted(world.ruled(tables), HOME, ABROAD, *[NOWHERE] * 3) == [True, False, True, True, True]
    tables = "  far: {key: country, limits: 9/1h, overrides: {$home: 1/1h}}\ntables: {home: [de]}\n"
    assert admitted(world.ruled(tables), *[HOME] * 2, *[ABROAD] * 2) == [True, False, True, True]
    tables = "  far: {key: sasl_username, limits: 0/1h, match: {$risk(country): high}}\ntables: {risk: {'no': high}}\n"
    assert admitted(world.ruled(tables), HOME, ABROAD, NOWHERE) == [True, False, True]


def test_different_countries(world: World) -> None:
    ruled = world.ruled("  x: {key: sasl_username, count: distinct country, limits: 1/1h}\n")
    assert admitted(ruled, HOME, "192.0.2.9", ABROAD, HOME) == [True, True, False, True]
    assert admitted(ruled, NOWHERE, PRIVATE, "unknown") == [True, True, True]  # which have none, and are no other
    ruled.now += 3600
    assert admitted(ruled, ABROAD, HOME) == [True, False]
    assert ruled.service.policy.asks_facts


def test_different_countries_need_a_file_of_them(world: World) -> None:
    with pytest.raises(ConfigError, match="since this rule names country"):
        Ruled("rules: {x: {key: sasl_username, count: distinct country, limits: 1/1h}}\n")
