"""Writes the sample files of the package and, given its path, the documentation's page of settings."""

import sys
from pathlib import Path

from policyd_rate_limit.config.samples import DIRECTORY, conf_sample, settings_page, yaml_sample


def main(pages: list[str]) -> None:
    """Write all that is made from the schema."""
    (DIRECTORY / "policyd-rate-limit.conf").write_text(conf_sample(), encoding="utf-8")
    (DIRECTORY / "policyd-rate-limit.yaml").write_text(yaml_sample(), encoding="utf-8")
    for page in pages:
        Path(page).write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
