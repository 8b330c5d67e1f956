"""Links of a validator: a mesh that follows the ledger, and the messages that wait for a round."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog

from net.member_links import MemberLinks
from net.mesh import Peer
from net.tls import is_usable
from node.ledger import Ledger
from node.neighbours import Neighbour, neighbours
from node.peer import TransactionGossip, decode_peer_message
from node.rounds import FromPeer, Outgoing
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import ProcessConfig, parse_address

_log = structlog.get_logger()


def ledger_neighbours(ledger: Ledger) -> list[Neighbour]:
    """Neighbours as the ledger knows them."""
    following = ledger.next_epoch()
    return neighbours(
        ledger.current_members(),
        () if following is None else following.members,
        ledger.validators(),
    )


class PeerLinks(MemberLinks[FromPeer]):
    """The mesh of one validator.

    `on_gossip` takes transactions as they come and may raise `Rejected`; everything else waits
    for `take`, and `wake` is called. `follow` must be called before `start`, and again whenever
    the ledger's validators may have changed.
    """

    renewal = "put a new one beside the key, and: trilemma validator bond 0 --key FILE"

    def __init__(
        self,
        config: ProcessConfig,
        chain: Chain,
        key: Key,
        on_gossip: Callable[[TransactionGossip], None],
        wake: Callable[[], None],
    ) -> None:
        identities = chain.genesis.validators
        self._on_gossip = on_gossip
        self._addresses = {
            bytes.fromhex(identity.public_key): peer.address
            for peer, identity in zip(config.peers, identities, strict=True)
        }
        self._configured = (
            bytes.fromhex(identities[config.index].certificate)
            if config.certificate is None
            else read_certificate(config.certificate, key)
        )
        self._known: tuple[bytes, list[Peer], list[bytes]] | None = None
        super().__init__(key, self._configured, config.peer_listen, self._event_of, wake)

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
        self.connect(peers, own, trusted)

    def _peer(self, one: Neighbour) -> Peer | None:
        try:
            host, port = parse_address(one.address or self._addresses.get(one.public_key, ""))
        except ConfigError as error:
            _log.warning("a validator cannot be dialled", key=one.public_key.hex(), why=str(error))
            return None
        return Peer(one.public_key, host, port)

    # --- messages

    def send(self, messages: Iterable[Outgoing]) -> None:
        """Queue messages on the links; one for a peer that has left is dropped."""
        self.post((one.to, one.message) for one in messages)

    def _event_of(self, sender: bytes, frame: bytes) -> FromPeer | None:
        message = decode_peer_message(frame)
        if isinstance(message, TransactionGossip):
            self._on_gossip(message)
            return None
        return FromPeer(sender, message)


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
