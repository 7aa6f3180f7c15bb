"""Installing, running, upgrading and removing on a machine that has only just got its Debian."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from support.clean_root import NO_INIT, SYSTEMD, CleanRoot, Machine
from support.daemon import Client, mail
from support.installed import (
    DATABASE,
    INIT,
    LIMIT,
    PIDFILE,
    REFUSAL,
    SOCKET,
    TRACES,
    UNITS,
    ask,
    daemon_pid,
    install,
    is_active,
    listens,
    share,
    the_package,
)
from support.wait import wait_until

WEB = "policyd-rate-limit-web.service"
PASSWORD = "correct horse battery"
LOGIN = f"""
import http.client, socket, urllib.parse

class Page(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/policyd-rate-limit-web/web.sock")

form = urllib.parse.urlencode(dict(name="anna", password={PASSWORD!r}))
kind = "application/x-www-form-urlencoded"
page = Page("localhost")
page.request("POST", "/login", form, {{"Origin": "http://localhost", "Content-Type": kind}})
answer = page.getresponse()
answer.read()
page.request("GET", "/", headers={{"Cookie": answer.headers["set-cookie"].partition(";")[0]}})
print(answer.status, page.getresponse().status)
"""
"""Logs in at the web page, as through a tunnel; writes the status of that and of the first page."""

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="systemd boots, and packages are unpacked, within times of their own"),
    pytest.mark.long(60),
    pytest.mark.timeout(900),  # the first of them waits for what all share
]


def log_in_at_the_web_page(root: CleanRoot) -> None:
    """The two commands of docs/web.md: from nothing to the first login."""
    root.do(f"echo '{PASSWORD}' | policyd-rate-limit web-user add anna --role operate")
    root.do("systemctl enable --now policyd-rate-limit-web.socket 2>&1")
    root.path("/root/login.py").write_text(LOGIN)
    assert root.do("python3 /root/login.py") == "303 200\n", root.run(f"journalctl -u {WEB}").stdout


def test_the_package_on_a_machine_with_systemd(base: Path, machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(base, SYSTEMD)
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
    assert list(root.path("/usr/lib/policyd-rate-limit/policyd_rate_limit").glob("service.*.so"))

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

    # The web page.
    assert not is_active(root, WEB)
    log_in_at_the_web_page(root)
    assert root.do(f"systemd-analyze verify --man=no {units}-web.service {units}-web.socket") == ""
    assert root.do("stat -c '%U:%G %a' /etc/policyd-rate-limit-web.accounts").strip() == "root:policyd-rate-limit 640"
    assert root.do("stat -c '%G %a' /run/policyd-rate-limit-web/web.sock").strip() == "www-data 660"
    web = root.do(f"systemctl show --property MainPID --value {WEB}").strip()
    status = root.path(f"/proc/{web}/status").read_text()
    assert "\nCapBnd:\t0000000000000000\n" in status
    assert "\nSeccomp:\t2\n" in status

    # Upgraded: another process, the same counts.
    before = daemon_pid(root)
    install(root, the_package(packages / "newer"), tmp_path)
    assert is_active(root)
    assert daemon_pid(root) != before
    assert is_active(root, WEB)
    assert root.do(f"systemctl show --property MainPID --value {WEB}").strip() != web
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
    assert not is_active(root, WEB)
    assert root.path("/etc/policyd-rate-limit.conf").exists()
    assert root.path(DATABASE).exists()
    assert not root.path("/usr/lib/policyd-rate-limit").exists()
    root.do("dpkg --purge policyd-rate-limit 2>&1")
    assert root.do(TRACES) == untouched


def test_a_mistake_in_the_configuration(base: Path, machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(base, SYSTEMD)
    install(root, the_package(packages), tmp_path)
    configuration = root.path("/etc/policyd-rate-limit.conf")
    good = configuration.read_text()
    running = daemon_pid(root)

    # Reloading says so, and changes nothing: also where an override names another file.
    configuration.write_text(good + "limits = 7\n")
    assert root.status("systemctl reload policyd-rate-limit") != 0
    assert "limits: expected" in root.do("journalctl --unit policyd-rate-limit --output cat")
    assert (is_active(root), daemon_pid(root)) == (True, running)
    assert ask(root) == ["dunno"]
    root.do("cp -p /etc/policyd-rate-limit.conf /etc/other.conf")
    configuration.write_text(good)
    root.do("systemctl reload policyd-rate-limit")
    root.do("""
        mkdir /etc/systemd/system/policyd-rate-limit.service.d
        cat >/etc/systemd/system/policyd-rate-limit.service.d/other.conf <<END
[Service]
ExecStart=
ExecStart=/usr/bin/policyd-rate-limit -f /etc/other.conf
END
        sed -i '/limits = 7/d' /etc/other.conf
        systemctl daemon-reload; systemctl restart policyd-rate-limit; systemctl reload policyd-rate-limit
        echo 'limits = 7' >>/etc/other.conf
    """)
    assert root.status("systemctl reload policyd-rate-limit") != 0
    root.do("rm -r /etc/systemd/system/policyd-rate-limit.service.d; systemctl daemon-reload")

    # Restarting with it fails, and goes on failing while Postfix asks. The socket stays, and who has asked is answered
    # when the mistake is gone, without anybody starting anything.
    configuration.write_text(good + "limits = 7\n")
    assert root.status("systemctl restart policyd-rate-limit") != 0
    with Client(str(root.path(SOCKET))) as client:
        client.send(**mail("alice"))
        restarts = "systemctl show --property NRestarts --value policyd-rate-limit"
        wait_until(lambda: int(root.do(restarts)) >= 6, "it is started as often as a limit on that would allow", 60)
        assert is_active(root, "policyd-rate-limit.socket")
        configuration.write_text(good)
        assert client.answer() == "dunno"
    assert is_active(root)
    assert ask(root) == ["dunno"]

    # One that was stopped by hand: the daemon makes its own, and doctor sees that.
    def found() -> list[str]:
        said = root.run("policyd-rate-limit doctor --json").stdout
        findings = json.loads(said)["findings"]
        return [finding["severity"] for finding in findings if finding["check"] == "socket-unit"]

    assert found() == ["ok"]
    stop = "systemctl stop policyd-rate-limit.service policyd-rate-limit.socket 2>&1"
    root.do(f"{stop}; systemctl start policyd-rate-limit")
    assert ask(root) == ["dunno"]
    assert found() == ["error"]
    mend = json.loads(root.run("policyd-rate-limit doctor --json").stdout)["findings"]
    root.do(next(one["mend"] for one in mend if one["check"] == "socket-unit"))
    assert found() == ["ok"]
    assert ask(root) == ["dunno"]

    # So does an upgrade of the package.
    root.do(f"{stop}; systemctl start policyd-rate-limit")
    install(root, the_package(packages / "newer"), tmp_path)
    assert found() == ["ok"]
    assert is_active(root)


def test_the_package_on_a_machine_without_systemd(base: Path, machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(base, NO_INIT)
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
    failed = root.run(f"{INIT} reload")
    assert failed.returncode == 1
    assert "limits: expected" in failed.stdout
    assert ask(root) == [REFUSAL]
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


def test_the_package_over_the_one_of_debian(base: Path, machine: Machine, packages: Path, tmp_path: Path) -> None:
    root = machine(base, SYSTEMD)
    configuration = "/etc/policyd-rate-limit.yaml"
    root.do("mkdir -p /var/spool/postfix/ratelimit; dpkg --install /packages/policyd-rate-limit_*.deb 2>&1")
    old = root.do("dpkg-query --show --showformat='${Version}' policyd-rate-limit")
    root.do(f"sed -i 's/^fail_action:.*/fail_action: reject as before/' {configuration}")
    changed = root.path(configuration).read_text()
    root.do("chown policyd-rate-limit /var/spool/postfix/ratelimit; systemctl restart policyd-rate-limit")
    wait_until(lambda: listens(root), f"the daemon of version {old} listens")
    # 1.0.1.1 counts at RCPT alone; the configuration of 1.2.0 in Debian 13 has count_mode: 1.
    stage = "RCPT" if old.startswith("1.0.") else "DATA"
    asked: dict[str, Any] = {"protocol_state": stage, "recipient_count": 1}
    assert ask(root, LIMIT - 1, **asked) == ["dunno"] * (LIMIT - 1)
    account = root.do("getent passwd policyd-rate-limit")

    said = install(root, the_package(packages), tmp_path)

    assert "Could not execute" not in said
    for unit in UNITS.split():
        assert is_active(root, unit), root.run(f"systemctl status {unit}").stdout
    assert root.path(configuration).read_text() == changed
    assert not root.path("/etc/policyd-rate-limit.conf").exists()
    assert root.do("getent passwd policyd-rate-limit") == account
    assert ask(root, 2, **asked) == ["dunno", "reject as before"]

    # There and back.
    root.do("dpkg --remove policyd-rate-limit 2>&1; dpkg --install /packages/policyd-rate-limit_*.deb 2>&1")
    assert root.path(configuration).read_text() == changed
    wait_until(lambda: listens(root), f"the daemon of version {old} listens")
    assert ask(root, **asked) == ["dunno"]  # it does not know what ours has counted
    assert root.do("dpkg --verify policyd-rate-limit || true").split()[-1:] in ([], [configuration])
    install(root, the_package(packages), tmp_path)

    root.do("dpkg --purge policyd-rate-limit 2>&1")
    assert not root.path(configuration).exists()
    assert not root.path(DATABASE).exists()


def test_the_socket_unit_stays_out_of_the_way_of_another_socket(
    base: Path, machine: Machine, packages: Path, tmp_path: Path
) -> None:
    root = machine(base, SYSTEMD)
    root.path("/etc/policyd-rate-limit.yaml").write_text("SOCKET: ['127.0.0.1', 10033]\n")
    install(root, the_package(packages), tmp_path)
    assert is_active(root)
    assert not is_active(root, "policyd-rate-limit.socket")
    root.do("exec 3<>/dev/tcp/127.0.0.1/10033")
    assert not root.path("/etc/policyd-rate-limit.conf").exists()


def unpacked(artefacts: Path, wheels: Path, tmp_path: Path) -> str:
    """Show the unpacked sdist to the machine; the beginning of a command that is run there."""
    (sdist,) = artefacts.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # which the Python of Debian 12 does not have
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()
    share(wheels, tmp_path, "wheels")
    return f"cd {share(source, tmp_path, 'source')}; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/shared/wheels; umask 077;"


def test_make_install(base: Path, machine: Machine, artefacts: Path, wheels: Path, tmp_path: Path) -> None:
    root = machine(base, SYSTEMD)
    untouched = root.do(TRACES)
    offline = unpacked(artefacts, wheels, tmp_path)

    root.do(f"{offline} make install 2>&1")
    root.do(f"systemctl enable --now {UNITS} 2>&1")
    configuration = root.path("/etc/policyd-rate-limit.conf")
    assert ask(root, LIMIT - 1) == ["dunno"] * (LIMIT - 1)

    # Once more, with a configuration that is the administrator's by now. To compile it all takes most of the time.
    offline += " export PIP_COMPILE=0;"
    configuration.write_text(configuration.read_text() + "fail_action = 'reject too many'\n")
    changed = configuration.read_text()
    assert not root.path("/etc/systemd/system/policyd-rate-limit-web.socket").exists()
    root.do(f"{offline} make install EXTRAS=web 2>&1; systemctl restart policyd-rate-limit")
    assert configuration.read_text() == changed
    assert ask(root, 2) == ["dunno", "reject too many"]
    log_in_at_the_web_page(root)
    root.do("cd /; policyd-rate-limit --version; systemctl start policyd-rate-limit-clean")

    # Its Python goes away, as with an upgrade of Debian: the log says so, and what to type.
    python = root.do("readlink -f /usr/bin/python3").strip()
    root.do(f"mv {python} {python}.gone")
    assert root.status("systemctl restart policyd-rate-limit") != 0
    log = root.do("journalctl --unit policyd-rate-limit --output cat --priority err")
    assert f"/opt/policyd-rate-limit was made with {python}, which is gone" in log
    assert "    make install EXTRAS=web && systemctl restart policyd-rate-limit" in log
    assert "status=69" in root.run("systemctl status --no-pager policyd-rate-limit").stdout
    root.do(f"mv {python}.gone {python}")
    wait_until(lambda: is_active(root), "it starts again by itself")

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
    assert "venv=/usr/lib/x\n" in root.path("/tmp/staged/usr/bin/policyd-rate-limit").read_text()
    root.do(
        "grep -q ExecStart=/usr/bin/policyd-rate-limit /tmp/staged/usr/lib/systemd/system/policyd-rate-limit.service"
    )

    for _ in range(2):
        root.do(f"{offline} make purge 2>&1")
    root.do("rm -rf /tmp/staged /tmp/policyd-rate-limit.conf")
    assert root.do(TRACES) == untouched


def test_make_install_leaves_what_is_of_dpkg(
    base: Path, machine: Machine, artefacts: Path, wheels: Path, tmp_path: Path
) -> None:
    """A package that was removed and not purged, as 1.0.1.1 or 1.2.0 of Debian, comes back as it was."""
    root = machine(base, SYSTEMD)
    root.do("mkdir -p /var/spool/postfix/ratelimit; dpkg --install /packages/policyd-rate-limit_*.deb 2>&1")
    root.do("dpkg --remove policyd-rate-limit 2>&1")
    conffiles = "dpkg-query --show --showformat='${Conffiles}' policyd-rate-limit | awk 'NF { print $1 }'"
    state = f"for file in $({conffiles}); do stat -c '%n %a' $file; md5sum $file; done"
    before = root.do(state)
    assert INIT in before
    offline = unpacked(artefacts, wheels, tmp_path)
    root.do(f"{offline} make install 2>&1; systemctl enable --now {UNITS} 2>&1")
    assert root.do(state) != before
    assert ask(root) == ["dunno"]
    for _ in range(2):
        root.do(f"{offline} make uninstall 2>&1")
        assert root.do(state) == before
    root.do("dpkg --install /packages/policyd-rate-limit_*.deb 2>&1")
    assert "conffile" not in root.do("dpkg --audit 2>&1")
    assert root.do(f"test -x {INIT}; dpkg --verify policyd-rate-limit") == ""

    # Where it is installed, purging is dpkg's.
    assert root.status(f"{offline} make purge 2>&1") != 0
    root.do("dpkg --remove policyd-rate-limit 2>&1")
    root.do(f"{offline} make purge 2>&1")
    assert root.do(state) == before
