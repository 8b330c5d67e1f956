"""The inbox of a shard as whoever follows it believes it: what hashes to the ledger's leaf.

It begins with the first entry, or, where the ledger has forgotten that (`keep_batches`), behind the
forgotten ones, whose running hash the ledger proves.
"""

from __future__ import annotations

from bisect import bisect_right

from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.inbox import InboxLeaf, decode_inbox_leaf, inbox_key
from protocol.ledger_leaves import SweptLeaf, decode_swept, swept_key
from protocol.messages import InboxRequest, InboxView
from protocol.settlement import EMPTY_INBOX_HASH, InboxEntry, extend_inbox_hash
from protocol.tree_proof import decode_tree_proof, verify_proof

FETCH_LIMIT = 4096
"""Entries asked for at once; so many are kept beyond their use before they are freed."""


class VerifiedInbox:
    """Verified entries with their ledger heights, and the height up to which the ledger is covered.

    Its holder asks `request`s and gives the answers to `take`, while it is `behind`. `needed`: the
    first entry that the holder goes on from; None where it needs no entries, only how many there
    are.
    """

    def __init__(self, shard: int, needed: int | None = 0) -> None:
        self.covered_height = -1
        self.count = 0
        self.forgotten_key = swept_key(shard)
        """Key of the ledger leaf that `begin_behind` takes."""
        self._key = inbox_key(shard)
        self._needed = needed
        self._entries: list[tuple[int, InboxEntry]] = []
        self._base = 0
        self._running_hash = EMPTY_INBOX_HASH
        self._parts: list[tuple[int, InboxEntry]] = []
        self._wanted_height = 0
        self._told_count = 0

    # --- reading

    def count_at(self, height: int) -> int:
        """Entries with ledger height at most `height`, which must be covered; those that are
        released count wherever they stood."""
        return self._base + bisect_right(self._entries, height, key=lambda one: one[0])

    def entries(self, first: int, end: int) -> list[InboxEntry]:
        """Entries number `first` to `end` - 1; raises `SafetyViolation` for released ones."""
        if first < self._base:
            raise SafetyViolation(f"inbox entry {first} is released, {self._base} is the first")
        return [entry for _, entry in self._entries[first - self._base : end - self._base]]

    def release(self, cursor: int) -> None:
        """Entries below `cursor` are not needed any more."""
        if self._needed is not None:
            self._needed = max(self._needed, cursor)
        end = min(cursor, self.count)
        if end - self._base >= FETCH_LIMIT:
            del self._entries[: end - self._base]
            self._base = end

    # --- what is to be asked

    @property
    def behind(self) -> bool:
        """Whether there is more than is known, or than is covered, that somebody wants."""
        return self.count < self._told_count or self.covered_height < self._wanted_height

    def want(self, height: int) -> None:
        """Somebody needs the ledger covered up to `height`."""
        self._wanted_height = max(self._wanted_height, height)

    def told(self, count: int) -> bool:
        """A validator says that there are `count` entries; whether that is news."""
        news = count > self._told_count
        self._told_count = max(self._told_count, count)
        return news

    def forget(self) -> None:
        """Another validator is asked from here on: what the last one said unproven is void."""
        self._told_count = self.count
        self._parts = []

    def request(self, request_id: int) -> InboxRequest:
        """The next question."""
        return InboxRequest(request_id, self.count + len(self._parts), FETCH_LIMIT)

    def begin_behind(self, forgotten: bytes | None) -> None:
        """Go on behind what the ledger has forgotten, where a `request` was refused for that.

        `forgotten`: the proven leaf of `forgotten_key`, None where it is absent. Raises `Rejected`
        where the ledger has what was asked for, `ConfigError` where our holder needs what is gone.
        """
        swept = SweptLeaf() if forgotten is None else decode_swept(forgotten)
        if swept.entries <= self.count:
            raise Rejected(Code.BAD_PROOF, f"inbox entry {self.count} is withheld, not forgotten")
        if self._needed is not None and self._needed < swept.entries:
            raise ConfigError(
                f"the base layer has forgotten inbox entries {self._needed} to {swept.entries - 1},"
                " which come next here; stop this process, and start it again with the data of "
                "another one of its kind that has kept up"
            )
        self._entries, self._parts = [], []
        self._base = self.count = swept.entries
        self._running_hash = swept.running_hash

    # --- answers

    def take(self, view: InboxView) -> bool:
        """Take an answer whose header is final; False: ask on, as entries are missing.

        Nothing counts before all entries of a leaf are there and verified as a whole; an answer of
        a validator that lags behind one asked before changes nothing. Raises `Rejected`: `forget`.
        """
        leaf = self._leaf(view)
        first = self.count + len(self._parts)
        self._parts += view.entries[: max(0, leaf.count - first)]
        if self.count + len(self._parts) < leaf.count:
            if not view.entries:
                raise Rejected(Code.BAD_PROOF, f"inbox entries from {first} on are withheld")
            return False
        height = view.header.app_height
        if leaf.count >= self.count and height >= self.covered_height:
            self._extend(leaf)
            self.covered_height = height
        self._parts = []
        return True

    def _leaf(self, view: InboxView) -> InboxLeaf:
        proof = decode_tree_proof(view.proof)
        value = verify_proof(view.header.app_root, proof, [self._key])[self._key]
        if value is None:
            raise Rejected(Code.BAD_PROOF, "the ledger has no inbox for this shard")
        return decode_inbox_leaf(value)

    def _extend(self, leaf: InboxLeaf) -> None:
        running = self._running_hash
        for index, (height, entry) in enumerate(self._parts, self.count):
            if entry.index != index:
                raise Rejected(Code.BAD_PROOF, f"inbox entry {entry.index} stands for {index}")
            running = extend_inbox_hash(running, height, entry)
        if running != leaf.running_hash:
            raise Rejected(Code.BAD_PROOF, "the inbox entries do not hash to the ledger's leaf")
        self._entries += self._parts
        self._running_hash = running
        self.count = leaf.count
