"""What a light client of the base layer trusts to begin with: a checkpoint, and its file.

A checkpoint names the members of one epoch and the block that the epoch starts from. That of epoch
0 follows from genesis; a later one comes from somebody who is trusted, and people compare its
`fingerprint`.
"""

from __future__ import annotations

import msgspec

from protocol.chain import Member
from protocol.codec import Wire, encode
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import domain_hash

CHECKPOINT_FILE_BYTES = 1 << 20
"""Largest checkpoint file that is read."""


class Checkpoint(Wire, frozen=True):
    """Members of an epoch, to be trusted.

    `origin_*`: the block that the epoch starts from, the last one of the epoch before (genesis for
    epoch 0, whose id is left empty). `ends_ms`: the first block with this time or a later one is
    the epoch's boundary; 0 is never. `time_ms`: newest time at which these members are known to
    have ordered the blocks.
    """

    chain_id: bytes
    epoch: int
    members: list[Member]
    origin_height: int
    origin_view: int
    origin_id: bytes
    ends_ms: int
    time_ms: int

    def fingerprint(self) -> bytes:
        """Hash (32 bytes) of all but `time_ms`: equal wherever the same epoch is known."""
        return domain_hash(b"trilemma/checkpoint", encode(msgspec.structs.replace(self, time_ms=0)))


class _MemberText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public_key: str
    stake: int


class _CheckpointText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    chain_id: str
    epoch: int
    members: list[_MemberText]
    origin_height: int
    origin_view: int
    origin_id: str
    ends_ms: int
    time_ms: int
    fingerprint: str


def genesis_checkpoint(chain: Chain) -> Checkpoint:
    """The checkpoint of epoch 0: the validators of genesis."""
    genesis = chain.genesis
    epoch_ms = genesis.staking.epoch_ms
    return Checkpoint(
        chain.chain_id, 0, [one.member() for one in genesis.validators], 0, 0, b"",
        genesis.time_ms + epoch_ms if epoch_ms else 0, genesis.time_ms,
    )  # fmt: skip


def checkpoint_to_json(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as its file holds it: JSON, keys, ids and fingerprint in hex."""
    text = _CheckpointText(
        checkpoint.chain_id.hex(),
        checkpoint.epoch,
        [_MemberText(one.public_key.hex(), one.stake) for one in checkpoint.members],
        checkpoint.origin_height,
        checkpoint.origin_view,
        checkpoint.origin_id.hex(),
        checkpoint.ends_ms,
        checkpoint.time_ms,
        checkpoint.fingerprint().hex(),
    )
    return msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n"


def checkpoint_from_json(raw: bytes) -> Checkpoint:
    """Parse a checkpoint file; raises `ConfigError` with what is wrong."""
    try:
        text = msgspec.json.decode(raw, type=_CheckpointText)
        checkpoint = Checkpoint(
            bytes.fromhex(text.chain_id),
            text.epoch,
            [Member(bytes.fromhex(one.public_key), one.stake) for one in text.members],
            text.origin_height,
            text.origin_view,
            bytes.fromhex(text.origin_id),
            text.ends_ms,
            text.time_ms,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"the checkpoint is malformed: {error}") from None
    numbers = (
        checkpoint.epoch, checkpoint.origin_height, checkpoint.origin_view,
        checkpoint.ends_ms, checkpoint.time_ms,
    )  # fmt: skip
    if not all(0 <= number < 1 << 63 for number in numbers):
        raise ConfigError("the checkpoint has a number that is out of range")
    if checkpoint.epoch and not checkpoint.origin_height:
        raise ConfigError("the checkpoint of a later epoch must name the block it starts from")
    if any(len(one.public_key) != 32 for one in checkpoint.members):
        raise ConfigError("a public key of the checkpoint does not have 32 bytes")
    if checkpoint.fingerprint().hex() != text.fingerprint:
        raise ConfigError("the checkpoint is not the one that its fingerprint is of")
    return checkpoint
