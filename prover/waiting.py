"""What blocks and diffs that wait for settlement take in memory."""

from __future__ import annotations

from collections import deque

from protocol.chain import CommitCertificate
from protocol.events import BlockDiff
from protocol.ordering import OrderedBlock

WAITING_BYTES = 64 << 20
"""Memory for blocks that wait, and as much for diffs: what is beyond stays with who streams it, and
is read when there is room. A minute or two of 6,000 actions a second."""

BLOCK_BYTES = 1_024
CERTIFICATE_BYTES = 2_048
SIGNATURE_BYTES = 192
DIFF_BYTES = 512
CHANGE_BYTES = 192
"""What each takes as objects, beside the byte strings that it holds."""


class Sizes:
    """Bytes that each item of a queue takes, first to last, and all of them together."""

    def __init__(self) -> None:
        self._each: deque[int] = deque()
        self.total = 0

    def add(self, sizes: list[int]) -> None:
        """Items came in at the end."""
        self._each += sizes
        self.total += sum(sizes)

    def take(self, count: int) -> list[int]:
        """The first items have left; their bytes."""
        taken = [self._each.popleft() for _ in range(count)]
        self.total -= sum(taken)
        return taken

    def put_back(self, sizes: list[int]) -> None:
        """Items that had left are the first ones again."""
        self._each.extendleft(reversed(sizes))
        self.total += sum(sizes)

    def clear(self) -> None:
        """All have left."""
        self._each.clear()
        self.total = 0


def chunk_bytes(blocks: list[tuple[OrderedBlock, bytes]], end: CommitCertificate) -> list[int]:
    """Memory of ordered blocks with what is encoded of them; the last one's with the certificate
    that ends them."""
    sizes = [BLOCK_BYTES + len(block.payload) + len(encoded) for block, encoded in blocks]
    signatures = len(end.qc.signatures) + len(end.child_qc.signatures)
    sizes[-1] += CERTIFICATE_BYTES + SIGNATURE_BYTES * signatures + BLOCK_BYTES * len(end.path)
    return sizes


def diff_bytes(diff: BlockDiff) -> int:
    """Memory of a state diff."""
    changes, outbox = diff.changes, diff.outbox
    held = sum(len(key) + len(value or b"") for key, value in changes) + sum(map(len, outbox))
    return DIFF_BYTES + CHANGE_BYTES * (len(changes) + len(outbox)) + held
