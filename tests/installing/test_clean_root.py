"""Installing, running, upgrading and removing on a machine that has only just got its Debian."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.clean_root import NO_INIT, SYSTEMD, CleanRoot
from support.daemon import Client, mail
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.long(60),
    pytest.mark.timeout(900),  # the first of them waits for what all share
]

SOCKET = "/var/spool/postfix/ratelimit/policy"
DATABASE = "/var/lib/policyd-rate-limit/db.sqlite3"
PIDFILE = "/run/policyd-rate-limit/policyd-rate-limit.pid"
INIT = "/etc/init.d/policyd-rate-limit"
REFUSAL = "defer_if_permit Rate limit reached, retry later"  # of the sample configuration
UNITS = "policyd-rate-limit.socket policyd-rate-limit.service policyd-rate-limit-clean.timer"
LIMIT = 10  # mails in a minute: the first of the default limits

# What may be left of an installation. Debian's tools keep backups and marks of their own.
TRACES = (
    "find / -xdev -regextype posix-extended -iregex '.*policyd.?rate.?limit.*' -not -path '/shared/*' "
    "-not -path '/packages/*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/var/log/journal/*'; "
    "grep -E '^policyd-rate-limit:' /etc/passwd /etc/group /etc/shadow || true"
)

Machine = Callable[[tuple[str, ...]], CleanRoot]


@pytest.fixture
def machine(base: Path, tmp_path: Path) -> Iterator[Machine]:
    """Makes a machine with the given process 1."""
    share = tmp_path / "shared"
    share.mkdir()
    with ExitStack() as machines:

        def make(init: tuple[str, ...]) -> CleanRoot:
            return machines.enter_context(CleanRoot(base, tmp_path / "machine", share, init))

        yield make


def share(source: Path, tmp_path: Path, name: str) -> str:
    """Show ``source`` to the machine; its path there."""
    target = tmp_path / "shared" / name
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return f"/shared/{name}"


def install(root: CleanRoot, package: Path, tmp_path: Path) -> str:
    """Install the Debian package; what dpkg said."""
    # A question would end it: dpkg has no terminal here.
    return root.do(f"dpkg --install {share(package, tmp_path, package.name)} 2>&1")


def ask(root: CleanRoot, count: int = 1) -> list[str]:
    """The answers to ``count`` mails of one user over the socket that Postfix uses."""
    with Client(str(root.path(SOCKET))) as client:
        return [client.ask(**mail("alice")) for _ in range(count)]


def the_package(directory: Path) -> Path:
    (package,) = directory.glob("policyd-rate-limit_*.deb")
    return package


def is_active(root: CleanRoot, unit: str = "policyd-rate-limit.service") -> bool:
    return root.status(f"systemctl is-active --quiet {unit}") == 0


def daemon_pid(root: CleanRoot) -> str:
    return root.do("systemctl show --property MainPID --value policyd-rate-limit").strip()


def test_the_package_on_a_machine_with_systemd(machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(SYSTEMD)
    untouched = root.do(TRACES)
    install(root, the_package(packages), tmp_path)

    # Installed: everything runs, sandboxed, with nothing to say about the units.
    for unit in UNITS.split():
        assert is_active(root, unit), root.run(f"systemctl status {unit}").stdout
        root.do(f"systemctl is-enabled {unit}")
    units = "/lib/systemd/system/policyd-rate-limit"
    assert root.do(f"systemd-analyze verify --man=no {units}.service {units}.socket {units}-clean.*") == ""
    assert root.do("stat -c '%U:%G %a' /etc/policyd-rate-limit.conf").strip() == "root:policyd-rate-limit 640"
    assert root.do(f"stat -c '%U %a' {SOCKET}").strip() == "policyd-rate-limit 666"
    status = root.path(f"/proc/{daemon_pid(root)}/status").read_text()
    assert "\nCapBnd:\t0000000000000000\n" in status
    assert "\nSeccomp:\t2\n" in status
    assert ask(root, LIMIT - 2) == ["dunno"] * (LIMIT - 2)

    # Its hot path is compiled.
    assert list(root.path("/usr/lib/policyd-rate-limit/policyd_rate_limit").glob("server.*.so"))

    # The socket is systemd's: it is there while the daemon is not.
    with Client(str(root.path(SOCKET))) as client:
        root.do("systemctl stop policyd-rate-limit.service 2>&1")
    assert not is_active(root)
    with Client(str(root.path(SOCKET))) as client:
        assert client.ask(**mail("alice")) == "dunno"
    assert is_active(root)

    # What runs is supervised, and counts survive its death.
    before = daemon_pid(root)
    root.do(f"kill -KILL {before}")
    wait_until(lambda: is_active(root) and daemon_pid(root) not in (before, "0"), "the daemon is started again")
    root.do("systemctl reload policyd-rate-limit")
    assert ask(root, 2) == ["dunno", REFUSAL]
    assert "records deleted" in root.do(
        "systemctl start policyd-rate-limit-clean; journalctl -u policyd-rate-limit-clean"
    )

    # Upgraded: another process, the same counts.
    before = daemon_pid(root)
    install(root, the_package(packages / "newer"), tmp_path)
    assert is_active(root)
    assert daemon_pid(root) != before
    assert ask(root) == [REFUSAL]

    # Without the socket unit the daemon makes its socket itself.
    root.do("systemctl disable --now policyd-rate-limit.socket; systemctl restart policyd-rate-limit")
    assert ask(root) == [REFUSAL]
    root.do("systemctl stop policyd-rate-limit")
    assert not root.path(SOCKET).exists()
    root.do("systemctl enable --now policyd-rate-limit.socket")

    # Removed: configuration and counts stay. Purged: nothing does.
    root.do("dpkg --remove policyd-rate-limit 2>&1")
    assert root.status(f"systemctl is-active --quiet {UNITS}") != 0
    assert root.path("/etc/policyd-rate-limit.conf").exists()
    assert root.path(DATABASE).exists()
    assert not root.path("/usr/lib/policyd-rate-limit").exists()
    root.do("dpkg --purge policyd-rate-limit 2>&1")
    assert root.do(TRACES) == untouched


def test_the_package_on_a_machine_without_systemd(machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(NO_INIT)
    untouched = root.do(TRACES)
    install(root, the_package(packages), tmp_path)
    assert root.status(f"{INIT} status") == 3

    for _ in range(2):  # it is no mistake to start what runs
        root.do(f"{INIT} start")
    root.do(f"{INIT} status")
    assert ask(root, LIMIT) == ["dunno"] * LIMIT
    for action in ("restart", "try-restart", "reload", "force-reload"):
        root.do(f"{INIT} {action}")
        assert ask(root) == [REFUSAL]

    # Killed, the daemon leaves its pidfile behind; the next one takes it over.
    pidfile = root.path(PIDFILE)
    root.do(f"kill -KILL $(cat {PIDFILE})")
    wait_until(lambda: root.status(f"{INIT} status") == 1, "the init script sees that the daemon is dead")
    root.do(f"{INIT} start")
    assert ask(root) == [REFUSAL]

    # A configuration that is broken is told on the terminal, and does not keep the daemon from being stopped.
    configuration = root.path("/etc/policyd-rate-limit.conf")
    good = configuration.read_text()
    configuration.write_text(good + "limits = 7\n")
    root.do(f"{INIT} stop")
    assert not pidfile.exists()
    failed = root.run(f"{INIT} start")
    assert failed.returncode == 1
    assert "limits: expected" in failed.stdout
    configuration.write_text(good + "SOCKET = ['192.0.2.1', 10033]\n")  # an address of somebody else
    assert root.status(f"{INIT} start") == 1
    assert root.status(f"{INIT} status") == 3
    assert root.status(f"{INIT} reload") == 1
    configuration.write_text(good)

    # An upgrade leaves a changed configuration alone, and the counts.
    configuration.write_text(good + "fail_action = 'reject too many'\n")
    install(root, the_package(packages / "newer"), tmp_path)
    root.do(f"{INIT} start")
    assert ask(root) == ["reject too many"]
    root.do("/etc/cron.daily/policyd-rate-limit")
    root.do(f"{INIT} stop; {INIT} stop")

    root.do("dpkg --remove policyd-rate-limit 2>&1")
    assert configuration.exists()
    assert root.path(DATABASE).exists()
    root.do(f"sh {INIT} start; /etc/cron.daily/policyd-rate-limit")  # they stay until the purge, and do nothing
    assert root.status("pidof -x policyd-rate-limit") == 1
    root.do("dpkg --purge policyd-rate-limit 2>&1")
    assert root.do(TRACES) == untouched


def test_the_package_over_the_one_of_debian(machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(SYSTEMD)
    configuration = "/etc/policyd-rate-limit.yaml"
    root.do("mkdir -p /var/spool/postfix/ratelimit; dpkg --install /packages/policyd-rate-limit_*.deb 2>&1")
    old = root.do("dpkg-query --show --showformat='${Version}' policyd-rate-limit")
    root.do(f"sed -i 's/^fail_action:.*/fail_action: reject as before/' {configuration}")
    changed = root.path(configuration).read_text()
    root.do("chown policyd-rate-limit /var/spool/postfix/ratelimit; systemctl restart policyd-rate-limit")
    wait_until(lambda: root.path(SOCKET).exists(), f"the daemon of version {old} listens")
    assert ask(root, LIMIT - 1) == ["dunno"] * (LIMIT - 1)
    account = root.do("getent passwd policyd-rate-limit")

    install(root, the_package(packages), tmp_path)

    assert root.path(configuration).read_text() == changed
    assert not root.path("/etc/policyd-rate-limit.conf").exists()
    assert root.do("getent passwd policyd-rate-limit") == account
    assert is_active(root), root.run("systemctl status policyd-rate-limit").stdout
    assert ask(root, 2) == ["dunno", "reject as before"]

    root.do("dpkg --purge policyd-rate-limit 2>&1")
    assert not root.path(configuration).exists()
    assert not root.path(DATABASE).exists()


def test_the_socket_unit_stays_out_of_the_way_of_another_socket(
    machine: Machine, packages: Path, tmp_path: Path
) -> None:
    root = machine(SYSTEMD)
    root.path("/etc/policyd-rate-limit.yaml").write_text("SOCKET: ['127.0.0.1', 10033]\n")
    install(root, the_package(packages), tmp_path)
    assert is_active(root)
    assert not is_active(root, "policyd-rate-limit.socket")
    root.do("exec 3<>/dev/tcp/127.0.0.1/10033")
    assert not root.path("/etc/policyd-rate-limit.conf").exists()


def test_make_install(machine: Machine, artefacts: Path, wheels: Path, tmp_path: Path) -> None:
    root = machine(SYSTEMD)
    untouched = root.do(TRACES)
    (sdist,) = artefacts.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    share(wheels, tmp_path, "wheels")
    offline = f"cd {share(source, tmp_path, 'source')}; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/shared/wheels; umask 077;"

    root.do(f"{offline} make install 2>&1")
    root.do(f"systemctl enable --now {UNITS} 2>&1")
    configuration = root.path("/etc/policyd-rate-limit.conf")
    assert ask(root, LIMIT - 1) == ["dunno"] * (LIMIT - 1)

    # Once more, with a configuration that is the administrator's by now. To compile it all takes most of the time.
    offline += " export PIP_COMPILE=0;"
    configuration.write_text(configuration.read_text() + "fail_action = 'reject too many'\n")
    changed = configuration.read_text()
    root.do(f"{offline} make install 2>&1; systemctl restart policyd-rate-limit")
    assert configuration.read_text() == changed
    assert ask(root, 2) == ["dunno", "reject too many"]
    root.do("cd /; policyd-rate-limit --version; systemctl start policyd-rate-limit-clean")

    for _ in range(2):
        root.do(f"{offline} make uninstall 2>&1")
    assert root.status(f"systemctl is-active --quiet {UNITS}") != 0
    assert configuration.read_text() == changed
    assert root.path(DATABASE).exists()
    left = root.do(TRACES).splitlines()
    assert not [path for path in left if path.startswith(("/opt", "/usr", "/etc/init.d", "/etc/systemd", "/etc/cron"))]

    # The .yaml of an earlier version is configuration enough.
    root.do("mv /etc/policyd-rate-limit.conf /tmp; echo 'limits: [[7, 60]]' >/etc/policyd-rate-limit.yaml")
    root.do(f"{offline} make install 2>&1; policyd-rate-limit --get-config limits")
    assert not configuration.exists()

    # Staged by anybody, for a package.
    root.do(
        f"{offline} make install DESTDIR=/tmp/staged PREFIX=/usr UNITDIR=/usr/lib/systemd/system VENV=/usr/lib/x 2>&1"
    )
    assert root.do("grep -rl /tmp/staged /tmp/staged --include='*' --exclude-dir=__pycache__ || true") == ""
    root.do("/tmp/staged/usr/lib/x/bin/python -m policyd_rate_limit --version")
    assert root.path("/tmp/staged/usr/bin/policyd-rate-limit").readlink() == Path("/usr/lib/x/bin/policyd-rate-limit")
    root.do(
        "grep -q ExecStart=/usr/bin/policyd-rate-limit /tmp/staged/usr/lib/systemd/system/policyd-rate-limit.service"
    )

    for _ in range(2):
        root.do(f"{offline} make purge 2>&1")
    root.do("rm -rf /tmp/staged /tmp/policyd-rate-limit.conf")
    assert root.do(TRACES) == untouched
