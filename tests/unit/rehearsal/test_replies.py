"""Which refusals of the past were those of rate limits."""

from __future__ import annotations

import pytest

from policyd_rate_limit.rehearsal.replies import Replies
from support.rehearsed import REPLY, settings_of

RULES = """
fail_action: "defer_if_permit 4.7.1 Too  much (for now)"
block_action: REJECT You are {key}
rules:
  one: {key: sender, limits: 1/1h, action: "450 4.7.1 {key}: {used} of {maximum} in {period}"}
  two: {key: sender, limits: 1/1h, action: "reject"}
  three: {key: sender, limits: 1/1h, action: "hold Not refused"}
"""


def test_the_text_of_version_1() -> None:
    replies = Replies([settings_of("limits: 1/1h")])
    assert replies.match(REPLY)
    assert replies.match("<DATA>: Data command rejected: Rate limit reach, retry later")
    assert replies.match("Rate limit reach, retry later")
    assert not replies.match("<bob@example.net>: Recipient address rejected: User unknown")
    assert not replies.match("<x>: Recipient address rejected: Rate limit reach, retry later, or not")


@pytest.mark.parametrize(
    ("reply", "is_ours"),
    [
        ("<x@y>: Recipient address rejected: Too much (for now)", True),
        ("<x@y>: Recipient address rejected: Too much for now", False),
        ("<x@y>: Recipient address rejected: alice@x: 5 of 5 in 1h", True),
        ("<END-OF-MESSAGE>: End-of-data rejected: You are alice", True),
        ("<x@y>: Recipient address rejected: Access denied", True),
        ("<x@y>: Recipient address rejected: Not refused", False),
        ("<x@y>: Relay access denied", False),
        ("", False),
    ],
)
def test_texts_of_rules_with_anything_in_place_of_variables(reply: str, is_ours: bool) -> None:
    replies = Replies([settings_of("limits: 1/1h"), settings_of(RULES)])
    assert replies.match(reply) is is_ours
    assert replies.match(reply) is is_ours  # as it is remembered


def test_one_of_any_length_takes_no_time() -> None:
    assert not Replies([settings_of(RULES)]).match("<" + "x>: a rejected: " * 5_000)
