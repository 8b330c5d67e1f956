"""Watches every ledger block of a run: no lie becomes final, nobody honest loses a bond, and no
money appears or goes."""

from __future__ import annotations

from collections.abc import Callable, Collection

from node.ledger_state import LedgerState
from protocol.dispute import DisputeLeaf, decode_dispute
from protocol.keys import ADDRESS_BYTES
from protocol.ledger_leaves import DISPUTE_KIND, SettledBatch
from protocol.settlement import BatchHeader
from sim.checkers import Violation
from sim.lying_truth import Truth

_BATCH_BYTES = slice(3, 11)


class SettlementWatch:
    """Compares the ledger with itself before. `honest`: addresses of those who dispute what is
    wrong only."""

    def __init__(
        self, truth: Truth, count: Callable[[str], None], honest: Collection[bytes]
    ) -> None:
        self._truth = truth
        self._count = count
        self._honest = honest
        self._height = 0
        self._open: dict[int, SettledBatch] = {}
        self._games: dict[bytes, DisputeLeaf] = {}
        self._final = 0
        self._right: dict[bytes, bool] = {}
        self._money_uusd = 0
        self._replaced: set[int] = set()

    def look(self, ledger: LedgerState) -> None:
        """Take in a ledger; one that is not further than another before tells nothing."""
        if ledger.height <= self._height:
            return
        self._height = ledger.height
        self._check_money(ledger)
        self._truth.inbox(ledger)
        final, last = ledger.final().batch, ledger.shard_leaf().batch
        found = {number: ledger.batch(number) for number in range(final + 1, last + 1)}
        batches = {number: one for number, one in found.items() if one is not None}
        games: dict[bytes, DisputeLeaf] = {}
        for key in ledger.keys_of(DISPUTE_KIND):
            raw = ledger.read(key)
            if raw is not None:
                games[key] = decode_dispute(raw)
        self._check_games(games, batches, final)
        self._check_removed(batches, final, ledger.frozen)
        self._check_final(ledger, final)
        self._note(batches, games)
        self._open, self._games, self._final = batches, games, final

    def _check_money(self, ledger: LedgerState) -> None:
        ledger.require_conserved()
        system = ledger.system()
        money_uusd = system.supply_uusd + system.burnt_uusd
        if self._money_uusd not in (0, money_uusd):
            raise Violation("conservation", f"{self._money_uusd} uusd became {money_uusd}")
        self._money_uusd = money_uusd

    def right(self, header: BatchHeader) -> bool:
        """Whether a settled batch says what its blocks lead to."""
        digest = header.digest()
        known = self._right.get(digest)
        if known is None:
            known = self._right[digest] = self._truth.right(header)
        return known

    def _check_final(self, ledger: LedgerState, final: int) -> None:
        for number in range(self._final + 1, final + 1):
            settled = ledger.batch(number) or self._open.get(number)
            if settled is not None and not self.right(settled.header):
                raise Violation("dispute", f"wrong batch {number} became final")
            if number in self._replaced:
                self._count("wrong_batches_replaced")

    def _check_removed(self, batches: dict[int, SettledBatch], final: int, frozen: bool) -> None:
        """The lowest batch that is gone was wrong; those above it stood on it."""
        gone = sorted(
            number for number, one in self._open.items()
            if number > final and _header(batches.get(number)) != one.header
        )  # fmt: skip
        if not gone or frozen:
            return
        if self.right(self._open[gone[0]].header):
            raise Violation("dispute", f"batch {gone[0]} was right, and its prover lost its bond")
        self._replaced.add(gone[0])
        self._count("wrong_batches_removed")
        for _ in gone[1:]:
            self._count("descendants_removed")

    def _check_games(
        self, games: dict[bytes, DisputeLeaf], batches: dict[int, SettledBatch], final: int
    ) -> None:
        """A game that is gone while its batch stands was lost by its challenger."""
        for key in sorted(self._games.keys() - games.keys()):
            number, challenger = int.from_bytes(key[_BATCH_BYTES], "big"), key[-ADDRESS_BYTES:]
            before = self._open.get(number)
            stands = number <= final or _header(batches.get(number)) == _header(before)
            if before is None or not stands:
                self._count("games_over_with_their_batch")
            elif challenger in self._honest:
                raise Violation("dispute", f"an honest challenger lost its bond on batch {number}")
            else:
                right = self.right(before.header)
                self._count("bonds_lost_by_liars" if right else "games_lost_on_purpose")

    def _note(self, batches: dict[int, SettledBatch], games: dict[bytes, DisputeLeaf]) -> None:
        """What there is at once."""
        if sum(not self.right(one.header) for one in batches.values()) > 1:
            self._count("several_wrong_at_once")
        numbers = [key[_BATCH_BYTES] for key in games]
        if len(numbers) > len(set(numbers)):
            self._count("several_games_on_a_batch")
        for key, game in games.items():
            before = self._games.get(key)
            if game.rounds > (0 if before is None else before.rounds):
                self._count(f"witness_{game.rounds}_held")


def _header(settled: SettledBatch | None) -> BatchHeader | None:
    return None if settled is None else settled.header
