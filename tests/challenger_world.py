"""A challenger straight before a world's ledger."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from defence_world import LedgerInbox
from dispute_world import DisputeWorld
from ledger_world import key_of

from protocol.dispute import DisputeAction
from protocol.errors import Code
from prover.challenger import Challenger, FinalState
from prover.window import HELD_BYTES, Records
from store.segments import SegmentLog

CAROL = key_of("carol")
FILE_BYTES = 2_000


class Watch:
    """A challenger that looks at a world's ledger."""

    folder: Path | None = None
    """Where challengers have their logs that are given none, and nothing but the newest in memory;
    None: they have none."""

    def __init__(
        self,
        world: DisputeWorld,
        start: FinalState | None = None,
        records: Records | None = None,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self.world = world
        if records is None and self.folder is not None:
            records, held_bytes = SegmentLog(Path(mkdtemp(dir=self.folder)), FILE_BYTES), 0
        self.machine = Challenger(world.chain, CAROL.address, start, records, held_bytes)
        self.inbox: Any = LedgerInbox(world)
        self.moves: list[Any] = []

    def look(self) -> None:
        self.machine.look(self.world.ledger.read)

    def catch_up(self) -> None:
        """Look and check until there is nothing new."""
        while True:
            self.look()
            settled = self.machine.wants
            if settled is None:
                return
            blocks = self.world.posted[settled.header.number][0].blocks
            self.machine.inbox_height(blocks)
            self.machine.check(blocks, self.inbox)

    def next_move(self) -> DisputeAction | None:
        """Catch up; the move there is."""
        self.catch_up()
        asked = self.machine.answers
        before = b"" if asked is None else self.world.shown[asked.shown]
        return self.machine.move(before)

    def step(self) -> bool:
        """Make the move there is; whether one was made."""
        move = self.next_move()
        if move is None:
            return False
        self.moves.append(move)
        assert self.world.send(CAROL, move) == Code.OK
        return True

    def fight(self) -> None:
        """Until the batch that is wrong is gone, against a defender that answers with its lie."""
        for _ in range(40):
            self.step()
            number = self.machine.next
            if self.world.ledger.batch(number) is None:
                return
            if self.world.game(number, CAROL) is not None:
                game = self.world.game(number, CAROL)
                if game is not None and game.turn == 0:
                    self.world.defend(number, CAROL)
        raise AssertionError("the wrong batch stands")
