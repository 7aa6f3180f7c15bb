"""What the commands of the benchmark have in common on their command lines."""

from __future__ import annotations

import argparse
import pathlib
import sys

from contenders import CONTENDERS


def add_options(parser: argparse.ArgumentParser, *, seconds: float, only: str = "") -> None:
    """Who is measured, how often, for how long (``seconds`` unless told) and where; ``only``: more about ``--only``."""
    parser.add_argument("--peer", metavar="COMMAND", help="policyd-rate-limit 1.2.0; else pip installs it")
    parser.add_argument(
        "--ours", metavar="COMMAND", default=str(pathlib.Path(sys.executable).parent / "policyd-rate-limit")
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[one.key for one in CONTENDERS],
        metavar="CONTENDER",
        help=f"any of %(choices)s{only}",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=seconds, help="of one measurement; the base takes twice that")
    parser.add_argument(
        "--directory", type=pathlib.Path, help="of the databases: on a real disk, or durability is free"
    )
