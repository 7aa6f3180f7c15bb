"""Writes the manual pages and the page of the commands into the directory of the documentation."""

import sys
from pathlib import Path

from policyd_rate_limit.cli.manual import pages


def main(directory: str) -> None:
    """Write all that is made from the schema and the commands' help below ``directory``."""
    for path, text in pages().items():
        Path(directory, path).parent.mkdir(exist_ok=True)
        Path(directory, path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
