"""Has mypyc compile what every request passes, and what reads mail logs, when a wheel is built: see pyproject.toml.

It is the same source that runs where nothing is compiled, at some two thirds of the speed. POLICYD_RATE_LIMIT_COMPILE=1
wants it, =0 does not; unset: where there are a C compiler and the headers of Python. What is not there, or does not
compile, then costs no more than speed.

POLICYD_RATE_LIMIT_OPTIMIZE is the level of the C compiler's -O; unset: 1. What 2 makes is no faster, and takes a third
longer to make. 0 takes less time still, and keeps the assertions that mypyc has in its own C.
"""

from __future__ import annotations

import atexit
import os
import pathlib
import shlex
import shutil
import sys
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = (
    "domain/charge.py",
    "domain/charging.py",
    "domain/clock.py",
    "domain/counter.py",
    "domain/counting.py",
    "domain/entry.py",
    "domain/identity.py",
    "domain/ids.py",
    "domain/ledger.py",
    "domain/limits.py",
    "domain/listener.py",
    "domain/mails.py",
    "domain/networks.py",
    "domain/outcome.py",
    "domain/request.py",
    "domain/rules/asked.py",
    "domain/rules/attributes.py",
    "domain/rules/conditions.py",
    "domain/rules/facts.py",
    "domain/rules/keys.py",
    "domain/rules/listed.py",
    "domain/rules/matching.py",
    "domain/rules/patterns.py",
    "domain/rules/subjects.py",
    "domain/rules/tables.py",
    "domain/rules/texts.py",
    "domain/rules/values.py",
    "domain/sweeping.py",
    "domain/values.py",
    "domain/windows.py",
    "maillog/clients.py",
    "maillog/dates.py",
    "maillog/lines.py",
    "maillog/open_mails.py",
    "maillog/outgoing.py",
    "maillog/postfix.py",
    "maillog/programs.py",
    "maillog/recent.py",
    "maillog/refusals.py",
    "notify/notifier.py",
    "notify/rule_notifier.py",
    "observe/decisions.py",
    "observe/hit_history.py",
    "observe/hits.py",
    "protocol/attributes.py",
    "protocol/codec.py",
    "server/connection.py",
    "server/connections.py",
    "server/flow.py",
    "server/server.py",
    "server/turns.py",
    "rehearsal/asking.py",
    "rehearsal/counting.py",
    "rehearsal/gathering.py",
    "rehearsal/ids.py",
    "rehearsal/past.py",
    "rehearsal/series.py",
    "rehearsal/trial.py",
    "policy.py",
    "service.py",
    "sharing.py",
    "storage/batch.py",
    "storage/engine/backlog.py",
    "storage/engine/backoff.py",
    "storage/engine/engine.py",
    "storage/log/appender.py",
    "storage/log/follower.py",
    "storage/log/recent.py",
    "storage/log/store.py",
    "storage/replica.py",
    "storage/engine/pacing.py",
    "storage/record.py",
    "storage/redis/store.py",
    "storage/redis/inquiry.py",
    "storage/redis/keys.py",
    "storage/redis/link.py",
    "storage/redis/node.py",
    "storage/redis/topology.py",
    "storage/redis/session.py",
    "storage/log/sqlite/files.py",
    "storage/log/sqlite/log.py",
    "storage/engine/worker.py",
    "system/throttle.py",
)
PACKAGE = "policyd_rate_limit"
# Types are checked elsewhere, with what the extras bring; here the compiler only needs to know them.
MYPY_OPTIONS = (
    "--follow-imports=silent",
    "--ignore-missing-imports",
    "--explicit-package-bases",
    "--config-file=",
    "--cache-dir=/dev/null",
)
# What a compiler has to say about generated C helps nobody, and looking for it takes gcc a third of its time.
NO_WARNINGS = "-Wno-all"


class CompileHook(BuildHookInterface[Any]):
    """Puts the compiled modules beside their sources, which stay: tracebacks show them."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the environment of the build must hold."""
        return ["mypy[mypyc]>=2.4"] if self._is_wanted else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is put together; one for an editable installation stays as it is."""
        if version != "standard" or not self._is_wanted:
            return
        directory = pathlib.Path(tempfile.mkdtemp(prefix="policyd-rate-limit-compiled-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        try:
            _compile(pathlib.Path(self.root, "src"), directory)
        except (Exception, SystemExit) as error:
            if _wish() == "1":
                raise
            self.app.display_warning(f"not compiled, it will run at two thirds of the speed: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for module in directory.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
            build_data["force_include"][str(module)] = str(module.relative_to(directory))

    @property
    def _is_wanted(self) -> bool:
        if self.target_name != "wheel" or sys.implementation.name != "cpython":
            return False
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
        headers = pathlib.Path(sysconfig.get_path("include"), "Python.h")
        return _wish() == "1" or (_wish() != "0" and shutil.which(compiler) is not None and headers.exists())


def _wish() -> str:
    return os.environ.get("POLICYD_RATE_LIMIT_COMPILE", "")


def _compile(source: pathlib.Path, target: pathlib.Path) -> None:
    """Put the extension modules that come of :data:`MODULES` in ``source`` into ``target``."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    before = pathlib.Path.cwd()
    os.chdir(source)  # whence the names of the modules are told
    try:
        with tempfile.TemporaryDirectory() as scratch:
            extensions = mypycify(
                [*MYPY_OPTIONS, *(f"{PACKAGE}/{module}" for module in MODULES)],
                opt_level=os.environ.get("POLICYD_RATE_LIMIT_OPTIMIZE", "1"),
                debug_level="0",
                target_dir=scratch,
            )
            for extension in extensions:
                extension.extra_compile_args.append(NO_WARNINGS)
            command = build_ext(Distribution({"name": PACKAGE, "ext_modules": extensions}))
            command.build_lib = str(target)
            command.build_temp = scratch
            command.ensure_finalized()
            command.run()
    finally:
        os.chdir(before)
