"""The container image: built by buildah from packaging/Dockerfile, on a Debian of this run in place of Docker's own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.clean_root import debian_release, shared
from support.daemon import Client, free_port, mail
from support.programs import require
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.long(120),
    pytest.mark.timeout(900),  # the first of them waits for what all share
]

PROJECT = Path(__file__).resolve().parent.parent.parent
IMAGE = "localhost/policyd-rate-limit"
USER = 10033
LIMIT = 3
OPEN_FILES = 1024
PROCESSES = 32_768
BUILD_SECONDS = 600.0


class Builder:
    """buildah with a store of its own. It runs programs in a chroot, on this host's network."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Newer ones would raise the limits of a program to the highest that there may be, which not each root may.
        limits = [f"nofile={OPEN_FILES}:{OPEN_FILES}", f"nproc={PROCESSES}:{PROCESSES}"]
        self._settings = directory / "containers.conf"
        self._settings.write_text(f"[containers]\ndefault_ulimits = {json.dumps(limits)}\n")
        self._options = ("--root", directory / "store", "--runroot", directory / "run", "--storage-driver", "overlay")

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """The words of a call of buildah."""
        return ["env", f"CONTAINERS_CONF={self._settings}", require("buildah"), *self._options, *arguments]

    def call(self, *arguments: str | Path) -> str:
        """What buildah writes to standard output; it must succeed."""
        command = self.command(*arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    @contextmanager
    def container(self) -> Iterator[str]:
        """A new container of the image."""
        name = self.call("from", "--pull=false", IMAGE).strip()
        try:
            yield name
        finally:
            self.call("rm", name)


def build(builder: Builder, base: Path, wheels: Path, directory: Path) -> None:
    """Make the image, with ``base`` as Debian and ``wheels`` as PyPI."""
    release = debian_release()
    context = directory / "debian"
    context.mkdir()
    without = ("--exclude=./dev", "--exclude=./packages", "--exclude=./var/lib/apt/lists/*")
    subprocess.run(["tar", "-C", base, *without, "-cf", context / "root.tar", "."], check=True)
    (context / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
    builder.call("build", "--isolation=chroot", f"--tag=docker.io/library/debian:{release}-slim", context)
    (context / "root.tar").unlink()
    pip = directory / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    builder.call(
        "build",
        "--isolation=chroot",
        "--network=host",
        "--pull=false",
        "--format=docker",  # the other format has no health check
        f"--build-arg=RELEASE={release}",
        "--build-arg=COMPILE=0",  # that is tried by the package, and takes more than all the rest
        f"--volume={pip}:/etc/pip.conf:ro",
        f"--volume={wheels}:/wheels:ro",
        f"--file={PROJECT / 'packaging' / 'Dockerfile'}",
        f"--tag={IMAGE}",
        PROJECT,
    )


def download(base: Path, directory: Path) -> None:
    """Put all that the build takes from PyPI into ``directory``, for the Python of ``base``."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [one for extra in ("postgresql", "mysql", "redis", "geoip") for one in extras[extra]]
    wanted.append("async-timeout")  # of redis, where Python is older than 3.11.3
    (version,) = {path.name.removeprefix("python") for path in (base / "usr" / "lib").glob("python3.*")}
    options = ["--quiet", "--only-binary=:all:", "--python-version", version, "--dest", str(directory)]
    pip = [sys.executable, "-m", "pip", "download", *options]
    subprocess.run([*pip, *wanted], check=True, timeout=BUILD_SECONDS)


@pytest.fixture(scope="session")
def image(base: Path, run_directory: Path) -> Iterator[Builder]:
    """A builder that has the image."""
    require("buildah")

    def make(directory: Path) -> None:
        wheels = directory / "wheels"
        wheels.mkdir()
        download(base, wheels)
        build(Builder(directory), base, wheels, directory)

    with shared(run_directory, "image", make) as directory:
        yield Builder(directory)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory of the host that belongs to the user of the container."""
    path = tmp_path / "volume"
    path.mkdir(mode=0o700)
    subprocess.run(["chown", f"{USER}:{USER}", path], check=True)
    return path


def configuration(builder: Builder, directory: Path, port: int) -> Path:
    """That of the image, with another port and limit."""
    with builder.container() as name:
        text = builder.call("run", "--isolation=chroot", name, "--", "cat", "/etc/policyd-rate-limit.yaml")
        assert "nothing wrong" in builder.call(
            "run", "--isolation=chroot", name, "--", "policyd-rate-limit", "check-config"
        )
    changed = text.replace("10033]", f"{port}]").replace('[30, "1h"]', f'[{LIMIT}, "1h"]')
    assert changed.count(f"{port}]") == changed.count(f"[{LIMIT}, ") == 1
    path = directory / "policyd-rate-limit.yaml"
    path.write_text(changed)
    return path


def test_the_image(image: Builder, volume: Path, tmp_path: Path) -> None:
    port = free_port()
    own = configuration(image, tmp_path, port)
    told = json.loads(image.call("inspect", "--type=image", IMAGE))["Docker"]["config"]
    assert (told["User"], told["Volumes"]) == (f"{USER}:{USER}", {"/var/lib/policyd-rate-limit": {}})
    options = ("--isolation=chroot", f"--volume={volume}:/var/lib/policyd-rate-limit")
    test, *check = told["Healthcheck"]["Test"]
    assert test == "CMD"

    answers: list[str] = []
    for _ in range(2):  # the second container goes on where the first one has ended
        with image.container() as name, (tmp_path / "log").open("w") as log:
            image.call("copy", name, own, "/etc/policyd-rate-limit.yaml")
            sick = subprocess.run(image.command("run", *options, name, "--", *check), stderr=subprocess.PIPE, text=True)
            assert sick.returncode == 1
            assert "the daemon does not answer: " in sick.stderr
            root = Path(image.call("mount", name).strip())
            before = written(root)

            with subprocess.Popen(image.command("run", *options, name, "--", *told["Entrypoint"]), stderr=log):
                pidfile = root / "run" / "policyd-rate-limit" / "policyd-rate-limit.pid"
                wait_until(lambda: "INFO ready" in (tmp_path / "log").read_text(), "the daemon serves", 60)
                pid = int(pidfile.read_text())
                assert f"\nUid:\t{USER}\t{USER}\t" in Path(f"/proc/{pid}/status").read_text()
                image.call("run", *options, name, "--", *check)
                with Client(("127.0.0.1", port)) as client:
                    answers += [client.ask(**mail("alice")) for _ in range(2)]
                new = written(root) - before
                assert new == {pidfile.relative_to(root)}
                subprocess.run(["kill", "-TERM", str(pid)], check=True)
            image.call("umount", name)
    assert answers == ["dunno"] * LIMIT + ["defer_if_permit Rate limit reached, retry later"]


def written(root: Path) -> set[Path]:
    """All files of the user of the container, which is all that it can have written."""
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.lstat().st_uid == USER}
