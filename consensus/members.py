"""The member set of one epoch: keys, stakes, quorum arithmetic and the leader of each view."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.chain import QC, Member
from protocol.errors import ConfigError


class MemberSet:
    """Members of a chain in one epoch; weights are stakes, thresholds are never head counts.

    Safety and liveness hold while members with less than a third of the stake are faulty.
    `origin` is the certificate, valid by definition, of the block that the epoch starts from: the
    last one of the epoch before; None stands for the genesis block. With `ends_ms` the first block
    of this time or later is the epoch's boundary: blocks behind it carry no payload, and the first
    one that names the application's state after it is the epoch's last.
    """

    __slots__ = (
        "_index", "chain_id", "ends_ms", "epoch", "keys", "members", "origin", "stakes",
        "total_stake",
    )  # fmt: skip

    def __init__(
        self,
        chain_id: bytes,
        members: Sequence[Member],
        epoch: int = 0,
        *,
        origin: QC | None = None,
        ends_ms: int | None = None,
    ) -> None:
        if not members:
            raise ConfigError("a member set needs at least one member")
        if any(member.stake <= 0 for member in members):
            raise ConfigError("every member needs a stake above zero")
        self.chain_id = chain_id
        self.epoch = epoch
        self.origin = origin
        self.ends_ms = ends_ms
        self.members = tuple(members)
        self.keys = tuple(member.public_key for member in members)
        self.stakes = tuple(member.stake for member in members)
        self.total_stake = sum(self.stakes)
        self._index = {key: index for index, key in enumerate(self.keys)}
        if len(self._index) != len(self.keys):
            raise ConfigError("two members share one public key")

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and 0 <= index < len(self.members)

    def quorum(self, stake: int) -> bool:
        """Whether `stake` is strictly more than two thirds of the total."""
        return 3 * stake > 2 * self.total_stake

    def includes_honest(self, stake: int) -> bool:
        """Whether members holding `stake` cannot all be faulty (at least a third of the total)."""
        return 3 * stake >= self.total_stake

    def leader(self, view: int) -> int:
        """Index of the member that proposes in `view`: round robin."""
        return view % len(self.members)

    def index_of(self, public_key: bytes) -> int | None:
        """Index of the member with this key, or None."""
        return self._index.get(public_key)
