"""Which signed batches count: decoding, signatures, who may act, and the replay guard.

All of it follows from the ordered log and the inbox alone, never from books, positions or money, so
that who has the data can say which batches were admitted without executing a single one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from execution.nonces import Kept, Nonces
from margin.account import REVOKED
from protocol.actions import (
    POST_ONLY,
    ActionBatch,
    Cancel,
    CancelAll,
    CancelClient,
    MassQuote,
    OraclePrice,
    Order,
    Reduce,
    SetMode,
    SignedBatch,
    actions_digest,
    batch_id,
    open_batch,
)
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, master_of

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""(public key, signature, digest) -> whether the signature is valid."""

COMMITTEE = frozenset({OraclePrice, SetMode})
"""Actions of oracles and guardians, which do not mix with others."""

MAKING = frozenset({Cancel, CancelAll, CancelClient, MassQuote, Reduce})
"""Actions that never take."""

QUOTING = MAKING | {Order}
"""And orders, which may be post-only."""

ADDRESSES_KEPT = 65_536


class Kind(IntEnum):
    """What a batch is made of, which says when in the block it comes."""

    TAKING = 0
    MAKING = 1
    """Cancels, quotes and post-only orders alone."""
    MIXED = 2
    """Actions of a committee among others, which is refused."""
    ORACLE = 3
    GUARDIAN = 4


class Opened:
    """A decoded batch, not verified yet; `refusal` says why it could not be decoded."""

    __slots__ = ("batch", "identity", "kind", "refusal", "signed")

    def __init__(
        self,
        identity: bytes,
        signed: SignedBatch | None,
        batch: ActionBatch | None,
        kind: Kind,
        refusal: Code,
    ) -> None:
        self.identity = identity
        self.signed = signed
        self.batch = batch
        self.kind = kind
        self.refusal = refusal


def open_one(raw: bytes) -> Opened:
    """Decode one batch; never raises on what a client sent."""
    try:
        signed, batch = open_batch(raw)
    except Rejected as error:
        return Opened(b"", None, None, Kind.TAKING, error.code)
    return Opened(batch_id(raw), signed, batch, _kind(batch), Code.OK)


def open_all(raws: Sequence[bytes]) -> list[Opened]:
    """Decode the batches of a block."""
    return [open_one(raw) for raw in raws]


def _kind(batch: ActionBatch) -> Kind:
    kinds = set(map(type, batch.actions))
    if not COMMITTEE.isdisjoint(kinds):
        if len(kinds) > 1:
            return Kind.MIXED
        return Kind.ORACLE if OraclePrice in kinds else Kind.GUARDIAN
    if kinds <= MAKING:
        return Kind.MAKING
    if not kinds <= QUOTING:
        return Kind.TAKING
    for action in batch.actions:
        if isinstance(action, Order) and action.tif != POST_ONLY:
            return Kind.TAKING
    return Kind.MAKING


class Owner(Protocol):
    """A master account: the address of its owner's key, and its agents' keys with their expiry in
    milliseconds (`REVOKED`: for ever)."""

    address: bytes
    agents: dict[bytes, int]


class Verdict(NamedTuple):
    """Whether a batch is admitted (`OK`), or why not. `kept`: it repeats this batch, word for word,
    and changes nothing; `owner`: its signer owns the account."""

    code: Code
    kept: Kept | None = None
    owner: bool = False

    @property
    def admitted(self) -> bool:
        """Whether the batch is executed, and its nonce kept."""
        return not self.code and self.kept is None


class Admission:
    """Judges batches by the owners of master accounts, their agents, and the nonces kept.

    A batch counts for every account number of a known master, also for sub-accounts that do not
    exist (yet): what it asks for is refused then, but its nonce is used.
    """

    __slots__ = (
        "_addresses", "_chain_id", "_guardians", "_nonces", "_oracles", "_owners", "_shard",
    )  # fmt: skip

    def __init__(self, chain: Chain, owners: Mapping[int, Owner], nonces: Nonces) -> None:
        genesis = chain.genesis
        self._chain_id = chain.chain_id
        self._shard = genesis.shard
        self._owners = owners
        self._nonces = nonces
        self._oracles = frozenset(bytes.fromhex(key) for key in genesis.oracles)
        self._guardians = frozenset(bytes.fromhex(key) for key in genesis.guardians)
        self._addresses: dict[bytes, bytes] = {}

    def judge(self, opened: Opened, time_ms: int, verify: VerifySignature) -> Verdict:
        """Whether the batch is admitted in a block of this time; changes nothing.

        A repeat has the very bytes of a batch that was verified before, so that its signature is
        not verified again.
        """
        signed, batch = opened.signed, opened.batch
        if signed is None or batch is None:
            return Verdict(opened.refusal)
        signer = signed.signer
        kept = self._nonces.find(signer, batch.nonce_ms)
        if kept is not None and kept.batch_id == opened.identity:
            return Verdict(Code.OK, kept)
        digest = actions_digest(self._chain_id, self._shard, signed.payload)
        if not verify(signer, signed.signature, digest):
            return Verdict(Code.BAD_SIGNATURE)
        owner = False
        if opened.kind >= Kind.ORACLE:
            members = self._oracles if opened.kind == Kind.ORACLE else self._guardians
            code = Code.OK if signer in members and batch.account == 0 else Code.NOT_AUTHORISED
        elif opened.kind == Kind.MIXED:
            code = Code.MIXED_BATCH
        else:
            owner = self.owns(batch.account, signer)
            code = Code.OK if owner else self._agent_code(batch.account, signer, time_ms)
        code = code or self._nonces.check(signer, batch.nonce_ms, time_ms)
        if not code and batch.expires_ms and batch.expires_ms < time_ms:
            code = Code.ACTION_EXPIRED
        return Verdict(code, None, owner)

    def owns(self, account: int, signer: bytes) -> bool:
        """Whether a key is that of the account's owner."""
        owner = self._owner(account)
        return owner is not None and self._address(signer) == owner.address

    def _owner(self, account: int) -> Owner | None:
        master = master_of(account)
        if account < FIRST_ACCOUNT or master < FIRST_ACCOUNT:
            return None
        return self._owners.get(master)

    def _agent_code(self, account: int, signer: bytes, time_ms: int) -> Code:
        owner = self._owner(account)
        if owner is None:
            return Code.UNKNOWN_ACCOUNT
        expires_ms = owner.agents.get(signer)
        if expires_ms is None:
            return Code.NOT_AUTHORISED
        if expires_ms == REVOKED:
            return Code.AGENT_REVOKED
        return Code.AGENT_EXPIRED if expires_ms < time_ms else Code.OK

    def _address(self, signer: bytes) -> bytes:
        found = self._addresses.get(signer)
        if found is None:
            if len(self._addresses) >= ADDRESSES_KEPT:
                self._addresses.clear()
            found = self._addresses[signer] = address_of(signer)
        return found
