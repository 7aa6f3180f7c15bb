"""No message about a configuration shows a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.setting import SettingsError
from policyd_rate_limit.errors import ConfigError
from support.configuration import Load
from support.examples import examples

SECRET = "hunter2"
SECRETS = {
    "sqlite_config": {"database": "/x", "key": SECRET},
    "mysql_config": {"passwd": SECRET, "host": SECRET},
    "pgsql_config": {"password": SECRET},
    "redis_config": {"url": f"redis://:{SECRET}@localhost/0"},
    "smtp_credentials": ["user", SECRET],
    "notify_url": f"https://x/{SECRET}",
    "notify_secret": f"whsec_{SECRET}",
}

anything = st.recursive(
    st.sampled_from([SECRET, f"redis://{SECRET}", 1, None, True, 1.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "database", SECRET]), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(SECRETS)), value=anything, conf=st.booleans())
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_secret_is_in_no_message(tmp_path: Path, name: str, value: object, conf: bool) -> None:
    path = tmp_path / ("x.conf" if conf else "x.yaml")
    path.write_text(f"{name} = {value!r}\n" if conf else yaml.safe_dump({name: value}))
    try:
        settings, warnings = config.load(path)
    except ConfigError as error:
        told = [str(error), repr(error), *map(str, error.problems)]
        assert error.__cause__ is None  # noqa: PT017 - a value may be right or wrong
        assert error.__suppress_context__  # noqa: PT017 - as above
    else:
        told = [repr(settings), str(settings), *warnings]
    assert SECRET not in "".join(told)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("notify_secret whsec_hunter2", "notify_secret…; did you mean notify_secret?"),
        ("notify_secret:whsec_hunter2", "notify_secret…; did you mean notify_secret?"),
        ("zzz hunter2", "without a value"),
        ("report_to, whsec_hunter2", "without a value"),
    ],
)
def test_a_value_that_is_taken_for_a_name_is_not_shown(load: Load, text: str, shown: str) -> None:
    warnings = load(f"{{limits: [[1, 1]], {text}}}\n").warnings
    assert [warning.partition("unknown setting ")[2] for warning in warnings] == [shown]


@given(data=st.data(), conf=st.booleans())
@hypothesis_settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(300)
)
def test_no_slip_of_the_pen_shows_a_secret(tmp_path: Path, data: st.DataObject, conf: bool) -> None:
    if conf:
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in SECRETS.items())
    else:
        text = yaml.safe_dump(SECRETS, default_flow_style=data.draw(st.booleans()))
    at = data.draw(st.integers(0, len(text)))
    text = (
        text[:at]
        + data.draw(st.sampled_from([*"\n \t'\"[]{}():,=*&!|>%@#-\\", ""]))
        + text[at + data.draw(st.integers(0, 1)) :]
    )
    path = tmp_path / ("x.conf" if conf else "x.yaml")
    path.write_text(text)
    try:
        settings, warnings = config.load(path)
        told = [repr(settings), *warnings]
    except ConfigError as error:
        told = [str(error)]
    assert SECRET not in "".join(told)


def test_a_validation_error_shows_no_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(mysql_config=SECRET, smtp_credentials=SECRET, pgsql_config=[SECRET])
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
