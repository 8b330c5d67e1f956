"""Links of a sequencer with the others of genesis."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from consensus import Broadcast, Send
from net.member_links import MemberLinks
from net.mesh import Peer
from net.tls import is_usable
from protocol.codec import Wire
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Chain
from protocol.keys import Key
from sequencer.effects import Pass
from sequencer.peer import PeerMessage, decode_peer_message
from store.config import ProcessConfig, parse_address

FromPeer = tuple[int, PeerMessage]
"""A message, and the index of the sequencer that sent it."""


class SequencerLinks(MemberLinks[FromPeer]):
    """The mesh of one sequencer. Raises `ConfigError` where configuration and genesis do not fit.

    Sequencers are those of genesis, and so are their certificates.
    """

    def __init__(
        self, config: ProcessConfig, chain: Chain, key: Key, wake: Callable[[], None]
    ) -> None:
        identities = chain.genesis.sequencers
        if not config.peer_listen or len(config.peers) != len(identities):
            raise ConfigError(
                f"one of {len(identities)} sequencers needs peer_listen, and all of them as peers"
            )
        self._keys = [bytes.fromhex(one.public_key) for one in identities]
        self._indices = {public: index for index, public in enumerate(self._keys)}
        certificates = [bytes.fromhex(one.certificate) for one in identities]
        for one, certificate, public in zip(identities, certificates, self._keys, strict=True):
            if not is_usable(certificate, public):
                raise ConfigError(f"genesis: the certificate of {one.name} is not of its key")
        own = certificates[config.index]
        super().__init__(key, own, config.peer_listen, self._event_of, wake)
        self.connect(
            [
                Peer(public, *parse_address(peer.address))
                for peer, public in zip(config.peers, self._keys, strict=True)
            ],
            own,
            [one for index, one in enumerate(certificates) if index != config.index],
        )

    def send(self, effects: Iterable[Send | Broadcast | Pass]) -> None:
        """Queue what a step says to others."""
        self.post(map(self._addressed, effects))

    def _addressed(self, effect: Send | Broadcast | Pass) -> tuple[bytes | None, Wire]:
        to = self._keys[effect.member] if isinstance(effect, Send) else None
        return to, effect.message

    def _event_of(self, sender: bytes, frame: bytes) -> FromPeer:
        index = self._indices.get(sender)
        if index is None:
            raise Rejected(Code.NOT_AUTHORISED, "only sequencers of genesis take part")
        return index, decode_peer_message(frame)
