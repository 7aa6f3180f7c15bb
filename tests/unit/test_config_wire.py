"""Values of settings on their way from one process to another."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.config.wire import from_text, to_text
from policyd_rate_limit.domain.limits import Limit

single = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.builds(Limit, st.integers(0), st.integers(1)),
)
values = st.recursive(
    single,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(single, inner),
        st.sets(single),
        st.frozensets(single),
    ),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """``value`` with the types of all that is in it: True is 1 for Python, and a Limit a tuple."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(one)) for key, one in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), {typed(one) for one in value}
    if isinstance(value, list | tuple):
        return type(value), tuple(typed(one) for one in value)
    return type(value), value


@given(values)
def test_what_arrives_is_what_was_sent(value: object) -> None:
    text = to_text(value)
    assert text.isascii()
    assert "\n" not in text
    assert typed(from_text(text)) == typed(value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\ud800\udc00", id="two halves of a surrogate pair"),
        pytest.param(1 << 70_000, id="a large integer"),
        pytest.param(-(1 << 63), id="a negative one"),
        pytest.param(date(1, 1, 1), id="a date"),
        pytest.param(datetime(9999, 1, 1, 1, 1, 1, 1), id="a moment"),
    ],
)
def test_values_that_json_has_not(value: object) -> None:
    assert typed(from_text(to_text([value]))) == typed([value])


@pytest.mark.parametrize("value", [1j, object(), print, Exception()])
def test_what_no_file_of_settings_holds(value: object) -> None:
    with pytest.raises(TypeError, match="no file of settings"):
        to_text({"a": (value,)})


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "{}",
        '{"call": "os.system"}',
        '{"tuple": 3}',
        '{"tuple": [1], "list": [2]}',
        '{"limit": [1]}',
        '{"date": "tomorrow"}',
        '{"mapping": [[[], 1]]}',
        '{"bytes": null}',
        b"\xff",
    ],
)
def test_what_is_no_value(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_text(text)
