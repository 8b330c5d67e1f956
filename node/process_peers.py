"""Links of a validator: a mesh that follows the ledger, and the messages that wait for a round."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from net.link import QueueLimits
from net.mesh import Peer, PeerMesh
from net.tls import client_context, is_usable, server_context
from node.ledger import Ledger
from node.neighbours import Neighbour, neighbours
from node.peer import TransactionGossip, decode_peer_message
from node.rounds import FromPeer, Outgoing
from protocol.codec import encode
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import ProcessConfig, parse_address

MAX_EVENTS = 1024
"""Messages that may wait for the next round; beyond them the links are not read."""

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Bytes of messages that may wait for the next round."""

QUEUE = QueueLimits(max_frames=1024, max_bytes=16 * 1024 * 1024)
"""What may wait for one peer: its oldest messages are worth least."""

_log = structlog.get_logger()


def ledger_neighbours(ledger: Ledger) -> list[Neighbour]:
    """Neighbours as the ledger knows them."""
    following = ledger.next_epoch()
    return neighbours(
        ledger.current_members(),
        () if following is None else following.members,
        ledger.validators(),
    )


class PeerLinks:
    """The mesh of one validator.

    `on_gossip` takes transactions as they come and may raise `Rejected`; everything else waits
    for `take`, and `wake` is called. `follow` must be called before `start`, and again whenever
    the ledger's validators may have changed.
    """

    def __init__(
        self,
        config: ProcessConfig,
        chain: Chain,
        key: Key,
        on_gossip: Callable[[TransactionGossip], None],
        wake: Callable[[], None],
    ) -> None:
        identities = chain.genesis.validators
        self._key = key
        self._on_gossip = on_gossip
        self._wake = wake
        self._addresses = {
            bytes.fromhex(identity.public_key): peer.address
            for peer, identity in zip(config.peers, identities, strict=True)
        }
        self._configured = (
            bytes.fromhex(identities[config.index].certificate)
            if config.certificate is None
            else read_certificate(config.certificate, key)
        )
        self._events: deque[FromPeer] = deque()
        self._event_bytes = 0
        self._room = asyncio.Event()
        self._stopping = False
        self._known: tuple[bytes, list[Peer], list[bytes]] | None = None
        host, port = parse_address(config.peer_listen)
        self.mesh = PeerMesh(
            key.public,
            *self._contexts(self._configured, []),
            self._on_message,
            listen_host=host,
            listen_port=port,
            queue=QUEUE,
        )

    async def start(self) -> None:
        """Listen and dial; raises `ConfigError` when the port cannot be had."""
        await self.mesh.start()

    async def close(self) -> None:
        """Close every connection."""
        await self.mesh.close()

    def stop_waiting(self) -> None:
        """No further round will come: whoever waits for room goes on."""
        self._stopping = True
        self._room.set()

    # --- whom to talk with

    def follow(self, found: Sequence[Neighbour]) -> None:
        """Exchange peers and trusted certificates where they changed."""
        own, peers, trusted = self._configured, [], []
        for one in found:
            usable = [each for each in one.certificates if is_usable(each, one.public_key)]
            if not usable:
                _log.warning("a validator has no usable certificate", key=one.public_key.hex())
            elif one.public_key == self._key.public:
                own = usable[-1]
            else:
                trusted += usable
                peer = self._peer(one)
                if peer is not None:
                    peers.append(peer)
        wanted = own, peers, trusted
        if wanted == self._known:
            return
        if self._known is not None:
            _log.info("links follow the validators", peers=len(peers))
        self._known = wanted
        self.mesh.set_peers(peers, *self._contexts(own, trusted))

    def _peer(self, one: Neighbour) -> Peer | None:
        try:
            host, port = parse_address(one.address or self._addresses.get(one.public_key, ""))
        except ConfigError as error:
            _log.warning("a validator cannot be dialled", key=one.public_key.hex(), why=str(error))
            return None
        return Peer(one.public_key, host, port)

    def _contexts(
        self, own: bytes, trusted: Sequence[bytes]
    ) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return (
            server_context(self._key, own, trusted),
            client_context(self._key, own, trusted),
        )

    # --- messages

    def send(self, messages: Iterable[Outgoing]) -> None:
        """Queue messages on the links; one for a peer that has left is dropped."""
        for outgoing in messages:
            frame = encode(outgoing.message)
            if outgoing.to is None:
                self.mesh.broadcast(frame)
            else:
                with suppress(KeyError):
                    self.mesh.send(outgoing.to, frame)

    @property
    def waiting(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._events)

    def take(self) -> list[FromPeer]:
        """Everything that waits; makes room for more."""
        events = list(self._events)
        self._events.clear()
        self._event_bytes = 0
        self._room.set()
        return events

    async def _on_message(self, sender: bytes, frame: bytes) -> None:
        message = decode_peer_message(frame)
        while self._crowded and not self._stopping:
            self._room.clear()
            await self._room.wait()
        if isinstance(message, TransactionGossip):
            self._on_gossip(message)
            return
        self._event_bytes += len(frame)
        self._events.append(FromPeer(sender, message))
        self._wake()

    @property
    def _crowded(self) -> bool:
        return len(self._events) >= MAX_EVENTS or self._event_bytes >= MAX_EVENT_BYTES


def read_certificate(path: Path, key: Key) -> bytes:
    """The certificate (DER) in a PEM file; raises `ConfigError` unless it fits the key."""
    try:
        certificate = ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {path}: {error.strerror}") from None
    except (UnicodeDecodeError, ValueError):
        raise ConfigError(f"the certificate {path} is not in PEM form") from None
    if not is_usable(certificate, key.public):
        raise ConfigError(
            f"the certificate {path} does not belong to the validator's key; "
            "make one with: trilemma validator init"
        )
    return certificate
