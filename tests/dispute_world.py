"""A ledger with open windows over a shard that is really executed, truly and in lies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ledger_world import GENESIS_MS, LedgerWorld, key_of, make_chain

from execution.engine import Engine
from execution.leaves import account_key
from node.genesis import genesis_ledger
from node.outcomes import BlockOutcome
from protocol.actions import ActionBatch, sign_batch
from protocol.batch_data import pack_blocks
from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    Cut,
    DisputeAction,
    DisputeLeaf,
    OpenDispute,
    Prove,
    ShowPart,
    in_parts,
)
from protocol.errors import Code, Rejected
from protocol.genesis import Chain, SettlementRules
from protocol.inbox import next_cursor
from protocol.keys import Key
from protocol.merkle import list_root
from protocol.settlement import BatchHeader, OutboxEntry, PostBatch
from prover.game import BatchSteps, Player, Trace
from prover.tree import StateTree
from prover.witness import shown_hash

DOLLAR = 1_000_000
RULES = SettlementRules(
    window_ms=60_000,
    prover_bond_uusd=2_001,
    challenger_bond_uusd=1_001,
    clock_ms=20_000,
    sections=3,
)
NAMES = ("alice", "bob", "carol", "dave")
Changes = dict[bytes, bytes | None]
Lie = Callable[[int, Changes], Changes]
"""What a liar says that a block (its place in the batch) changed, told what it did."""


def dispute_chain(rules: SettlementRules = RULES) -> Chain:
    """Four traders with money on both sides, a prover that pays bonds."""
    accounts = [(key_of(name), 50_000, 5_000 * DOLLAR) for name in NAMES]
    return make_chain([*accounts, (key_of("prover"), 100_000, 0)], settlement=rules)


def mint(at: int = 0, extra_uusd: int = 1_000_000) -> Lie:
    """A block of the batch gives an account money out of nothing."""

    def lie(index: int, changes: Changes) -> Changes:
        key = account_key(16)
        if index != at:
            return changes
        return {**changes, key: encode((key_of("alice").address, extra_uusd))}

    return lie


class DisputeWorld(LedgerWorld):
    """Blocks are executed as they are ordered; batches are posted as they are, or with a lie."""

    def __init__(self, rules: SettlementRules = RULES, chain: Chain | None = None) -> None:
        super().__init__(chain or dispute_chain(rules))
        self.rules = self.chain.genesis.settlement
        self.engine = Engine(self.chain)
        tree = StateTree(self.engine.leaves().items())
        self.truth = Trace(tree, 0)
        self.ledger = genesis_ledger(self.chain, tree.root)
        self.roots = [self.ledger.root]
        self.supply_uusd = self.ledger.system().supply_uusd
        self.changes: list[Changes] = []
        self.cursors: list[int] = [0]
        """Inbox cursor after each block, genesis first."""
        self.shown: dict[bytes, bytes] = {}
        """Witnesses that were sent, by what they show."""
        self.parts: dict[bytes, dict[int, bytes]] = {}
        """Parts that were sent, by what they are parts of."""
        self.outbox_of: list[list[OutboxEntry]] = []
        self.posted: dict[int, tuple[BatchSteps, Trace]] = {}
        self.posts: dict[int, PostBatch] = {}
        self.players: dict[int, Player] = {}
        """Liars who defend a batch."""
        self._inbox_height = 0
        self._nonce_ms = GENESIS_MS

    # --- ordered blocks

    def act(self, key: Key, *actions: Any) -> bytes:
        """A signed batch of the key's account."""
        self._nonce_ms += 1
        number = self.ledger.account_number(key.address)
        return sign_batch(
            key, self.chain.chain_id, 0, ActionBatch(number, self._nonce_ms, 0, [*actions])
        )

    def order(self, *batches: bytes, inbox_height: int | None = None) -> None:
        """Order a block and execute it."""
        if inbox_height is not None:
            self._inbox_height = inbox_height
        empty = inbox_height is None and not batches
        self.log.append(None if empty else self._inbox_height, batches)
        header = self.log.blocks[-1].header
        first, limit = self.engine.inbox_cursor, self.chain.genesis.limits.inbox_per_block
        cursor = next_cursor(first, self.ledger.entries_at(self._inbox_height), limit)
        placed = self.ledger.entries(first, cursor - first, self._inbox_height)
        result = self.engine.apply(
            header.height, header.time_ms, header.block_id(), [one for _, one in placed], cursor,
            batches,
        )  # fmt: skip
        self.changes.append(result.changes)
        self.cursors.append(cursor)
        self.outbox_of.append(result.outbox)
        self.truth.extend([result.changes])

    def fill(self, blocks: int) -> None:
        """Order so many blocks; the first takes in the deposits of genesis."""
        for _ in range(blocks):
            self.order(inbox_height=0)

    # --- batches

    def post(self, lie: Lie | None = None, upto: int | None = None, **changed: Any) -> int:
        """Settle everything ordered since the last batch, or up to a block; the batch's number."""
        post = self.posting(lie, upto, **changed)
        self.posts[post.header.number] = post
        assert self.code(self.sign(self.prover, post)) == Code.OK, self.headers
        return post.header.number

    def posting(self, lie: Lie | None = None, upto: int | None = None, **changed: Any) -> PostBatch:
        """A batch, after a lie where there is one; the prover can defend it as far as it goes."""
        shard = self.ledger.shard_leaf()
        first, last = shard.last_block + 1, upto or len(self.log.blocks)
        said = self.changes[first - 1 : last]
        trace = self.truth
        if lie is not None or (shard.batch in self.posted and self._lying(shard.batch)):
            trace = self._branch(shard.batch, first)
            said = [(lie or (lambda _, one: one))(n, dict(one)) for n, one in enumerate(said)]
            trace.extend(said)
        outbox = [one for entries in self.outbox_of[first - 1 : last] for one in entries]
        outbox = changed.pop("outbox", outbox)
        blocks = self.log.blocks[first - 1 : last]
        encoded = [encode(one) for one in outbox]
        header = BatchHeader(
            self.chain.chain_id, 0, shard.batch + 1, first, last, blocks[-1].header.block_id(),
            shard.state_root, changed.pop("root", None) or trace.roots([last])[0],
            list_root([encode(block) for block in blocks]), self.cursors[last],
            list_root(encoded), shard.outbox_next, len(outbox), self.prover.public,
            self.rules.prover_bond_uusd,
        )  # fmt: skip
        cursors = self.cursors[first - 1 : last + 1]
        placed = self.ledger.entries(cursors[0], cursors[-1] - cursors[0], self.ledger.height)
        steps = BatchSteps(header, blocks, cursors, [one for _, one in placed])
        self.posted[header.number] = (steps, trace)
        certificate = self.log.certificate(blocks[-1].header)
        return PostBatch(header, pack_blocks(blocks), certificate, outbox)

    def _lying(self, number: int) -> bool:
        return self.posted[number][1] is not self.truth

    def _branch(self, number: int, first: int) -> Trace:
        """A liar's own states from the end of batch `number` on."""
        trace = self.posted[number][1] if number in self.posted else self.truth
        return Trace(StateTree(trace.leaves(first - 1)), first - 1)

    # --- games

    def game(self, number: int, challenger: Key) -> DisputeLeaf | None:
        """A challenger's open game."""
        return self.ledger.disputes.game(number, challenger.address)

    def send(self, key: Key, *actions: DisputeAction) -> Code:
        """Moves of one side, a block for each; the code of the last."""
        code = Code.OK
        for action in actions:
            parts, last = in_parts(action) if isinstance(action, Prove) else ([], action)
            for part in [*parts, last]:
                self._note(part)
                code = self.code(self.sign(key, part))
        return code

    def _note(self, action: DisputeAction) -> None:
        """Keep what is shown, as everybody can read it in the ledger's blocks."""
        if isinstance(action, ShowPart):
            self.parts.setdefault(action.whole, {}).setdefault(action.part, action.data)
        elif isinstance(action, Prove):
            before = self.parts.get(action.whole, {})
            witness = b"".join([*(before[one] for one in sorted(before)), action.witness])
            with contextlib.suppress(Rejected):
                self.shown[shown_hash(witness)] = witness

    def open(self, number: int, challenger: Key, root: bytes | None = None) -> Code:
        """Open a game over a batch, by default with the true root."""
        header = self.posted[number][0].header
        root = root or self.truth.roots([header.last_block])[0]
        return self.send(challenger, OpenDispute(number, root))

    def defend(self, number: int, challenger: Key) -> Code:
        """The prover's next move as its own states have it."""
        game = self.game(number, challenger)
        assert game is not None
        move = self.defence(number, challenger, game)
        assert move is not None
        return self.send(self.prover, move)

    def defence(self, number: int, challenger: Key, game: DisputeLeaf) -> Cut | Prove | None:
        """The move that the prover's own states give."""
        steps, trace = self.posted[number]
        player = self.players.get(number) or Player(self.chain, trace)
        return player.defend(steps, challenger.address, game, self.shown.get(game.shown, b""))

    def challenge(self, number: int, challenger: Key, trace: Trace | None = None) -> Code:
        """The challenger's next move, by its own states or those of a liar."""
        game = self.game(number, challenger)
        assert game is not None
        before = self.shown.get(game.shown, b"")
        player = Player(self.chain, trace or self.truth)
        move = player.challenge(self.posted[number][0], challenger.address, game, before)
        assert move is not None
        return self.send(challenger, move)

    def play(self, number: int, challenger: Key, trace: Trace | None = None) -> None:
        """Both sides move until the game is over."""
        while (game := self.game(number, challenger)) is not None:
            if game.turn == CHALLENGER:
                code = self.challenge(number, challenger, trace)
            else:
                code = self.defend(number, challenger)
            assert code == Code.OK, code

    # --- time and money

    def wait(self, window_ms: int) -> list[BlockOutcome]:
        """Let so much of the ledger's own time pass."""
        outcomes = []
        end_ms = self.ledger.system().window_ms + window_ms
        while (left_ms := end_ms - self.ledger.system().window_ms) > 0:
            outcomes.append(self.block(step_ms=min(1_000, left_ms)))
        return outcomes

    def balance(self, key: Key) -> int:
        """An address's free balance."""
        return self.ledger.account(key.address).balance_uusd

    def burnt(self) -> int:
        """What was burnt so far; all money is counted anew on the way."""
        self.ledger.require_conserved()
        system = self.ledger.system()
        assert system.supply_uusd + system.burnt_uusd == self.supply_uusd
        return system.burnt_uusd
