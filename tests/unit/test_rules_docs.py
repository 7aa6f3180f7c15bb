"""The rules of the documentation, as they stand there, do what it says of them."""

from __future__ import annotations

import pathlib
import re

import pytest

from policyd_rate_limit.domain.request import RCPT
from support.ruled import NOON, Ruled, request

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "rules.md"
HOUR = 3600


def rules(heading: str) -> str:
    """The configuration of a section."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    match = re.search(r"```yaml\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert match is not None
    return match[1]


def said(text: str) -> str:
    """``text``, which the page says, whichever way its lines are broken."""
    assert text in " ".join(PAGE.read_text(encoding="utf-8").split())
    return text


def test_web_servers() -> None:
    ruled = Ruled(rules("Web servers"))
    for _ in range(50):
        assert set(ruled.mail(client_address="10.0.3.7", sasl_username="")) == {"dunno"}
        ruled.now += 54
    assert ruled.mail(client_address="10.0.3.7", sasl_username="") == [
        said("450 4.7.1 10.0.3.7: 50 of 50 in 1h, next in 15m")
    ]
    assert ruled.admitted(60, client_address="10.0.3.80", sasl_username="") == 60
    assert ruled.admitted(60, client_address="10.0.3.7", sasl_username="alice") == 60
    assert ruled.admitted(60, client_address="10.0.4.7", sasl_username="") == 60
    large = ruled.mail(size=11_000_000, client_address="10.0.3.8", sasl_username="")
    assert [answer == "dunno" for answer in large] == [True, True, False]


def test_a_newsletter_at_night() -> None:
    ruled = Ruled(rules("A newsletter at night"), now=NOON + 10 * HOUR - 60)
    assert ruled.admitted(40, sasl_username="news@example.org") == 30
    ruled.now += 60
    assert ruled.admitted(40, sasl_username="news@example.org") == 40
    assert ruled.counted("night|user:news@example.org") == 40
    assert ruled.counted("person|user:news@example.org") == 30
    assert ruled.admitted(40) == 30


@pytest.mark.parametrize(("domain", "each", "all_of_them"), [("example.org", 100, 1000), ("big.example", 500, 20000)])
def test_a_cap_that_a_domain_shares_and_one_for_each_member(domain: str, each: int, all_of_them: int) -> None:
    ruled = Ruled(rules("A cap that a domain shares, and one for each member"))
    members = all_of_them // each
    for number in range(members + 3):
        admitted = ruled.admitted(each + 1, sasl_username=f"user{number}@{domain}")
        assert admitted == (each if number < members else 0)
    assert ruled.counted(f"domain|sasl_domain:{domain}") == all_of_them


def test_many_different_recipients_many_places() -> None:
    ruled = Ruled(rules("Many different recipients, many places"))

    def to(recipient: str) -> str:
        return ruled.ask(request(RCPT, f"{recipient}.0", recipient=recipient))

    assert {to(f"r{number}@x.org") for number in range(300)} == {"dunno"}
    assert [to("more@x.org"), to("r7@x.org"), to("more@cs.uni.example"), to("more@uni.example")] == [
        "hold",
        *["dunno"] * 3,
    ]
    assert sum(ruled.admitted(1, client_address=f"192.0.2.{place}", recipient="r1@x.org") for place in range(30)) == 20
    assert ruled.admitted(3, client_address="192.0.2.5", recipient="r1@x.org") == 3
