"""``doctor`` on real configurations of Postfix: a good one, and the same broken in one way at a time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.postfix.names import NAMES, REMOVED, RestrictionNames
from policyd_rate_limit.postfix.postconf import Postfix
from support.commands import call
from support.doctor import CHECK, MASTER_CF, SMTP, SUBMISSION, Host, doctor, mend, only, settings, wrong
from support.postfix import write_cf
from support.public import public_directory

pytestmark = [pytest.mark.needs_postfix, pytest.mark.needs_root]


def test_a_good_one(host: Host, tmp_path: Path) -> None:
    findings = doctor(host.daemon.path, host.configure(tmp_path / "etc"))
    assert wrong(findings) == []
    assert {finding["check"] for finding in findings} >= {"postfix", "hooked", "answers", "database", "local-mail"}
    assert "asks at smtp/inet at RCPT, submission/inet at RCPT" in {finding["found"] for finding in findings}
    assert not any(finding["why"] or finding["mend"] for finding in findings)


CLIENTS = {"limit_by_sender": True}

BROKEN: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    # what is wrong: the finding, what main.cf has, what master.cf has instead, settings
    "not hooked": ("not-hooked", "smtpd_recipient_restrictions = reject_unauth_destination", "", {}),
    "hooked at a stage that is not counted": (
        "stage-not-counted",
        "",
        "",
        {"count_mode": 1},
    ),
    "hooked before the recipients": (
        "stage-not-counted",
        f"smtpd_delay_reject = no\nsmtpd_recipient_restrictions =\nsmtpd_sender_restrictions = {CHECK}",
        "",
        {},
    ),
    "after permit_sasl_authenticated": (
        "after-permit",
        f"smtpd_recipient_restrictions = permit_sasl_authenticated, {CHECK}, reject",
        "",
        {},
    ),
    "after permit_mynetworks": (
        "after-permit",
        f"smtpd_recipient_restrictions = permit_mynetworks {CHECK} permit_sasl_authenticated reject",
        "",
        {},
    ),
    "after the end": ("after-permit", f"smtpd_recipient_restrictions = reject, {CHECK}", "", {}),
    "after a permit in a class": (
        "after-permit",
        "smtpd_restriction_classes = outgoing\noutgoing = permit_sasl_authenticated, sleep 1\n"
        f"smtpd_recipient_restrictions = outgoing, {CHECK}",
        "",
        {},
    ),
    "warn_if_reject": ("warn-if-reject", f"smtpd_recipient_restrictions = warn_if_reject {CHECK}, reject", "", {}),
    "no default_action": (
        "default-action",
        "smtpd_recipient_restrictions = check_policy_service unix:ratelimit/policy, reject",
        "",
        {},
    ),
    "no default_action among options": (
        "default-action",
        "smtpd_recipient_restrictions = check_policy_service { unix:ratelimit/policy { timeout = 9s } }, reject",
        "",
        {},
    ),
    "smtpd gives up first": (
        "timeout",
        "smtpd_policy_service_timeout = 5s",
        "",
        {"db_timeout": 8},
    ),
    "a connection for each request": ("request-limit", "smtpd_policy_service_request_limit = 1", "", {}),
    "main.cf's list is dropped": (
        "service-not-limited",
        "",
        f"{SMTP}{SUBMISSION}  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n",
        {},
    ),
    "the only service drops main.cf's list": (
        "not-hooked",
        "",
        f"{SUBMISSION}  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n",
        {},
    ),
    "main.cf's list is dropped by a parameter": (
        "service-not-limited",
        "mua_restrictions = permit_sasl_authenticated, reject",
        f"{SMTP}{SUBMISSION}  -o smtpd_recipient_restrictions=$mua_restrictions\n",
        {},
    ),
    "only one service is hooked": (
        "service-not-limited",
        "smtpd_recipient_restrictions =\nsmtpd_sasl_auth_enable = yes",
        f"{SMTP}submission inet n - y - - smtpd\n  -o {{ smtpd_recipient_restrictions = {CHECK} }}\n",
        {},
    ),
    "a list of master.cf in the wrong order": (
        "after-permit",
        "",
        f"{SUBMISSION}  -o {{ smtpd_recipient_restrictions = permit_sasl_authenticated, {CHECK} }}\n",
        {},
    ),
    "asked twice at one stage": ("asked-twice", f"smtpd_sender_restrictions = {CHECK}", "", {"count_mode": 0}),
    "counted again behind a filter": (
        "counted-twice",
        "content_filter = smtp:[127.0.0.1]:10024",
        "smtp inet n - y - - smtpd\n127.0.0.1:10025 inet n - y - - smtpd\n  -o content_filter=\n",
        CLIENTS,
    ),
    "counted again behind a filter on another host": (
        "counted-twice",
        "content_filter = smtp:[192.0.2.25]:10024",
        "smtp inet n - y - - smtpd\n0.0.0.0:10025 inet n - y - - smtpd\n  -o content_filter=\n",
        CLIENTS,
    ),
    "counted again behind a proxy": (
        "counted-twice",
        "",
        "smtp inet n - y - - smtpd\n  -o smtpd_proxy_filter=192.0.2.25:10024\n"
        "10025 inet n - y - - smtpd\n  -o smtpd_authorized_xforward_hosts=192.0.2.0/24\n",
        CLIENTS,
    ),
    "options without braces": (
        "unknown-restriction",
        "smtpd_recipient_restrictions = check_policy_service unix:ratelimit/policy, default_action=DUNNO, reject",
        "",
        {},
    ),
    "an option of another name": (
        "unknown-restriction",
        "smtpd_recipient_restrictions ="
        " check_policy_service { unix:ratelimit/policy, default_acton=DUNNO, default_action=DUNNO }, reject",
        "",
        {},
    ),
    "a restriction of another name": (
        "unknown-restriction",
        f"smtpd_recipient_restrictions = {CHECK}, reject_unauth_destinaton",
        "",
        {},
    ),
    "a word that is no restriction": ("unknown-restriction", "smtpd_helo_restrictions = DUNNO, permit", "", {}),
    "a restriction without its argument": ("unknown-restriction", f"smtpd_data_restrictions = {CHECK}, sleep", "", {}),
    "a table alone where none may be": ("unknown-restriction", "smtpd_data_restrictions = hash:/etc/postfix/x", "", {}),
    "a slip in a restriction class": (
        "unknown-restriction",
        "smtpd_restriction_classes = strict\nstrict = rejct",
        "",
        {},
    ),
    "more recipients than any limit": (
        "recipient-limit",
        f"smtpd_recipient_restrictions =\nsmtpd_data_restrictions = {CHECK}",
        "",
        {},
    ),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_broken_in_one_way_and_mended_as_it_says(
    host: Host, tmp_path: Path, case: tuple[str, str, str, dict[str, Any]]
) -> None:
    check, main_cf, master_cf, changed = case
    configuration = settings(host, tmp_path, **changed)
    postfix = host.configure(tmp_path / "etc", main_cf + "\n", master_cf or MASTER_CF)
    finding = only(doctor(configuration, postfix))
    assert finding["check"] == check
    mend(finding, postfix)
    # With count_mode 1 and 2 the next thing to know is how many recipients a mail may have.
    left = doctor(configuration, postfix, "--ignore", "recipient-limit")
    assert wrong(left) == []


def test_one_line_mends_all_that_is_wrong_with_a_list(host: Host, tmp_path: Path) -> None:
    asked = f"check_policy_service {{ unix:{host.queue}/ratelimit/policy, {{ policy_context = a, b }} }}"
    value = f"permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination, warn_if_reject {asked}"
    postfix = host.configure(
        tmp_path / "etc", f"smtpd_sasl_auth_enable = yes\nsmtpd_recipient_restrictions = {value}\n"
    )
    found = wrong(doctor(host.daemon.path, postfix))
    assert [finding["check"] for finding in found] == [
        *("after-permit", "after-permit", "warn-if-reject", "default-action", "chroot")
    ]
    (line,) = {finding["mend"] for finding in found}
    assert line == (
        "smtpd_recipient_restrictions = check_policy_service { unix:ratelimit/policy, { policy_context=a, b },"
        " default_action=DUNNO }, permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination"
    )
    mend(found[0], postfix)
    assert wrong(doctor(host.daemon.path, postfix)) == []


# The settings


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"limit_by_sasl": False}, "nobody-charged"),
        ({"limit_by_ip": True}, "limited-networks"),
        ({"limits": []}, "no-limits"),
        ({"limits": [], "limits_by_id": {"a": []}}, "no-limits"),
        ({"fail_action": "dunno"}, "fail-action"),
        ({"sql_limits_by_id": "SELECT limits FROM rate_limits WHERE id = '?'"}, "sql-limits"),
        ({"delay_to_close": 60}, "max-idle"),
        ({"limit_by_sasll": True}, "config"),
        ({"user": "no-such-user"}, "account"),
    ],
)
def test_settings_that_limit_nobody(host: Host, tmp_path: Path, changed: dict[str, Any], check: str) -> None:
    finding = only(doctor(settings(host, tmp_path, **changed), host.configure(tmp_path / "etc")))
    assert finding["check"] == check
    assert str(tmp_path / "policyd-rate-limit.yaml") in finding["place"]


def test_limits_of_nobody_are_none(host: Host, tmp_path: Path) -> None:
    configuration = settings(host, tmp_path, limits=[], limits_by_id={"@example.org": [[1, 60]]})
    found = wrong(doctor(configuration, host.configure(tmp_path / "etc")))
    assert [finding["check"] for finding in found] == ["config", "no-limits"]
    assert "'@example.org' applies to nobody" in found[0]["found"]


def test_every_error_of_the_configuration_is_told(host: Host, tmp_path: Path) -> None:
    found = doctor(settings(host, tmp_path, limits=7, backend=9), host.configure(tmp_path / "etc"))
    assert [finding["check"] for finding in found] == ["config", "config"]
    assert "backend: expected" in found[0]["found"] + found[1]["found"]


def test_limits_of_single_ids_are_limits(host: Host, tmp_path: Path) -> None:
    configuration = settings(host, tmp_path, limits=[], limits_by_id={"alice": [[1, 60]]})
    assert wrong(doctor(configuration, host.configure(tmp_path / "etc"))) == []


def test_nobody_can_authenticate(host: Host, tmp_path: Path) -> None:
    postfix = host.configure(tmp_path / "etc", "", SMTP)
    assert only(doctor(host.daemon.path, postfix))["check"] == "no-sasl"
    assert wrong(doctor(settings(host, tmp_path, limit_by_sender=True), postfix)) == []
    postfix = host.configure(tmp_path / "etc", "smtpd_authorized_xclient_hosts = 127.0.0.1\n", SMTP)
    assert wrong(doctor(host.daemon.path, postfix)) == []


def test_clients_behind_a_proxy(host: Host, tmp_path: Path) -> None:
    master = "127.0.0.1:10024 inet n - y - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n"
    configuration = settings(host, tmp_path, limit_by_ip=True, limited_networks=["192.0.2.0/24"])
    postfix = host.configure(tmp_path / "etc", "", master)
    assert only(doctor(configuration, postfix))["check"] == "proxied-clients"
    proxied = host.configure(tmp_path / "proxied", "smtpd_upstream_proxy_protocol = haproxy\n", master)
    assert wrong(doctor(configuration, proxied)) == []
    configuration = settings(host, tmp_path, limit_by_ip=True, limited_networks=["127.0.0.0/8"])
    assert wrong(doctor(configuration, postfix)) == []


# Postfix


def test_local_mail_gets_around_it(host: Host, tmp_path: Path) -> None:
    postfix = host.configure(tmp_path / "etc", "authorized_submit_users = static:anyone\n")
    finding = only(doctor(host.daemon.path, postfix))
    assert finding["check"] == "local-mail"
    assert "authorized_submit_users = !www-data, static:anyone" in finding["mend"]
    main_cf = postfix / "main.cf"
    write_cf(main_cf, main_cf.read_text() + "authorized_submit_users = !www, static:all\n")
    assert wrong(doctor(host.daemon.path, postfix)) == []


def test_no_postfix(host: Host, tmp_path: Path) -> None:
    finding = only(doctor(host.daemon.path, tmp_path))
    assert finding["check"] == "postfix"
    assert "main.cf" in finding["found"]
    assert wrong(doctor(host.daemon.path, tmp_path, "--ignore", "postfix")) == []
    finding = only(doctor(host.daemon.path, tmp_path, "--postconf", "/nowhere/postconf"))
    assert finding["check"] == "postfix"


def test_a_restriction_class_that_an_access_table_may_name(host: Host, tmp_path: Path) -> None:
    """Nobody can tell from here whom the table leads to the class: that is no error, and nobody else is hooked."""
    main_cf = f"smtpd_restriction_classes = limited\nlimited = {CHECK}\nsmtpd_recipient_restrictions ="
    table = "check_sender_access hash:/etc/postfix/senders, reject"
    findings = doctor(host.daemon.path, host.configure(tmp_path / "etc", f"{main_cf} {table}\n"))
    assert wrong(findings) == []
    notes = [finding for finding in findings if finding["severity"] == "note"]
    assert {finding["check"] for finding in notes} == {"asked-by-class"}
    assert [finding["found"].split()[0] for finding in notes] == ["smtp/inet", "submission/inet"]
    assert "limited" in notes[0]["found"]
    # No table, so nothing leads there.
    finding = only(doctor(host.daemon.path, host.configure(tmp_path / "etc", f"{main_cf} reject\n")))
    assert finding["check"] == "not-hooked"


def test_tables_alone_are_restrictions_where_postfix_takes_them(host: Host, tmp_path: Path) -> None:
    lists = ("client", "helo", "sender", "recipient", "relay", "etrn")
    main_cf = "".join(f"smtpd_{name}_restrictions = {CHECK}, hash:/etc/postfix/x, reject\n" for name in lists)
    assert wrong(doctor(host.daemon.path, host.configure(tmp_path / "etc", main_cf))) == []


def test_the_restrictions_of_this_postfix_are_known(host: Host, tmp_path: Path) -> None:
    """The names that doctor holds for Postfix's are those of the smtpd that is installed here."""
    postfix = Postfix(None, host.configure(tmp_path / "etc"))
    program = (Path(postfix.value("daemon_directory")) / "smtpd").read_bytes()
    assert [name for name in NAMES if name.encode() + b"\0" not in program] == []
    others = [match.decode() for match in re.findall(rb"\0((?:reject_un|permit_)[a-z_]+)\0", program)]
    names = RestrictionNames(postfix)
    assert len(others) > 10
    assert all(names.knows(name) for name in others if name not in REMOVED)


DEBIAN_SUBMISSION = (
    f"{SUBMISSION}  -o smtpd_recipient_restrictions=\n  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\n"
)


@pytest.mark.parametrize(
    ("master_cf", "changed", "steps"),
    [
        (MASTER_CF, {}, ["not-hooked", "recipient-limit"]),
        (f"{SMTP}{DEBIAN_SUBMISSION}", {}, ["not-hooked", "recipient-limit"]),
        (f"{SMTP}{DEBIAN_SUBMISSION}", {"count_mode": 2}, ["not-hooked"]),
        (f"{SMTP}{DEBIAN_SUBMISSION}", {"count_mode": 1}, ["not-hooked", "recipient-limit"]),
        (f"{SMTP}{DEBIAN_SUBMISSION}", {"count_mode": 0}, ["not-hooked"]),
        (f"{SMTP}  -o smtpd_sasl_auth_enable=no\n{SUBMISSION}", CLIENTS, ["not-hooked", "recipient-limit"]),
    ],
)
def test_following_the_doctor_leads_to_the_end(
    host: Host, tmp_path: Path, master_cf: str, changed: dict[str, Any], steps: list[str]
) -> None:
    """What mends one finding is no other finding, as far as the settings allow it."""
    configuration = settings(host, tmp_path, **changed)
    postfix = host.configure(tmp_path / "etc", "smtpd_recipient_restrictions = reject_unauth_destination\n", master_cf)
    done = []
    while found := wrong(doctor(configuration, postfix)):
        done.append(found[0]["check"])
        assert len(done) <= len(steps) + 1
        mend(found[0], postfix)
    assert done == steps


def test_a_bound_of_recipients_is_not_proposed_for_mail_of_other_servers(host: Host, tmp_path: Path) -> None:
    main_cf = f"smtpd_sasl_auth_enable = yes\nsmtpd_recipient_restrictions =\nsmtpd_data_restrictions = {CHECK}\n"
    finding = only(doctor(host.daemon.path, host.configure(tmp_path / "etc", main_cf, SMTP)))
    assert finding["check"] == "recipient-limit"
    assert finding["mend"] == f"smtpd_recipient_restrictions = {CHECK}"
    # Of two services the one at which users authenticate.
    only_submission = f"smtpd_recipient_restrictions =\nsmtpd_data_restrictions = {CHECK}\n"
    finding = only(doctor(host.daemon.path, host.configure(tmp_path / "etc", only_submission)))
    assert finding["place"] == "master.cf, submission/inet"
    assert finding["mend"] == "  -o { smtpd_recipient_limit = 10 }"


# The database, and who is to write to it


def test_the_database_belongs_to_somebody_else(host: Host, tmp_path: Path) -> None:
    with public_directory() as directory:
        database = directory / "db.sqlite3"
        shutil.copy(host.daemon.directory / "db.sqlite3", database)
        configuration = settings(
            host, tmp_path, user="nobody", group="nogroup", sqlite_config={"database": str(database)}
        )
        postfix = host.configure(tmp_path / "etc")
        found = wrong(doctor(configuration, postfix))
        assert [(finding["check"], finding["place"]) for finding in found] == [
            ("database-rights", str(directory)),
            ("database-rights", str(database)),
        ]
        for finding in found:
            subprocess.run(finding["mend"].split(), check=True)
        assert wrong(doctor(configuration, postfix)) == []
        assert {path.owner() for path in directory.iterdir()} == {"nobody"}


def test_a_damaged_database(host: Host, tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").write_bytes(b"no database" * 1000)
    configuration = settings(host, tmp_path, sqlite_config={"database": str(tmp_path / "db.sqlite3")})
    finding = only(doctor(configuration, host.configure(tmp_path / "etc")))
    assert finding["check"] == "database"
    assert "not a database" in finding["found"]
    assert (tmp_path / "db.sqlite3").read_bytes() == b"no database" * 1000


def test_a_database_that_is_not_there_yet(host: Host, tmp_path: Path) -> None:
    configuration = settings(host, tmp_path, sqlite_config={"database": str(tmp_path / "new" / "db.sqlite3")})
    assert wrong(doctor(configuration, host.configure(tmp_path / "etc"))) == []
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small(host: Host, tmp_path: Path) -> None:
    configuration = settings(host, tmp_path, journal_size=1 << 40)
    assert only(doctor(configuration, host.configure(tmp_path / "etc")))["check"] == "disk-space"


@pytest.mark.parametrize(
    ("query", "works"), [("SELECT '[[1, 60]]' WHERE ? = 'x'", True), ("SELECT x FROM y WHERE id = ?", False)]
)
def test_limits_from_a_query(host: Host, tmp_path: Path, query: str, works: bool) -> None:
    configuration = settings(host, tmp_path, sql_limits_by_id=query)
    found = doctor(configuration, host.configure(tmp_path / "etc"))
    if works:
        assert wrong(found) == []
        assert "sql_limits_by_id can be asked" in {finding["found"] for finding in found}
    else:
        assert only(found)["check"] == "sql-limits"
        assert "no such table: y" in only(found)["found"]


# Who asks


def test_somebody_who_is_not_root(host: Host, tmp_path: Path) -> None:
    with public_directory() as directory:
        postfix = host.configure(directory / "etc")
        configuration = settings(host, directory)
        # The interpreter may be where only root can go, so it is root that starts it and imports.
        script = f"""
import encodings.idna, encodings.utf_8_sig
import policyd_rate_limit.cli.doctor, policyd_rate_limit.config.yaml_file
from policyd_rate_limit.cli import main
from policyd_rate_limit.system.accounts import drop_privileges, resolve
drop_privileges(resolve("nobody", "nogroup"))
main(["-f", {str(configuration)!r}, "doctor", "--postfix-config", {str(postfix)!r}, "--json", "--ignore", "clock"])
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert only(json.loads(done.stdout)["findings"])["check"] == "root"


# For people


def test_for_people(host: Host, tmp_path: Path) -> None:
    postfix = host.configure(tmp_path / "etc", "smtpd_recipient_restrictions = reject_unauth_destination\n")
    options = ("--postfix-config", postfix, "--ignore", "clock")
    done = call(host.daemon.path, "doctor", *options)
    assert done.returncode == 1
    assert "error   not-hooked: main.cf: smtpd_data_restrictions\n" in done.stdout
    assert f"\n          smtpd_data_restrictions = {CHECK}\n" in done.stdout
    assert "\nok      " in done.stdout
    assert done.stdout.endswith("\n1 error, 0 warnings\n")
