"""The protocol: streams of requests, split anywhere, in any order, at and beyond each bound, and garbage."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.protocol.attributes import (
    MAX_ATTRIBUTES,
    MAX_IN_ORDER,
    MAX_LINE,
    MAX_RECIPIENT_COUNT,
    MAX_REQUEST,
    SHOWN,
    Reader,
    decode,
)
from policyd_rate_limit.protocol.codec import Decoder, encode

KIND = b"request=smtpd_access_policy\n"
NOTHING = Request("", "", "", "", "", "", "", 0)
NAMES = [field.name for field in fields(Request) if field.name != "facts"]
# What Postfix sends besides, and names that begin or end as those that matter.
UNKNOWN = ("protocol_name", "helo_name", "size", "sasl_method", "ccert_subject", "xsender", "sender_", "recipients", "")

# Postfix 3.7, at DATA.
POSTFIX = b"""\
request=smtpd_access_policy
protocol_state=DATA
protocol_name=ESMTP
client_address=2001:db8::1
client_name=client.example.org
client_port=40022
reverse_client_name=client.example.org
server_address=2001:db8::25
server_port=587
helo_name=[192.0.2.7]
sender=alice+tag=x@example.org
recipient=
recipient_count=12
queue_id=4XyZ9q0hCkz1Q
instance=1f3a.650000aa.b3c1d.0
size=1000
etrn_domain=
stress=
sasl_method=PLAIN
sasl_username=alice@example.org
sasl_sender=
ccert_subject=CN=alice,O=Example
ccert_issuer=
ccert_fingerprint=
ccert_pubkey_fingerprint=
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
policy_context=

"""
FROM_POSTFIX = Request(
    "DATA", "1f3a.650000aa.b3c1d.0", "4XyZ9q0hCkz1Q", "alice@example.org", "alice+tag=x@example.org", "",
    "2001:db8::1", 12,
)  # fmt: skip


def lines(*attributes: tuple[str, bytes]) -> bytes:
    return b"".join(name.encode() + b"=" + value + b"\n" for name, value in attributes)


def feed_each(chunks: list[bytes]) -> list[Request]:
    decoder = Decoder()
    return [request for chunk in chunks for request in decoder.feed(chunk)]


def parts(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data``, cut at ``cuts``, some of the parts empty."""
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


values = st.binary(max_size=40).map(lambda value: value.replace(b"\n", b""))
counts = st.one_of(st.just(b""), st.integers(0, MAX_RECIPIENT_COUNT).map(lambda count: str(count).encode()))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Request]:
    """The bytes of a request, and what is in it."""
    present = draw(st.sets(st.sampled_from(NAMES)))
    known = {name: draw(counts if name == "recipient_count" else values) for name in present}
    attributes = [
        ("request", b"smtpd_access_policy"),
        *known.items(),
        *draw(st.lists(st.tuples(st.sampled_from(UNKNOWN), values), max_size=4)),
    ]
    data = lines(*draw(st.permutations(attributes)))
    found: dict[str, Any] = {name: value.decode("utf-8", "surrogateescape") for name, value in known.items()}
    count = int(found.pop("recipient_count", "") or 0)
    return data + b"\n", replace(NOTHING, **found, recipient_count=count)


@given(st.lists(requests(), max_size=4), st.lists(st.integers(0, 1500), max_size=8))
def test_any_split_of_any_stream(stream: list[tuple[bytes, Request]], cuts: list[int]) -> None:
    data = b"".join(sent for sent, _ in stream)
    expected = [request for _, request in stream]
    assert feed_each([data]) == expected
    assert feed_each(parts(data, cuts)) == expected


def test_every_split_of_what_postfix_sends() -> None:
    data = 2 * POSTFIX
    for cut in range(len(data) + 1):
        assert feed_each([data[:cut], data[cut:]]) == 2 * [FROM_POSTFIX]
    assert feed_each([data[at : at + 1] for at in range(len(data))]) == 2 * [FROM_POSTFIX]


def test_a_request_is_there_with_its_last_byte_and_not_before() -> None:
    decoder = Decoder()
    assert not decoder.partial
    for at in range(len(POSTFIX) - 1):
        assert decoder.feed(POSTFIX[at : at + 1]) == []
        assert decoder.partial
    assert decoder.feed(POSTFIX[-1:]) == [FROM_POSTFIX]
    assert not decoder.partial


def test_a_request_and_the_beginning_of_the_next() -> None:
    decoder = Decoder()
    assert decoder.feed(POSTFIX + b"req") == [FROM_POSTFIX]
    assert decoder.partial
    assert decoder.feed(POSTFIX[3:] + POSTFIX + POSTFIX) == 3 * [FROM_POSTFIX]
    assert not decoder.partial


def like_postfix(known: dict[str, bytes], others: bytes, behind: bytes) -> bytes:
    """A request as Postfix has it, with its empty line; ``others``: the values of what matters to nobody."""
    request = b""
    for line in POSTFIX.splitlines():
        name = line.partition(b"=")[0].decode()
        value = b"smtpd_access_policy" if name == "request" else known.get(name, others)
        request += name.encode() + b"=" + value + b"\n" if name else behind + b"\n"
    return request


@given(st.fixed_dictionaries({name: counts if name == "recipient_count" else values for name in NAMES}), values, values)
def test_in_order_the_same_is_found_as_in_any(known: dict[str, bytes], others: bytes, behind: bytes) -> None:
    reader = Reader()
    for last in (b"", b"new=" + behind + b"\n", b""):
        request = like_postfix(known, others, last)
        assert reader.read(request) == reader.read(request) == decode(request[:-1])


@given(st.integers(0, len(POSTFIX) - 1), st.sampled_from([b"", b"\n", b"x", b"\n\n", b"=", b"a=b\n", POSTFIX]))
@example(len(POSTFIX) - 1, b"\n")
@example(len(POSTFIX) - 1, POSTFIX)
@example(POSTFIX.index(b"sender="), b"\n")
@example(POSTFIX.index(b"sasl_sender="), b"\n")
@example(POSTFIX.index(b"recipient_count=") + len(b"recipient_count="), b"x")
def test_the_reader_is_sure_or_says_nothing(at: int, change: bytes) -> None:
    for before in ([], [POSTFIX]):
        reader = Reader()
        for request in before:
            assert reader.read(request) == FROM_POSTFIX
        for changed in (POSTFIX[:at] + change + POSTFIX[at + 1 :], POSTFIX[:at] + change + POSTFIX[at:]):
            try:
                found = reader.read(changed)
            except ProtocolError:
                with pytest.raises(ProtocolError):
                    decode(changed[:-1])
                continue
            assert found is None or (changed.find(b"\n\n") == len(changed) - 2 and found == decode(changed[:-1]))


def test_what_is_not_laid_out_as_postfix_does_is_not_read_in_order() -> None:
    reordered = b"".join(sorted(POSTFIX[:-1].splitlines(keepends=True))) + b"\n"
    incomplete = POSTFIX.replace(b"sender=", b"x=")
    for request in (KIND + b"\n", reordered, incomplete, POSTFIX[:-1] + b"x" * MAX_IN_ORDER + b"=\n\n"):
        assert Reader().read(request) is None


def test_no_attribute_but_the_kind() -> None:
    assert decode(KIND) == NOTHING


def test_of_an_attribute_that_comes_twice_the_first_counts() -> None:
    assert decode(KIND + b"sender=a\nsender=b\n").sender == "a"


@given(st.binary(max_size=60).map(lambda value: value.replace(b"\n", b"")))
@example(b"\xff\xfe\x80")
@example(b"=a=b=")
@example(b"\x00\r\x1b[31m\xe2\x80\xae")
def test_values_survive_as_they_are(value: bytes) -> None:
    sender = decode(KIND + b"sender=" + value + b"\n").sender
    assert sender.encode("utf-8", "surrogateescape") == value
    assert encode(sender) == b"action=" + value + b"\n\n"


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (b"", 0), (b"0", 0), (b"007", 7), (b"1000", 1000),
        (b"1000000000", MAX_RECIPIENT_COUNT), (b"1000000001", MAX_RECIPIENT_COUNT),
        (b"9999999999", MAX_RECIPIENT_COUNT),
    ],
)  # fmt: skip
def test_recipient_counts(value: bytes, count: int) -> None:
    assert decode(KIND + b"recipient_count=" + value + b"\n").recipient_count == count


@pytest.mark.parametrize(
    "value",
    [
        b"-1", b"+1", b"1.5", b" 1", b"1 ", b"1_0", b"0x10", b"NaN", b"one", b"\xd9\xa1", b"\xc2\xb2", b"\xff", b"1\r",
        b"99999999999", b"9" * 5_000,
    ],
)  # fmt: skip
def test_what_is_no_recipient_count(value: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^expected a number as recipient_count, found ") as error:
        decode(KIND + b"recipient_count=" + value + b"\n")
    assert len(str(error.value)) < 6 * SHOWN


@pytest.mark.parametrize(
    "data",
    [
        b"request=junk\n\n",
        b"request=\n\n",
        b"request=smtpd_access_polixy\n\n",
        b"request=smpd_access_polcy\n\n",
        b"request=msmtpd_access_policy\n\n",
        b"sender=a\n\n",
        b"request=smtpd_access_policy \n\n",
        b"Request=smtpd_access_policy\n\n",
        b"xrequest=smtpd_access_policy\n\n",
        b"request=" + b"x" * 5_000 + b"\n\n",
    ],
)
def test_another_kind_of_request(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^expected request=smtpd_access_policy, found '") as error:
        Decoder().feed(data)
    assert len(str(error.value)) < 3 * SHOWN


@pytest.mark.parametrize("lost", range(len("smtpd_access_policy")))
def test_a_kind_that_lacks_a_character_is_answered(lost: int) -> None:
    """The tests of version 1.2.0 lose one."""
    kind = bytearray(b"smtpd_access_policy")
    del kind[lost]
    [request] = Decoder().feed(b"request=" + kind + b"\nprotocol_state=RCPT\nsasl_username=a\n\n")
    assert (request.protocol_state, request.sasl_username) == ("RCPT", "a")


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\n\n",
        KIND + b"\n\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"EHLO client\r\n",
        KIND + b"what is this\n\n",
        KIND.replace(b"\n", b"\r\n") + b"\r\n",
    ],
)
def test_a_line_without_a_value_as_soon_as_it_has_come(data: bytes) -> None:
    for chunks in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(ProtocolError, match=r"^expected name=value, found '"):
            feed_each(chunks)


def outcome(chunks: list[bytes]) -> tuple[list[Request], str]:
    """The requests in a stream, and what ends it."""
    decoder = Decoder()
    found = []
    try:
        for chunk in chunks:
            decoder.push(chunk)
            while (request := decoder.next_request()) is not None:
                found.append(request)
    except ProtocolError as error:
        return found, str(error).partition(", found")[0]
    return found, "partial" if decoder.partial else ""


def without_a_value() -> list[bytes]:
    """What Postfix sends, with one line that has no ``=``, in its place or behind a line that has two."""
    request = POSTFIX.splitlines(keepends=True)
    return [
        b"".join([*request[:at], *before, b"nothing\n", *request[at:]])
        for at in range(1, len(request))
        for before in ((), (b"two==\n",))
    ]


@pytest.mark.parametrize(
    "request_",
    [
        *without_a_value(),
        KIND + b"a=b=c\nnothing\n\n",
        KIND + b"nothing\na=b=c\n\n",
        POSTFIX[:-1] + b"a=\n" * MAX_ATTRIBUTES + b"\n",
        KIND + b"a=\n" * MAX_ATTRIBUTES + b"\n",
        POSTFIX[:-1] + b"a=\n" * (MAX_ATTRIBUTES - POSTFIX.count(b"=\n")) + b"\n",
        POSTFIX.replace(b"recipient_count=12", b"recipient_count=x"),
    ],
)
def test_one_answer_wherever_the_bytes_are_split(request_: bytes) -> None:
    for data in (request_, POSTFIX + request_, request_ + POSTFIX):
        expected = outcome([data])
        for cut in range(1, len(data)):
            assert outcome([data[:cut], data[cut:]]) == expected
        assert outcome([data[at : at + 1] for at in range(len(data))]) == expected


@pytest.mark.parametrize("request_", without_a_value())
def test_a_line_without_a_value_is_refused_among_whatever_others(request_: bytes) -> None:
    assert outcome([request_]) == ([], "expected name=value")


@given(
    st.lists(st.sampled_from([*POSTFIX.splitlines(keepends=True), b"a=b=c\n", b"nothing\n", b"\n"]), max_size=40),
    st.lists(st.integers(0, 1500), max_size=8),
)
def test_one_answer_for_any_lines_in_any_order(lines: list[bytes], cuts: list[int]) -> None:
    data = KIND + b"".join(lines)
    assert outcome(parts(data, cuts)) == outcome([data])


def test_crlf_between_attributes_belongs_to_their_values() -> None:
    """Postfix ends its lines with a newline alone; such a client asks for something else, and is told so."""
    with pytest.raises(ProtocolError, match=r"found 'smtpd_access_policy\\r'"):
        Decoder().feed(b"request=smtpd_access_policy\r\nsender=a\r\n\n")


def of_size(size: int) -> bytes:
    """A request of ``size`` bytes, the empty line not counted, in lines of no more than 1000 bytes."""
    data = KIND
    while len(data) < size:
        length = min(1000, size - len(data))
        if 0 < size - len(data) - length < 3:
            length -= 3
        data += b"a=" + b"v" * (length - 3) + b"\n"
    assert len(data) == size
    return data


def of_line(length: int) -> bytes:
    """A request with a line of ``length`` bytes, its newline among them."""
    return KIND + b"sender=" + b"s" * (length - len(b"sender=\n")) + b"\n"


def of_attributes(count: int) -> bytes:
    return KIND + b"a=\n" * (count - 1)


BOUNDS = [
    pytest.param(of_size, MAX_REQUEST, f"at most {MAX_REQUEST} bytes", id="request"),
    pytest.param(of_line, MAX_LINE, f"a line of at most {MAX_LINE} bytes", id="line"),
    pytest.param(of_attributes, MAX_ATTRIBUTES, f"at most {MAX_ATTRIBUTES} attributes", id="attributes"),
]
CHUNKS = [10**9, 4096, 1000, 7]


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize(("make", "bound", "message"), BOUNDS)
def test_at_each_bound_and_one_beyond(make: object, bound: int, message: str, size: int) -> None:
    assert callable(make)
    whole = make(bound) + b"\n"
    assert len(feed_each([whole[at : at + size] for at in range(0, len(whole), size)])) == 1
    beyond = make(bound + 1) + b"\n"
    with pytest.raises(ProtocolError, match=message):
        feed_each([beyond[at : at + size] for at in range(0, len(beyond), size)])


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize(("make", "bound", "message"), BOUNDS)
def test_beyond_a_bound_the_end_is_not_waited_for(make: object, bound: int, message: str, size: int) -> None:
    assert callable(make)
    # Bytes that the bound allows, and bytes that are more, without the end of the line or of the request.
    within, beyond = make(bound), make(bound + 1)
    if make is of_line:
        within, beyond = within[:-1], beyond[:-1]
    decoder = Decoder()
    for at in range(0, len(within), size):
        assert decoder.feed(within[at : at + size]) == []
    with pytest.raises(ProtocolError, match=message):
        feed_each([beyond[at : at + size] for at in range(0, len(beyond), size)])


def test_a_bound_is_for_one_request_not_for_the_stream() -> None:
    request = of_size(MAX_REQUEST - 1) + b"\n"
    assert len(feed_each([5 * request + request[:-1], b"\n"])) == 6


fragments = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"\n", b"\n\n", b"=", b"\r\n", KIND, KIND + b"\n", POSTFIX, b"recipient_count=", b"sender=", b"7"]
    ),
)


@given(st.lists(fragments, max_size=12).map(b"".join), st.lists(st.integers(0, 900), max_size=6))
def test_garbage_is_requests_or_a_protocol_error(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder()
    chunks = parts(data, cuts)
    complaint = ""
    for seen, chunk in zip(accumulate(map(len, chunks)), chunks, strict=True):
        try:
            found = decoder.feed(chunk)
        except ProtocolError as error:
            complaint = str(error)
            break
        assert all(type(request) is Request for request in found)
        assert len(decoder._data) <= min(seen, MAX_REQUEST)
    assert complaint.isprintable()


@pytest.mark.parametrize("unit", [b"a", b"a=", b"=", b"a=b\n", b"\xff\x00"])
@pytest.mark.parametrize("size", [1, 1000, 262_144])
def test_an_endless_stream_is_cut_and_never_kept(unit: bytes, size: int) -> None:
    chunk = (unit * (size // len(unit) + 1))[:size]
    decoder = Decoder()
    with pytest.raises(ProtocolError) as error:  # noqa: PT012 - fed until it raises
        for _ in range(MAX_REQUEST // size + 2):
            decoder.feed(chunk)
            assert len(decoder._data) <= MAX_REQUEST
    assert len(str(error.value)) < 8 * SHOWN


def test_one_byte_at_a_time_costs_little() -> None:
    """The worst that a client can do with a request of the largest size takes well under a second of the daemon."""
    data = of_size(MAX_REQUEST)
    decoder = Decoder()
    start = time.process_time()
    for at in range(len(data)):
        decoder.feed(data[at : at + 1])
    assert time.process_time() - start < 5


def test_an_action_is_one_line() -> None:
    assert encode("dunno") == b"action=dunno\n\n"
    assert encode("451 4.7.1 später") == "action=451 4.7.1 später\n\n".encode()
