"""What a policy client sends: the same requests and the same end, however it is split; or a short complaint."""

from __future__ import annotations

from dataclasses import fields

from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.errors import ProtocolError
from policyd_rate_limit.protocol.attributes import MAX_RECIPIENT_COUNT, MAX_REQUEST, SHOWN
from policyd_rate_limit.protocol.codec import Decoder

_REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.1\n"
    b"client_name=x\nhelo_name=x\nsender=a@example.org\nrecipient=b@example.net\nrecipient_count=0\nqueue_id=\n"
    b"instance=1f3a.65.0\nsize=0\nstress=\nsasl_method=PLAIN\nsasl_username=alice\nsasl_sender=\nccert_subject=\n\n"
)
# The first byte says where the rest is cut.
SEEDS = (
    b"\x00" + 2 * _REQUEST,
    b"\x07" + _REQUEST + b"request=smtpd_access_policy\nrecipient_count=7\nsender==\n\n",
    b"\x01" + _REQUEST.replace(b"stress=", b"nothing"),
    b"\x40request=smtpd_access_policy\nsender=a=b\nnothing\n\n" + _REQUEST,
    b"\x03" + _REQUEST.replace(b"recipient_count=0", b"recipient_count=1x"),
    b"\x20" + _REQUEST[:-1] + 250 * b"a=\n" + b"\n",
    b"\xffGET / HTTP/1.1\r\nHost: x\r\n\r\n",
)


def one_input(data: bytes) -> None:
    """Read ``data`` as the server does: whole, in equal pieces, and cut once."""
    if not data:
        return
    cut, stream = data[0], data[1:]
    size = 1 + cut % 61
    whole = _outcome([stream])
    assert _outcome([stream[at : at + size] for at in range(0, len(stream), size)]) == whole
    at = len(stream) * cut // 255
    assert _outcome([stream[:at], stream[at:]]) == whole


def _outcome(chunks: list[bytes]) -> tuple[list[Request], bool, bool]:
    """The requests; whether something is left; whether the client is refused."""
    decoder = Decoder()
    found: list[Request] = []
    try:
        for chunk in chunks:
            decoder.push(chunk)
            while (request := decoder.next_request()) is not None:
                _check(request)
                found.append(request)
            assert decoder.held <= MAX_REQUEST
    except ProtocolError as error:
        complaint = str(error)
    else:
        return found, decoder.partial, False
    assert complaint.isprintable()
    assert len(complaint) < 10 * SHOWN
    return found, False, True


def _check(request: Request) -> None:
    for field in fields(request):
        if field.name == "facts":
            continue
        value = getattr(request, field.name)
        if field.name == "text":  # all of its lines
            assert f"\nsender={request.sender}\n" in value or not request.sender
        elif isinstance(value, str):
            assert "\n" not in value
        elif field.name != "facts":
            assert 0 <= value <= MAX_RECIPIENT_COUNT
