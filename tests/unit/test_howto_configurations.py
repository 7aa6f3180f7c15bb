"""The configurations of the how-to pages: check-config accepts each, and what the pages say of them is so."""

from __future__ import annotations

import re
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.cli import main
from policyd_rate_limit.tables.country_file import read_countries
from support.mmdb import write_mmdb
from support.ruled import NOON, Ruled

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = sorted(HOWTO.glob("*.md"))
OUTSIDE = re.compile(r"(?<=file:)/[\w/.-]+|(?<=geoip: )/[\w/.-]+")
"""Files that a configuration names."""


def blocks(page: Path) -> list[str]:
    """The configurations of ``page``."""
    found = re.findall(r"^( *)```yaml\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def checked(block: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status and the output of check-config; the files that ``block`` names are there, in ``directory``."""
    for name in sorted(set(OUTSIDE.findall(block))):
        path = directory / name.rpartition("/")[2]
        if path.suffix == ".mmdb":
            write_mmdb(path, {"192.0.2.0/24": "DE"}, built=int(time.time()) - 86_400)
        else:
            path.write_text("192.0.2.1\n")
        block = block.replace(name, str(path))
    path = directory / "policyd-rate-limit.yaml"
    path.write_text(block, encoding="utf-8")
    path.chmod(0o640)  # as the pages have it where there is a password
    with pytest.raises(SystemExit) as ended:
        main(["check-config", str(path)])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out.replace(str(path), "FILE")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_check_config_accepts_them(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        assert checked(block, tmp_path, capsys) == (0, "FILE: nothing wrong\n"), block


def test_it_would_find_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each word of each rule, misspelt, is an error, so that a page with such a word is found."""
    tried = 0
    for block in (block for page in PAGES for block in blocks(page) if "\nrules:\n" in f"\n{block}"):
        begin = f"\n{block}".index("\nrules:\n")
        for word in re.finditer(r"\b(key|limits|count|match|unless|overrides|action)(?=: )", block[begin:]):
            broken = f"{block[:begin]}{block[begin:][: word.end()]}x{block[begin:][word.end() :]}"
            status, said = checked(broken, tmp_path, capsys)
            assert status == 1, broken
            assert f"{word[1]}x: expected one of key, count, limits" in said
            tried += 1
    assert tried > 40


def ruled(page: str, number: int = 0) -> Ruled:
    """Who is asked by the configuration with that ``number`` on ``page``."""
    return Ruled(blocks(HOWTO / page)[number])


def test_web_servers() -> None:
    service = ruled("web-servers.md")
    assert service.admitted(25, client_address="192.0.2.130", sasl_username="") == 20
    assert service.admitted(25, client_address="192.0.2.131", sasl_username="") == 20  # each of them
    assert service.mail(client_address="192.0.2.130", sasl_username="") == [
        "450 4.7.1 192.0.2.130: 20 of 20 in 1h, next in 1h"
    ]
    assert service.admitted(110, client_address="192.0.2.7", sasl_username="") == 100
    assert service.admitted(110, client_address="2001:db8:17::1", sasl_username="") == 100
    assert service.admitted(110, client_address="::ffff:192.0.2.25", sasl_username="") == 110
    assert service.admitted(110, client_address="192.0.2.7", sasl_username="alice") == 110
    assert service.admitted(110, client_address="203.0.113.1", sasl_username="") == 110
    assert len(service.mail(size=11_000_000, client_address="192.0.2.25", sasl_username="")) == 3


def test_from_postfwd() -> None:
    service = ruled("from-postfwd.md")
    assert service.admitted(12, sasl_username="alice") == 10
    assert service.mail(sasl_username="alice") == ["450 4.7.1 Too many mails in a minute"]
    assert service.admitted(12, sasl_username="alice", client_address="10.1.1.9") == 12
    service.now += 60
    assert len(service.mail(141, sasl_username="alice")) == 141
    assert service.mail(141, sasl_username="alice")[-1].startswith("450 4.7.1 Too many recipients in a day, next in ")


def test_from_cluebringer() -> None:
    service = ruled("from-cluebringer.md")
    assert service.admitted(40, sasl_username="a@example.org") == 30
    assert service.mail(sasl_username="a@example.org") == ["defer_if_permit 30 of 30 mails in 1h, next in 1h"]
    assert service.admitted(1100, sasl_username="shop@example.org") == 1000
    assert service.admitted(40, sasl_username="a@example.net") == 40
    assert len(service.mail(size=50_000 * 1024, sasl_username="b@example.org")) == 3
    assert service.mail(size=1, sasl_username="b@example.org")[-1] != "dunno"


def test_from_iredapd() -> None:
    service = ruled("from-iredapd.md")
    assert service.admitted(120, sasl_username="a@example.org") == 100
    assert service.admitted(600, sasl_username="a@big.example") == 500
    assert service.admitted(600, sasl_username="b@big.example") == 500  # each user has a counter
    assert service.admitted(1000, sasl_username="news@big.example") == 1000
    assert service.mail(51, sasl_username="news@big.example")[-1] != "dunno"
    assert set(service.mail(size=10_240_000, sasl_username="c@example.org")) == {"dunno"}
    assert service.mail(size=10_240_001, sasl_username="c@example.org")[-1] != "dunno"


def test_from_rspamd() -> None:
    service = ruled("from-rspamd.md")
    assert service.admitted(30, sasl_username="a@example.org") == 20
    assert service.mail(sasl_username="a@example.org") == ["450 4.7.1 a@example.org: 20 of 20 in 1m, next in 60s"]
    assert service.admitted(30, sasl_username="x@lists.example.org") == 30
    bounces = {"sender": "", "sasl_username": "", "recipient": "bob@example.org"}
    assert service.admitted(30, **bounces) == 20
    assert service.admitted(30, **{**bounces, "sender": "carol@example.net"}) == 30


def test_from_policyd_rate_guard() -> None:
    service = ruled("from-policyd-rate-guard.md")
    assert service.admitted(1100, sasl_username="a@example.org") == 1000
    assert service.mail(sasl_username="a@example.org") == [
        "defer_if_permit Rate limit reached: 1000 of 1000, next in 1d"
    ]
    assert service.admitted(1100, sasl_username="shop@example.org") == 1100


def in_place(block: str, **tables: str) -> str:
    """``block`` with what a database or a file holds written into it; each is YAML."""
    for name, entries in tables.items():
        block, count = re.subn(rf'(\b{name}: *)("sql:[^"]*"|file:[\w/.-]+)', rf"\1{entries}", block)
        assert count == 1
    return re.sub("^(backend|mysql_config): .*\n", "", block, flags=re.MULTILINE)


def test_a_hosting_provider() -> None:
    block = in_place(
        blocks(HOWTO / "hosting-providers.md")[0],
        plan="{boss@example.org: business, try@example.org: trial}",
        customer="{one.example: Acme, two.example: acme}",
        created=f"{{new@example.org: {int(NOON) - 6 * 86_400}, old@example.org: {int(NOON) - 8 * 86_400}}}",
    )
    service = Ruled(block)
    users = ("any", "boss", "try", "new", "old")
    admitted = {user: service.admitted(501, sasl_username=f"{user}@example.org") for user in users}
    assert admitted == {"any": 100, "boss": 500, "try": 20, "new": 50, "old": 100}
    assert service.mail(sasl_username="any@example.org") == [
        "450 4.7.1 any@example.org: 100 of 100 recipients in 1h, next in 1h"
    ]
    assert service.mail(51, sasl_username="x@example.org")[-1] != "dunno"
    for domain in ("one", "two", "three"):
        assert service.admitted(3, sasl_username=f"a@{domain}.example") == 3
    assert service.counted("customer|$customer:acme") == 6
    assert service.admitted(3, sasl_username="") == 3
    assert service.counted("machine|server:") == 770 + 50 + 9


def test_a_university() -> None:
    block = in_place(blocks(HOWTO / "universities.md")[0], staff='["*@physics.uni.example", /^prof-/]')
    local = "b@cs.uni.example"
    inside = {"client_address": "192.0.2.7", "recipient": local}
    service = Ruled(block)
    users = ("alice@uni.example", "x@physics.uni.example", "prof-y@uni.example", "mailman@uni.example")
    assert [service.admitted(250, sasl_username=user, **inside) for user in users] == [50, 200, 200, 250]
    assert service.admitted(40, sasl_username="b@uni.example", client_address="198.51.100.1", recipient=local) == 30
    assert service.admitted(110, **{**inside, "sasl_username": ""}) == 100
    outside: dict[str, Any] = {"client_address": "192.0.2.7", "sasl_username": "mailman@uni.example"}
    assert sum(service.admitted(1, recipient=f"a{n}@example.net", **outside) for n in range(301)) == 300
    assert service.admitted(9, recipient="a7@example.net", **outside) == 9  # one of them
    assert service.mail(recipient="b@example.net", **outside)[0] == "hold"
    assert service.admitted(1, recipient="b@uni.example", **outside) == 1


def test_inbound() -> None:
    block = in_place(blocks(HOWTO / "inbound.md")[0], partners="[203.0.113.0/24]")
    mx: dict[str, Any] = {"policy_context": "mx", "sasl_username": ""}
    service = Ruled(block)
    assert [service.admitted(1, client_address=f"192.0.2.{n}", **mx) for n in range(61)] == [1] * 60 + [0]
    assert service.mail(client_address="192.0.2.200", **mx) == [
        "450 4.7.1 Too much mail from 192.0.2.0/24, retry in 60s"
    ]
    assert service.admitted(400, client_address="203.0.113.9", recipient="bob@example.org", **mx) == 400  # in shadow
    assert service.admitted(70, client_address="192.0.2.9") == 70  # of users nothing is said
    assert service.admitted(25, client_address="203.0.113.9", **{**mx, "sender": "", "recipient": "c@x.example"}) == 20


def test_stolen_accounts(tmp_path: Path) -> None:
    world = write_mmdb(
        tmp_path / "world.mmdb",
        {"192.0.2.0/24": "DE", "198.51.100.0/24": "BR", "203.0.113.0/25": "FR", "203.0.113.128/25": "US"},
    )
    service = Ruled(blocks(HOWTO / "stolen-accounts.md")[0], countries=read_countries(str(world)))
    assert service.admitted(35, client_address="192.0.2.1") == 35
    assert service.admitted(35, client_address="10.0.0.1", sasl_username="bob") == 35
    assert service.admitted(35, client_address="198.51.100.1", sasl_username="carol") == 30
    answer = service.mail(client_address="198.51.100.1", sasl_username="carol")
    assert answer == ["450 4.7.1 carol: unusual activity from BR, please call us"]
    for user, addresses, admitted in (
        ("erin", ["192.0.2.1", "198.51.100.1", "203.0.113.1", "10.0.0.1", "203.0.113.200", "192.0.2.2"], 5),
        ("frank", [f"192.0.2.{n}" for n in range(22)], 20),
        ("grace", ["192.0.2.1", "198.51.100.1"] * 14, 28),
    ):
        from_each = [service.admitted(1, client_address=address, sasl_username=user) for address in addresses]
        assert sum(from_each) == admitted, user
    service.now += 13 * 3600  # at one o'clock
    assert service.admitted(25, client_address="192.0.2.1", sasl_username="dave") == 20
