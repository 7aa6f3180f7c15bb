"""What is made from the schema is up to date, and says what the schema says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.samples import DIRECTORY, __main__, conf_sample, settings_page, yaml_sample
from policyd_rate_limit.config.schema import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
AGAIN = "python -m policyd_rate_limit.config.samples docs/settings.md"
SAMPLES = ["policyd-rate-limit.yaml", "policyd-rate-limit.conf"]
OTHER_THAN_DEFAULT = {"fail_action": "defer_if_permit Rate limit reached, retry later"}
"""What the samples set to something else: the defaults of the old versions stay, for whoever upgrades."""


def test_files_are_what_the_schema_makes() -> None:
    assert (DIRECTORY / "policyd-rate-limit.yaml").read_text() == yaml_sample(), AGAIN
    assert (DIRECTORY / "policyd-rate-limit.conf").read_text() == conf_sample(), AGAIN
    assert PAGE.read_text() == settings_page(), AGAIN


def test_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "DIRECTORY", tmp_path)
    __main__.main([str(tmp_path / "page.md")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.md", *sorted(SAMPLES)]
    assert (tmp_path / "page.md").read_text() == settings_page()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_the_defaults(name: str) -> None:
    path = DIRECTORY / name
    assert config.load(path) == (Settings(config_file=str(path), **OTHER_THAN_DEFAULT), ())
    assert {setting.name: setting.sample for setting in SETTINGS.values() if setting.sample} == OTHER_THAN_DEFAULT


def test_samples_say_the_same_to_other_readers() -> None:
    from_yaml = yaml.safe_load(yaml_sample())
    statements = ast.parse(conf_sample()).body
    from_conf = {}
    for statement in statements:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.targets[0], ast.Name)
        from_conf[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert from_yaml == from_conf
    assert set(from_yaml) == set(SETTINGS) - {"config_file"}


def test_every_setting_says_what_it_is_for() -> None:
    for setting in SETTINGS.values():
        assert setting.prose.endswith(".")
        assert setting.kind.expected
        assert f"| `{setting.name}` |" in settings_page() or setting.name == "config_file"
