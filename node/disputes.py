"""Disputes on the ledger: games of challengers against settled batches, their clocks, their bonds.

Any number of games may be open on a batch, one for each challenger, and each is decided by itself:
who loses one protects no batch. One lost by the prover removes the batch with all newer ones. Half
of a lost bond goes to the winner and half is burnt, so that nobody gains by playing against
himself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec
from sortedcontainers import SortedList

from node.dispute_judging import judge, require_block
from node.dispute_parts import Parts
from node.envelopes import OpenedTransaction
from node.ledger_state import LedgerState
from node.outcomes import BlockOutcome
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    HASH_BYTES,
    PART_BYTES,
    PART_MS,
    STEPS_PER_BLOCK,
    WITNESS_ROUNDS,
    Choose,
    Contradict,
    Cut,
    DisputeAction,
    DisputeLeaf,
    OpenDispute,
    PartPlace,
    Prove,
    ShowPart,
    cuts,
    decode_dispute,
    positions,
)
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.keys import ADDRESS_BYTES, address_of
from protocol.ledger_leaves import DISPUTE_KIND, SettledBatch, dispute_key
from protocol.settlement import InboxEntry
from prover.judge import contradicts
from prover.step_input import StepInput

PROOFS_PER_BLOCK = 2
"""Steps that one ledger block executes, or one on a witness that came in parts; further ones are
told to come again."""

TIMEOUTS_PER_BLOCK = 64
"""Games that one ledger block ends because a clock ran out; more wait for the next block."""

_BATCH_BYTES = slice(3, 11)


class Batches(Protocol):
    """What the settled batches do for disputes (`node.settling`)."""

    def is_open(self, number: int) -> bool:
        """Whether a batch is settled and not final."""

    def remove(self, number: int, outcome: BlockOutcome) -> int:
        """Remove a batch and all newer ones, and dissolve the games on them; returns what was
        locked of its own bond."""


class Disputes:
    """The open games of a ledger. Every check stands before the first write."""

    def __init__(self, state: LedgerState, batches: Batches) -> None:
        self._state = state
        self._batches = batches
        self._rules = state.chain.genesis.settlement
        self._proofs_left = PROOFS_PER_BLOCK
        self._parts = Parts(state)
        self._games: SortedList[bytes] = SortedList()
        self._deadlines: SortedList[tuple[int, bytes]] = SortedList()
        for key in state.keys_of(DISPUTE_KIND):
            self._games.add(key)
            self._deadlines.add((_deadline_ms(self._game(key)), key))

    # --- what others ask

    def holds(self, number: int) -> bool:
        """Whether a game on the batch is open, so that it cannot become final."""
        return bool(self._of_batch(number))

    def game(self, number: int, challenger: bytes) -> DisputeLeaf | None:
        """A challenger's open game, None where there is none."""
        raw = self._state.read(dispute_key(self._state.shard, number, challenger))
        return None if raw is None else decode_dispute(raw)

    def waiting(self, prover: bytes, limit: int) -> list[tuple[int, bytes]]:
        """Batch and challenger of games that wait for a prover (public key), the shortest clocks
        first."""
        found: list[tuple[int, bytes]] = []
        for _, key in self._deadlines:
            settled = self._state.batch(_batch(key))
            if settled is None or settled.header.prover != prover:
                continue
            if self._game(key).turn == DEFENDER:
                found.append((_batch(key), _challenger(key)))
            if len(found) == limit:
                break
        return found

    def plays(self, challenger: bytes) -> bool:
        """Whether a game of a challenger (address) is open."""
        return any(_challenger(key) == challenger for key in self._games)

    @property
    def count(self) -> int:
        """Open games."""
        return len(self._games)

    def dissolve(self, numbers: Iterable[int], outcome: BlockOutcome) -> None:
        """End all games on batches that are no more; the challengers' bonds go back."""
        del outcome
        for number in numbers:
            for key in self._of_batch(number):
                bond_uusd = self._end(key).bond_uusd
                self._state.credit(_challenger(key), bond_uusd)

    # --- blocks and transactions

    def begin_block(self, outcome: BlockOutcome) -> None:
        """Judge the games of those whose clock has run out."""
        self._proofs_left = PROOFS_PER_BLOCK
        now_ms = self._now_ms()
        for _ in range(TIMEOUTS_PER_BLOCK):
            if not self._deadlines or self._deadlines[0][0] >= now_ms:
                return
            key = self._deadlines[0][1]
            self._decide(key, self._game(key).turn == DEFENDER, outcome)

    def execute(
        self, opened: OpenedTransaction, action: DisputeAction, outcome: BlockOutcome
    ) -> None:
        """Execute a move, whose fee is paid; raises `Rejected`."""
        settled = self._state.batch(action.batch)
        if settled is None:
            raise Rejected(Code.UNKNOWN_BATCH, f"batch {action.batch} is not settled")
        if isinstance(action, OpenDispute):
            self._open(opened, action, settled)
        elif isinstance(action, Contradict):
            self._contradict(opened, action, settled, outcome)
        elif isinstance(action, Choose):
            self._choose(opened, action)
        else:
            if len(action.challenger) != ADDRESS_BYTES:
                raise Rejected(Code.WRONG_TYPE, f"an address has {ADDRESS_BYTES} bytes")
            defends = opened.signer == settled.header.prover
            side, answers = DEFENDER if defends else CHALLENGER, opened.address == action.challenger
            if isinstance(action, ShowPart) and (defends or answers):
                self._show_part(action, side, outcome)
            elif isinstance(action, Prove) and (defends or answers):
                self._prove(action, side, settled, outcome)
            elif isinstance(action, Cut) and defends:
                self._cut(action)
            else:
                raise Rejected(Code.NOT_A_PROVER, "only the batch's own prover defends it")

    # --- moves

    def _require_window(self, number: int, settled: SettledBatch) -> None:
        """Raise `Rejected` once a batch can no longer be disputed; games that are open go on."""
        passed_ms = self._now_ms() - settled.window_ms
        if not self._batches.is_open(number) or passed_ms >= self._rules.window_ms:
            raise Rejected(
                Code.WINDOW_OVER, f"the window of batch {number} is {self._rules.window_ms} ms"
            )

    def _open(self, opened: OpenedTransaction, action: OpenDispute, settled: SettledBatch) -> None:
        header, state = settled.header, self._state
        if len(action.post_state_root) != HASH_BYTES:
            raise Rejected(Code.WRONG_TYPE, f"a state root has {HASH_BYTES} bytes")
        if action.post_state_root == header.post_state_root:
            raise Rejected(Code.NOTHING_DISPUTED, "the claimed root is the one in the header")
        self._require_window(action.batch, settled)
        key = dispute_key(state.shard, action.batch, opened.address)
        if state.read(key) is not None:
            raise Rejected(Code.DISPUTE_OPEN, f"your dispute on batch {action.batch} is open")
        bond_uusd, balance_uusd = (
            self._rules.challenger_bond_uusd, state.account(opened.address).balance_uusd
        )  # fmt: skip
        if balance_uusd < bond_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {balance_uusd} uusd, the bond of a dispute {bond_uusd} uusd",
            )
        state.credit(opened.address, -bond_uusd)
        high = (header.last_block - header.first_block + 1) * STEPS_PER_BLOCK
        clocks_ms = [self._rules.clock_ms] * 2
        roots = [header.pre_state_root, header.post_state_root]
        game = DisputeLeaf(0, high, roots, DEFENDER, self._now_ms(), clocks_ms, bond_uusd)
        self._games.add(key)
        self._keep(key, game)

    def _cut(self, action: Cut) -> None:
        key, game = self._turn(action.batch, action.challenger, DEFENDER)
        expected = len(cuts(game.low, game.high, self._rules.sections))
        if not expected:
            raise Rejected(Code.NOT_YOUR_TURN, "one step is left: prove it")
        if len(action.roots) != expected or any(len(one) != HASH_BYTES for one in action.roots):
            raise Rejected(
                Code.BAD_MOVE,
                f"positions {game.low} to {game.high} are cut by {expected} roots of "
                f"{HASH_BYTES} bytes",
            )
        roots = [game.roots[0], *action.roots, game.roots[-1]]
        self._moved(key, game, msgspec.structs.replace(game, roots=roots, turn=CHALLENGER))

    def _choose(self, opened: OpenedTransaction, action: Choose) -> None:
        key, game = self._turn(action.batch, opened.address, CHALLENGER)
        if game.shown:
            raise Rejected(Code.NOT_YOUR_TURN, "one step is left: show a larger witness")
        parts = len(game.roots) - 1
        if not 0 <= action.part < parts:
            raise Rejected(Code.BAD_MOVE, f"the parts are 0 to {parts - 1}")
        at = positions(game, self._rules.sections)
        roots = game.roots[action.part : action.part + 2]
        after = msgspec.structs.replace(
            game, low=at[action.part], high=at[action.part + 1], roots=roots, turn=DEFENDER
        )
        self._moved(key, game, after)

    def _show_part(self, action: ShowPart, side: int, outcome: BlockOutcome) -> None:
        key, game = self._last_step(action, side)
        if self._parts.add(key, game, action, outcome.height):
            clocks_ms = list(game.clocks_ms)
            clocks_ms[side] += PART_MS
            self._deadlines.remove((_deadline_ms(game), key))
            self._keep(key, msgspec.structs.replace(game, clocks_ms=clocks_ms))

    def _last_step(self, action: Prove | ShowPart, side: int) -> tuple[bytes, DisputeLeaf]:
        """The game that has come down to one step, where it is this side's move."""
        key, game = self._turn(action.batch, action.challenger, side)
        if game.high - game.low != 1:
            raise Rejected(Code.NOT_YOUR_TURN, f"positions {game.low} to {game.high} must be cut")
        return key, game

    def _prove(
        self, action: Prove, side: int, settled: SettledBatch, outcome: BlockOutcome
    ) -> None:
        key, game = self._last_step(action, side)
        index, number = divmod(game.low, STEPS_PER_BLOCK)
        block = require_block(action, settled, index)
        work = PROOFS_PER_BLOCK if action.whole or len(action.witness) > PART_BYTES else 1
        if self._proofs_left < work:
            raise Rejected(
                Code.BUSY, f"a ledger block judges {PROOFS_PER_BLOCK} steps, or a large one"
            )
        places = self._parts.places(key, action)
        self._proofs_left -= work
        first, end = action.inbox_cursors
        step = StepInput(block, self._entries(first, end), end, number)
        try:
            witness = self._parts.whole(key, action)
            shown, root = judge(self._state.chain, action, witness, game, step)
        except Rejected:
            # Whoever plays knows the state and its bytes: there is no second try, or a liar could
            # have every validator work on nonsense until the clock runs out.
            self._decide(key, side == DEFENDER, outcome)
            return
        if (root == game.roots[-1]) != (side == DEFENDER):
            self._decide(key, side == DEFENDER, outcome)
        elif game.rounds + 1 == WITNESS_ROUNDS:
            self._decide(key, side == CHALLENGER, outcome)
        else:
            self._shown(key, game, side, shown, places, outcome.height)

    def _shown(
        self, key: bytes, game: DisputeLeaf, side: int, shown: bytes, places: list[PartPlace],
        height: int,
    ) -> None:  # fmt: skip
        """A witness holds: the other side is to move, in all games for which it counts."""
        for other in self._alike(key, game) if side == DEFENDER else [key]:
            before = self._game(other)
            after = msgspec.structs.replace(
                before, shown=shown, shown_height=height, shown_parts=places,
                rounds=game.rounds + 1, turn=DEFENDER + CHALLENGER - side,
            )  # fmt: skip
            self._parts.drop(other)
            self._moved(other, before, after)

    def _alike(self, key: bytes, game: DisputeLeaf) -> list[bytes]:
        """The games on the same batch that stand where this one does, itself among them: what the
        defender shows counts in all of them."""
        found, number = [key], _batch(key)
        now_ms = self._now_ms()
        for other in self._of_batch(number):
            one = self._game(other)
            stands = (one.low, one.high, one.roots, one.turn, one.shown, one.rounds) == (
                game.low, game.high, game.roots, game.turn, game.shown, game.rounds
            )  # fmt: skip
            if other != key and stands and _deadline_ms(one) >= now_ms:
                found.append(other)
        return found

    def _contradict(
        self,
        opened: OpenedTransaction,
        action: Contradict,
        settled: SettledBatch,
        outcome: BlockOutcome,
    ) -> None:
        self._require_window(action.batch, settled)
        if not contradicts(settled, action.proof):
            raise Rejected(Code.NOTHING_DISPUTED, "the header agrees with its state")
        self._refute(action.batch, opened.address, outcome)

    # --- endings

    def _decide(self, key: bytes, refuted: bool, outcome: BlockOutcome) -> None:
        """End a game: the batch is wrong, or the challenger."""
        number, challenger = _batch(key), _challenger(key)
        settled = self._state.batch(number)
        if settled is None:
            raise SafetyViolation(f"a game is open on batch {number}, which is not settled")
        bond_uusd = self._end(key).bond_uusd
        if refuted:
            self._state.credit(challenger, bond_uusd)
            self._refute(number, challenger, outcome)
        else:
            self._share(bond_uusd, address_of(settled.header.prover))

    def _refute(self, number: int, winner: bytes, outcome: BlockOutcome) -> None:
        """Remove a wrong batch and all newer ones; half of its bond goes to the winner."""
        self._share(self._batches.remove(number, outcome), winner)

    def _share(self, bond_uusd: int, winner: bytes) -> None:
        won_uusd = bond_uusd // 2
        burnt_uusd = bond_uusd - won_uusd
        self._state.credit(winner, won_uusd)
        self._state.change_system(supply_uusd=-burnt_uusd, burnt_uusd=burnt_uusd)

    # --- games

    def _turn(self, number: int, challenger: bytes, side: int) -> tuple[bytes, DisputeLeaf]:
        """The game in which it is this side's move; raises `Rejected`."""
        key = dispute_key(self._state.shard, number, challenger)
        raw = self._state.read(key)
        if raw is None:
            raise Rejected(
                Code.UNKNOWN_DISPUTE, f"no dispute of {challenger.hex()} on batch {number} is open"
            )
        game = decode_dispute(raw)
        if game.turn != side:
            raise Rejected(Code.NOT_YOUR_TURN, "the other side is to move")
        if _deadline_ms(game) < self._now_ms():
            raise Rejected(Code.OUT_OF_TIME, "the clock has run out")
        return key, game

    def _moved(self, key: bytes, before: DisputeLeaf, after: DisputeLeaf) -> None:
        """Keep a game after a move of the side whose turn it was, which stops its clock."""
        now_ms = self._now_ms()
        clocks_ms = list(before.clocks_ms)
        clocks_ms[before.turn] -= now_ms - before.since_ms
        self._deadlines.remove((_deadline_ms(before), key))
        self._keep(key, msgspec.structs.replace(after, clocks_ms=clocks_ms, since_ms=now_ms))

    def _keep(self, key: bytes, game: DisputeLeaf) -> None:
        self._state.write(key, game)
        self._deadlines.add((_deadline_ms(game), key))

    def _end(self, key: bytes) -> DisputeLeaf:
        game = self._game(key)
        self._games.remove(key)
        self._deadlines.remove((_deadline_ms(game), key))
        self._state.erase(key)
        self._parts.drop(key)
        return game

    def _game(self, key: bytes) -> DisputeLeaf:
        raw = self._state.read(key)
        if raw is None:
            raise SafetyViolation(f"the leaf of dispute {key.hex()} is missing")
        return decode_dispute(raw)

    def _of_batch(self, number: int) -> list[bytes]:
        """Keys of the open games on a batch, by challenger."""
        prefix = dispute_key(self._state.shard, number, b"")
        return list(self._games.irange(prefix, prefix + b"\xff" * ADDRESS_BYTES))

    def _now_ms(self) -> int:
        return self._state.system().window_ms

    def _entries(self, first: int, end: int) -> list[InboxEntry]:
        placed = self._state.entries(first, end - first, self._state.height)
        return [entry for _, entry in placed]


def _deadline_ms(game: DisputeLeaf) -> int:
    """Last window time at which the side to move may do so."""
    return game.since_ms + game.clocks_ms[game.turn]


def _batch(key: bytes) -> int:
    return int.from_bytes(key[_BATCH_BYTES], "big")


def _challenger(key: bytes) -> bytes:
    return key[-ADDRESS_BYTES:]
