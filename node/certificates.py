"""Which TLS certificates the ledger takes from validators.

All validators have to judge a certificate alike for ever, whatever the version of their libraries.
So no X.509 library judges here: one is taken only when its bytes are exactly those that encoding
its few free fields anew gives (serial number, times, name): a plain self-signed Ed25519 certificate
as `net.tls.make_certificate` makes them, and nothing beside (X.690, RFC 5280, RFC 8410).
"""

from __future__ import annotations

from datetime import datetime

from protocol.errors import Code, Rejected
from protocol.genesis import MAX_CERTIFICATE_BYTES
from protocol.keys import verify

MAX_SERIAL_BYTES = 20
MAX_NAME_CHARACTERS = 64

_INTEGER, _BIT_STRING, _UTF8, _PRINTABLE = 0x02, 0x03, 0x0C, 0x13
_UTC_TIME, _LONG_TIME, _SEQUENCE, _SET = 0x17, 0x18, 0x30, 0x31
_VERSION_3 = bytes.fromhex("a003020102")
_ED25519 = bytes.fromhex("300506032b6570")
_COMMON_NAME = bytes.fromhex("0603550403")
_SERIAL_NUMBER = bytes.fromhex("0603550405")
_NO_AUTHORITY = bytes.fromhex("a310300e300c0603551d130101ff04023000")
"""Extensions: basic constraints alone, critical, of no authority."""


def check_certificate(certificate_der: bytes, public_key: bytes) -> None:
    """Raise `Rejected(bad_certificate)` unless this is a certificate of a node with this key.

    Its subject must hold the key as its serial number, since certificates are looked up by subject;
    it is no authority, so that a validator cannot vouch for other keys.
    """
    if len(certificate_der) > MAX_CERTIFICATE_BYTES:
        raise _bad(f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes")
    whole, _ = _take(certificate_der, _SEQUENCE)
    content, _ = _take(whole, _SEQUENCE)
    signed = _encode_again(content, public_key)
    signature = certificate_der[-64:]
    tail = _ED25519 + _put(_BIT_STRING, b"\0" + signature)
    if certificate_der != _put(_SEQUENCE, signed + tail):
        raise _bad("not a plain self-signed Ed25519 certificate over the sender's key")
    if not verify(public_key, signature, signed):
        raise _bad("the certificate is not signed by its own key")


def _encode_again(content: bytes, public_key: bytes) -> bytes:
    """What such a certificate's signature covers, from the free fields that are found in `content`;
    raises `Rejected` for fields that cannot be read or are out of bounds."""
    serial, rest = _take(content[len(_VERSION_3) :], _INTEGER)
    _, rest = _take(rest[len(_ED25519) :], _SEQUENCE)
    validity, rest = _take(rest, _SEQUENCE)
    subject, _ = _take(rest, _SEQUENCE)
    named, _ = _take(subject, _SET)
    named, _ = _take(named, _SEQUENCE)
    name, _ = _take(named[len(_COMMON_NAME) :], _UTF8)
    _check_serial(serial)
    _check_name(name)
    first, until = _take_time(validity)
    last, _ = _take_time(until)
    if first > last:
        raise _bad("the certificate ends before it begins")
    who = _put(
        _SEQUENCE,
        _attribute(_COMMON_NAME, _UTF8, name)
        + _attribute(_SERIAL_NUMBER, _PRINTABLE, public_key.hex().encode()),
    )
    key = _put(_SEQUENCE, _ED25519 + _put(_BIT_STRING, b"\0" + public_key))
    times = _put(_SEQUENCE, validity)
    body = _VERSION_3 + _put(_INTEGER, serial) + _ED25519 + who + times + who + key + _NO_AUTHORITY
    return _put(_SEQUENCE, body)


def _check_serial(serial: bytes) -> None:
    padded = len(serial) > 1 and serial[0] == 0 and serial[1] < 0x80
    if not 1 <= len(serial) <= MAX_SERIAL_BYTES or serial[0] >= 0x80 or padded or not any(serial):
        raise _bad(f"a serial number is above 0 and has at most {MAX_SERIAL_BYTES} bytes")


def _check_name(name: bytes) -> None:
    try:
        length = len(name.decode())
    except UnicodeDecodeError:
        raise _bad("the certificate's name is not UTF-8") from None
    if not 1 <= length <= MAX_NAME_CHARACTERS:
        raise _bad(f"a certificate's name has 1 to {MAX_NAME_CHARACTERS} characters")


def _take_time(raw: bytes) -> tuple[datetime, bytes]:
    """A moment, in the form that its year calls for (RFC 5280, 4.1.2.5), and what follows."""
    tag = raw[0] if raw else 0
    if tag not in (_UTC_TIME, _LONG_TIME):
        raise _bad("the certificate's times cannot be read")
    text, rest = _take(raw, tag)
    digits = text[:-1]
    if text[-1:] != b"Z" or not digits.isdigit() or len(digits) != (12 if tag == _UTC_TIME else 14):
        raise _bad("the certificate's times cannot be read")
    year, below = int(digits[:-10]), digits[-10:]
    if tag == _UTC_TIME:
        year += 1900 if year >= 50 else 2000
    elif year < 2050:
        raise _bad("the certificate's times are not in their canonical form")
    try:
        month, day, hour, minute, second = (int(below[at : at + 2]) for at in range(0, 10, 2))
        return datetime(year, month, day, hour, minute, second), rest
    except ValueError:
        raise _bad("the certificate's times are no times") from None


def _attribute(kind: bytes, tag: int, value: bytes) -> bytes:
    return _put(_SET, _put(_SEQUENCE, kind + _put(tag, value)))


def _put(tag: int, content: bytes) -> bytes:
    """DER: a tag, the length in its shortest form, the content (below 64 KiB)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    head = (tag, 0x81, size) if size < 0x100 else (tag, 0x82, size >> 8, size & 0xFF)
    return bytes(head) + content


def _take(raw: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the value with this tag at the start, and what follows; raises `Rejected`.

    Lengths need not be the shortest: everything is encoded anew and compared.
    """
    if len(raw) < 2 or raw[0] != tag:
        raise _bad("not a certificate of a node")
    size, begin = raw[1], 2
    if size >= 0x80:
        begin += size & 0x7F
        if size not in (0x81, 0x82) or len(raw) < begin:
            raise _bad("not a certificate of a node")
        size = int.from_bytes(raw[2:begin], "big")
    if len(raw) < begin + size:
        raise _bad("the certificate is cut short")
    return raw[begin : begin + size], raw[begin + size :]


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_CERTIFICATE, text)
