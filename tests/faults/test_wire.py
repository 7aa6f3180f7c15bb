"""The policy protocol through the real socket, at its edges."""

from __future__ import annotations

import pathlib
import random
import socket
import time
from collections.abc import Iterator

import pytest

from support.daemon import Client, Daemon, encode, mail, running
from support.load import admit_until_refused, left_for_all

LIMIT = 1000
NAMES = {
    "long": "a" * 10_000,
    "emoji": "📬🚀",
    "equal signs": "a=b==c=",
    "not UTF-8": b"caf\xe9\xff".decode("utf-8", "surrogateescape"),
    "spaces": "John Doe",
    "quotes": "Robert'); DROP TABLE mail_count;--\"",
    "NUL and other controls": "a\0b\x1b[31m\x7f",
    "percent": "%s%d{0}{user}",
    "address of a client": "192.0.2.1",
    "the word for nothing": "None",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests here; each uses users of its own."""
    by_id = {"two": [[2, 3600]]}
    with running(tmp_path_factory.mktemp("wire"), limits=[[LIMIT, 3600]], limits_by_id=by_id) as daemon:
        yield daemon


def nodelay(client: Client) -> Client:
    """The client, sending each piece as a packet of its own."""
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def test_a_request_may_be_split_at_every_byte(daemon: Daemon) -> None:
    """Two requests in two pieces, cut at each of their bytes in turn: two answers, each mail counted once."""
    users = [f"split{number}" for number in range(10)]
    with nodelay(Client(daemon.address)) as client:
        cut = 1
        while cut < len(data := encode(**mail(users[cut % 10])) + encode(**mail(users[cut % 10]))):
            client.socket.sendall(data[:cut])
            time.sleep(0.0005)  # lets the daemon read the first piece alone
            client.socket.sendall(data[cut:])
            assert (client.answer(), client.answer()) == ("dunno", "dunno")
            cut += 1
    assert sum(left_for_all(daemon.address, users, LIMIT).values()) == 10 * LIMIT - 2 * (cut - 1)


def test_one_byte_per_packet(daemon: Daemon) -> None:
    """A request that comes byte by byte is a request."""
    with nodelay(Client(daemon.address)) as client:
        for byte in encode(**mail("bytewise")):
            client.socket.sendall(bytes([byte]))
        assert client.answer() == "dunno"


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    """500 requests in one go, of two users, one with a limit of 2: each answer belongs to its request."""
    users = [random.choice(["pipeline", "TWO"]) for _ in range(500)]
    with Client(daemon.address) as client:
        client.socket.sendall(b"".join(encode(**mail(user)) for user in users))
        answers = [client.answer() for _ in users]
    places = [place for place, user in enumerate(users) if user == "TWO"]
    refused = {place for place, answer in enumerate(answers) if answer != "dunno"}
    assert refused == set(places[2:])


def test_attributes_in_any_order_and_unknown_ones(daemon: Daemon) -> None:
    """The order of attributes does not matter, and those of a later Postfix are ignored."""
    chance = random.Random(2)
    with Client(daemon.address) as client:
        for _ in range(50):
            attributes = list(mail("order").items())
            attributes += [
                ("request", "smtpd_access_policy"),
                ("compatibility_level", "3.9"),
                ("x-unknown", "="),
            ]
            chance.shuffle(attributes)
            lines = "".join(f"{name}={value}\n" for name, value in attributes)
            client.socket.sendall(lines.encode() + b"\n")
            assert client.answer() == "dunno"
    assert admit_until_refused(daemon.address, "order", LIMIT) == LIMIT - 50


def test_any_text_is_an_id_of_its_own(tmp_path: pathlib.Path) -> None:
    """Counted exactly, apart from ids that begin or end like it, across a restart."""
    daemon = Daemon(tmp_path, limits=[[3, 3600]])
    with daemon, Client(daemon.address) as client:
        for kind, name in NAMES.items():
            assert [client.ask(**mail(name, sender="")) for _ in range(2)] == ["dunno"] * 2, kind
            for other in (name[:-1], name + "x", "x" + name):
                assert client.ask(**mail(other, sender="")) == "dunno", kind
    with daemon, Client(daemon.address) as client:
        for kind, name in NAMES.items():
            answers = [client.ask(**mail(name, sender="")) for _ in range(3)]
            assert [answer == "dunno" for answer in answers] == [True, False, False], kind
            assert client.ask(**mail(name + "x", sender="")) == "dunno", kind


def test_ids_that_differ_after_ten_thousand_characters_are_two(daemon: Daemon) -> None:
    """No id is cut short."""
    long = "b" * 10_000
    assert admit_until_refused(daemon.address, long + "1", LIMIT) == LIMIT
    with Client(daemon.address) as client:
        assert client.ask(**mail(long + "2")) == "dunno"
        assert client.ask(**mail(long + "1")) != "dunno"


def test_case_buys_no_second_quota(tmp_path: pathlib.Path) -> None:
    """SASL users compare without regard to case, beyond ASCII, too."""
    with running(tmp_path, limits=[[4, 3600]]) as daemon, Client(daemon.address) as client:
        answers = [client.ask(**mail(user)) for user in ("Jürgen", "jürgen", "JÜRGEN", "jÜrgeN", "jürgen")]
        assert [answer == "dunno" for answer in answers] == [True] * 4 + [False]


def test_a_recipient_counts_once_whichever_stages_ask(daemon: Daemon) -> None:
    """Without ``count_mode``: RCPT twice, DATA and END-OF-MESSAGE of one mail to two recipients cost two."""
    with Client(daemon.address) as client:
        one = mail("stages")
        two = {**one, "recipient": "other@example.net"}
        whole = {**one, "recipient": "", "recipient_count": 2}
        for request in (one, two, one, {**whole, "protocol_state": "DATA"}):
            assert client.ask(**request) == "dunno"
        assert client.ask(**{**whole, "protocol_state": "END-OF-MESSAGE", "queue_id": "4ABC"}) == "dunno"
    assert admit_until_refused(daemon.address, "stages", LIMIT) == LIMIT - 2


def test_the_unix_socket_speaks_the_same(tmp_path: pathlib.Path) -> None:
    """Through a UNIX socket, with its permissions, and gone after the end."""
    path = tmp_path / "run" / "policy"
    with running(tmp_path, limits=[[2, 3600]], SOCKET=str(path), socket_permission=0o600) as daemon:
        assert path.stat().st_mode & 0o777 == 0o600
        assert admit_until_refused(daemon.address, "alice", 2) == 2
    assert not path.exists()
