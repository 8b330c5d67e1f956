"""TLS 1.3 between nodes, where an Ed25519 key is the identity.

Each node has a self-signed certificate; both sides trust exactly the given certificates, no other
authority and no host name counts. The owner maps the peer's key to a member.
"""

from __future__ import annotations

import datetime
import os
import ssl
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from protocol.errors import Code, ConfigError, Rejected
from protocol.keys import Key

PEER_VERSION = 1
"""Version of what members of a chain say to each other; both sides of a connection offer theirs in
the TLS handshake (ALPN, RFC 7301), so a change of these messages needs a new number."""

_PEER_PROTOCOL = f"trilemma-peer/{PEER_VERSION}"
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)

_UNREADABLE = (ValueError, x509.InvalidVersion, UnsupportedAlgorithm)
"""What the library raises for certificates that it cannot read."""


def make_certificate(key: Key, name: str) -> bytes:
    """A self-signed Ed25519 certificate (DER); the same key and name give the same bytes.

    It is no authority, so a member cannot vouch for another key. Its subject holds the key, since
    OpenSSL looks trusted certificates up by subject and two nodes may share a name.
    """
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name[:64]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, key.public.hex()),
        ]
    )
    serial = int.from_bytes(sha256(key.public + name.encode()).digest()[:8], "big") >> 1 | 1
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.private.public_key())
        .serial_number(serial)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key.private, None)
    )
    return certificate.public_bytes(Encoding.DER)


def server_context(key: Key, certificate_der: bytes, peers: Iterable[bytes]) -> ssl.SSLContext:
    """Context of the accepting side; `peers` are the certificates (DER) that may connect.

    Raises `ConfigError` when a certificate is malformed or does not belong to `key`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would skip the check against a newer epoch's certificates.
    context.num_tickets = 0
    return _finish(context, key, certificate_der, peers)


def client_context(key: Key, certificate_der: bytes, peers: Iterable[bytes]) -> ssl.SSLContext:
    """Context of the dialling side; `peers` are the certificates (DER) that may answer.

    Raises `ConfigError` when a certificate is malformed or does not belong to `key`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _finish(context, key, certificate_der, peers)


def let_follow(context: ssl.SSLContext, current: Callable[[], ssl.SSLContext]) -> None:
    """Have every handshake that a server begins under `context` use `current()` instead.

    A listening socket keeps the context that it was opened with, and trust cannot be taken out of
    a context, only the whole exchanged.
    """

    def switch(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = current()

    context.sni_callback = switch


@lru_cache(maxsize=4096)
def is_usable(certificate_der: bytes, public_key: bytes) -> bool:
    """Whether a certificate of unknown origin may be trusted to stand for this key.

    It has to be over the key, self-signed, and to name the key as its subject's only serial number,
    as `make_certificate` does: OpenSSL looks trusted certificates up by subject, so one with the
    subject of another node would hide that node's.
    """
    try:
        if certificate_public_key(certificate_der) != public_key:
            return False
        certificate = x509.load_der_x509_certificate(certificate_der)
        named = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
        if [one.value for one in named] != [public_key.hex()]:
            return False
        certificate.verify_directly_issued_by(certificate)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate_der)
    except (*_UNREADABLE, TypeError, InvalidSignature, Rejected, ssl.SSLError):
        return False
    return True


def certificate_public_key(certificate_der: bytes) -> bytes:
    """The raw Ed25519 key (32 bytes) of a certificate; raises `Rejected` (bad_certificate)."""
    try:
        public = x509.load_der_x509_certificate(certificate_der).public_key()
    except _UNREADABLE as error:
        raise Rejected(Code.BAD_CERTIFICATE, f"not an X.509 certificate: {error}") from None
    if not isinstance(public, Ed25519PublicKey):
        raise Rejected(Code.BAD_CERTIFICATE, "the certificate's key is not Ed25519")
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def certificate_end_s(certificate_der: bytes) -> int:
    """When a certificate expires, in seconds since 1970; after that no handshake with it succeeds.
    Raises `Rejected` (bad_certificate)."""
    try:
        end = x509.load_der_x509_certificate(certificate_der).not_valid_after_utc
    except (ValueError, x509.InvalidVersion) as error:
        raise Rejected(Code.BAD_CERTIFICATE, f"not an X.509 certificate: {error}") from None
    return int(end.timestamp())


def peer_public_key(transport: Any) -> bytes:
    """The raw Ed25519 key (32 bytes) that the peer proved; raises `Rejected` without one."""
    tls = transport.get_extra_info("ssl_object")
    certificate_der = None if tls is None else tls.getpeercert(True)
    if certificate_der is None:
        raise Rejected(Code.BAD_CERTIFICATE, "the peer has proved no certificate")
    return certificate_public_key(certificate_der)


def require_peer_version(transport: Any) -> None:
    """Raise `Rejected` (wrong_version) unless the other side speaks our version to members."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None or tls.selected_alpn_protocol() != _PEER_PROTOCOL:
        raise Rejected(
            Code.WRONG_VERSION,
            f"the peer does not speak version {PEER_VERSION} of the peer protocol; "
            "run the same release on both sides",
        )


def _finish(
    context: ssl.SSLContext, key: Key, certificate_der: bytes, peers: Iterable[bytes]
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([_PEER_PROTOCOL])
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        _load_identity(context, key, certificate.public_bytes(Encoding.PEM))
        trusted = b"".join(dict.fromkeys(peers))
        if trusted:
            context.load_verify_locations(cadata=trusted)
    except (*_UNREADABLE, ssl.SSLError) as error:
        raise ConfigError(f"a node certificate cannot be used: {error}") from None
    return context


def _load_identity(context: ssl.SSLContext, key: Key, certificate_pem: bytes) -> None:
    """Give the context its key; `ssl` reads files only, so the key passes through memory files."""
    key_pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate_pem + key_pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "identity.pem"
        path.touch(mode=0o600)
        path.write_bytes(certificate_pem + key_pem)
        context.load_cert_chain(path)
