"""Challengers of the simulator."""

from __future__ import annotations

from collections.abc import Awaitable

from protocol.messages import Committed
from protocol.settlement import LedgerAction
from prover.challenger import Challenger
from prover.contest import Challenging
from sim.actors_contest import SimContest
from sim.actors_followers import InboxFollower
from sim.actors_ledger_client import LedgerClient


async def committed(sent: Awaitable[Committed | None]) -> Committed:
    """The answer of a ledger client that gives up at times."""
    answer = await sent
    if answer is None:
        raise TimeoutError("the ledger did not take it")
    return answer


class SimChallenger(LedgerClient):
    """Checks every batch from genesis on; it keeps nothing on disk."""

    role = "challenger"
    machine: Challenger

    def start(self) -> None:
        """Begin to follow."""
        self.open_transactions, self._turn = 0, None
        self.machine = Challenger(self.chain, self.key.address)
        inbox = InboxFollower(self, self.validators)
        inbox.start()
        contest = SimContest(self, self.validators, self._commit)
        self.spawn(Challenging(contest, self.machine, inbox, inbox).run())

    async def _commit(self, action: LedgerAction) -> Committed:
        return await committed(self.send_action(action))
