"""A base layer of made headers over several epochs, whose every key a test holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from ledger_world import GENESIS_MS, key_of, make_chain

from consensus.light import LightClient
from protocol.chain import (
    QC,
    CommitCertificate,
    Header,
    Signature,
    genesis_header,
    genesis_qc,
    origin_qc,
    payload_hash,
    vote_digest,
)
from protocol.codec import encode
from protocol.genesis import Chain, Identity, Staking, parse_genesis
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    CurrentEpoch,
    EpochLeaf,
    EpochMember,
    epoch_key,
)
from protocol.light import genesis_checkpoint
from protocol.tree_proof import TreeProof
from prover.tree import StateTree

BLOCK_MS = 100
EPOCH_MS = 1_000
TRUSTING_MS = 60_000

SETS: tuple[dict[str, int], ...] = (
    {"v0": 100, "v1": 100, "v2": 100, "v3": 100},
    {"v1": 100, "v2": 100, "v3": 100, "v4": 200},
    {"v4": 50, "v5": 50, "v6": 50, "v7": 50},
)


def chain_of(epoch_ms: int = EPOCH_MS, first: Mapping[str, int] = SETS[0]) -> Chain:
    """A chain whose genesis validators are `first`."""
    validators = [Identity(name, key_of(name).public.hex(), s, "00") for name, s in first.items()]
    genesis = make_chain([], validators=validators).genesis
    staking = Staking(
        epoch_ms=epoch_ms, trusting_ms=TRUSTING_MS, evidence_ms=TRUSTING_MS,
        unbonding_ms=2 * TRUSTING_MS,
    )  # fmt: skip
    return parse_genesis(msgspec.json.encode(msgspec.structs.replace(genesis, staking=staking)))


class LightChain:
    """Grows block by block through its epochs, and proves whatever is asked."""

    def __init__(
        self,
        epoch_ms: int = EPOCH_MS,
        sets: Sequence[Mapping[str, int]] = SETS,
        leaves: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.chain = chain_of(epoch_ms, sets[0])
        self.sets = [list(one) for one in sets]
        self.stakes = sets
        self.epoch_ms = epoch_ms
        self.epoch = 0
        self.ends_ms = GENESIS_MS + epoch_ms
        self.leaves = [dict(leaves or {b"\x7e": b"something"})]
        self.genesis = genesis_header(self.chain.chain_id, GENESIS_MS, self.root(0))
        self.headers = [self.genesis]
        self.lasts: list[Header] = []
        self.boundary: int | None = None

    # --- growing

    def root(self, height: int) -> bytes:
        return StateTree(sorted(self.leaves[height].items())).root

    def block(self, changes: Mapping[bytes, bytes] | None = None) -> Header:
        """The next block; it writes these leaves, and those that its epoch asks for."""
        parent = self.headers[-1]
        first = bool(self.lasts) and parent is self.lasts[-1]
        app_height = parent.height if first else max(parent.height - 1, parent.app_height)
        header = self.header_on(parent, app_height, epoch=self.epoch)
        leaves = {**self.leaves[-1], **(changes or {})}
        self.headers.append(header)
        self.leaves.append(leaves)
        number = self.epoch + 1
        if self.boundary is not None and app_height >= self.boundary:
            leaves[CURRENT_EPOCH_KEY] = encode(
                CurrentEpoch(number, header.height, header.view, header.block_id())
            )
            self.lasts.append(header)
            self.epoch, self.boundary = number, None
            self.ends_ms += self.epoch_ms
        elif self.boundary is None and self.epoch_ms and header.time_ms >= self.ends_ms:
            self.boundary = header.height
            leaves[epoch_key(number)] = encode(self.epoch_leaf(number, header.height))
        return header

    def epoch_leaf(self, number: int, boundary: int) -> EpochLeaf:
        stakes = self.stakes[min(number, len(self.stakes) - 1)]
        members = [EpochMember(key_of(n).public, stake, b"", "") for n, stake in stakes.items()]
        return EpochLeaf(number, boundary, members, self.ends_ms + self.epoch_ms)

    def to_epoch(self, epoch: int) -> None:
        """Grow up to the third block of an epoch."""
        while self.epoch < epoch:
            self.block()
        for _ in range(3):
            self.block()

    def header_on(self, parent: Header, app_height: int, **changes: object) -> Header:
        """A header on top of another, justified by its QC."""
        epoch = changes.get("epoch", parent.epoch)
        if parent.height == 0:
            justify = genesis_qc(parent)
        elif epoch != parent.epoch:
            justify = origin_qc(parent.epoch + 1, parent, parent.block_id())
        else:
            justify = self.qc(parent)
        header = Header(
            self.chain.chain_id, parent.epoch, parent.view + 1, parent.height + 1,
            parent.block_id(), parent.view, parent.time_ms + BLOCK_MS, 0, payload_hash(b""),
            justify.digest(), app_height, self.root(app_height),
        )  # fmt: skip
        return msgspec.structs.replace(header, **changes)

    # --- signing

    def qc(
        self,
        header: Header,
        signers: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        epoch: int | None = None,
    ) -> QC:
        """Votes of the members at these indices of a set: all but one of the header's epoch."""
        number = header.epoch if epoch is None else epoch
        names = names or self.sets[min(number, len(self.sets) - 1)]
        chosen = range(1, len(names)) if signers is None else signers
        block_id = header.block_id()
        digest = vote_digest(header.chain_id, number, header.view, header.height, block_id)
        votes = [Signature(i, key_of(names[i]).sign(digest)) for i in chosen]
        return QC(header.chain_id, number, header.view, header.height, block_id, votes)

    def certificate(self, header: Header, above: int = 0, **votes: object) -> CommitCertificate:
        """The certificate of a block, over a path of so many made headers above it."""
        path: list[Header] = []
        top = header
        for _ in range(above):
            # Nothing commits below a gap of views, which is why a path is needed.
            top = self.header_on(top, top.app_height, view=top.view + 2)
            path.append(top)
        qc = self.qc(top, **votes)  # type: ignore[arg-type]
        child = self.header_on(top, top.app_height, justify_hash=qc.digest())
        return CommitCertificate(qc, child, self.qc(child, **votes), path)  # type: ignore[arg-type]

    def proof(self, header: Header, keys: Sequence[bytes]) -> TreeProof:
        """Of leaves under the root that a header names."""
        return StateTree(sorted(self.leaves[header.app_height].items())).prove(keys)

    def change(self, number: int) -> tuple[Header, CommitCertificate, TreeProof]:
        """What leads into an epoch."""
        last = self.lasts[number - 1]
        return last, self.certificate(last), self.proof(last, [epoch_key(number)])

    # --- following

    @property
    def now_ms(self) -> int:
        return self.headers[-1].time_ms + 50

    def client(self, now_ms: int | None = None, trusting_ms: int = TRUSTING_MS) -> LightClient:
        """A light client of genesis."""
        return LightClient(
            genesis_checkpoint(self.chain), trusting_ms=trusting_ms,
            now_ms=GENESIS_MS if now_ms is None else now_ms,
        )  # fmt: skip
