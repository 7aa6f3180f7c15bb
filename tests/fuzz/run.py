"""Runs targets under atheris, for a bounded time each: ``python tests/fuzz/run.py [--seconds 300] [TARGET ...]``.

Each target is a process of its own, since libFuzzer ends it. What was learned stays in ``var/fuzz/TARGET/corpus``, an
input that fails in ``var/fuzz/TARGET``; ``--input FILE`` runs that one again. Modules are compiled or not as those of
the interpreter are: ``.venv/bin/python`` or ``.venv-compiled/bin/python``.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
STATE = TESTS.parent / "var" / "fuzz"
MOST_BYTES = 1 << 16  # of an input
INPUT_SECONDS = 20  # that one input may take
MEBIBYTES = 2048  # that the process may hold


def main() -> int:
    """Run what the command line asks for; 1 when an input fails."""
    sys.path.insert(0, str(TESTS))
    targets = importlib.import_module("fuzz.targets")
    parser = argparse.ArgumentParser(description="Fuzz the readers.")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets.names())}; all unless named"
    )
    parser.add_argument("--seconds", type=int, default=300, help="for each target")
    parser.add_argument("--input", type=pathlib.Path, help="run the one target with this file alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.targets or targets.names()
    if unknown := set(names) - set(targets.names()):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if given.input is not None:
        [name] = names
        targets.load(name).one_input(given.input.read_bytes())
        return 0
    if given.child:
        _fuzz(names[0], given.seconds)
    failed = [name for name in names if _run(name, given.seconds) != 0]
    for name in failed:
        print(f"{name} failed; run it again: {sys.executable} {__file__} {name} --input {STATE / name}/...")
    return 1 if failed else 0


def _run(name: str, seconds: int) -> int:
    print(f"== {name}, {seconds} s", flush=True)
    command = [sys.executable, __file__, "--child", "--seconds", str(seconds), name]
    return subprocess.run(command, check=False).returncode


def _fuzz(name: str, seconds: int) -> None:
    """Never returns."""
    atheris = importlib.import_module("atheris")
    targets = importlib.import_module("fuzz.targets")
    with atheris.instrument_imports(include=["policyd_rate_limit"]):  # what is compiled is run without
        target = targets.load(name)
    corpus = STATE / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEBIBYTES}",
        f"-artifact_prefix={STATE / name}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([name, *options, str(corpus)], target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
