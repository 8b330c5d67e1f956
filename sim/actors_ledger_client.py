"""A process that sends ledger transactions, one after the other, until it knows what became of
each."""

from __future__ import annotations

from node.outcomes import NOT_FINAL
from protocol.errors import Code, RemoteFault
from protocol.messages import BalanceRequest, BalanceView, Committed, SubmitTransaction
from protocol.settlement import LedgerAction, sign_action
from sim.actors_keys import SimKey
from sim.actors_process import Process, Setting
from sim.actors_tasks import Promise

SUBMIT_TIMEOUT_MS = 1_500
RETRY_MS = 120
PASSING = NOT_FINAL | {Code.BUSY, Code.NOT_READY, Code.NOT_FINAL, Code.INSUFFICIENT_BALANCE}
"""What may be otherwise in a moment, or at a validator that is further."""

ROUNDS_MAX = 200
POOR_ROUNDS_MAX = 20
"""Without the money, others of the client's transactions wait, and one of them may bring it."""


class LedgerClient(Process):
    """Knows the validators by name and has a key with money."""

    role = "client"

    def __init__(
        self, setting: Setting, name: str, key: SimKey, validators: list[str], skew_us: int = 0
    ) -> None:
        super().__init__(setting, name, (), skew_us)
        self.key = key
        self.validators = validators
        self.open_transactions = 0
        self._turn: Promise[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether something of its own is still under way."""
        return bool(self.open_transactions)

    async def balance(self) -> BalanceView:
        """The own address as some validator knows it."""
        address = self.key.address
        while True:
            try:
                return await self.ask(
                    self.random.pick(self.validators),
                    BalanceView,
                    lambda request_id: BalanceRequest(request_id, address),
                )
            except (TimeoutError, RemoteFault):
                await self.sleep(RETRY_MS)

    async def send_action(self, action: LedgerAction) -> Committed | None:
        """Send a transaction until it is committed; None where it is refused for good."""
        self.open_transactions += 1
        while self._turn is not None:
            await self._turn
        self._turn = Promise()
        try:
            return await self._send_action(action)
        finally:
            done, self._turn = self._turn, None
            self.open_transactions -= 1
            done.resolve(None)

    async def _send_action(self, action: LedgerAction) -> Committed | None:
        poor = 0
        for _ in range(ROUNDS_MAX):
            nonce = (await self.balance()).nonce
            raw = sign_action(self.key, self.chain, nonce, action)
            answer = await self._until_committed(raw)
            if isinstance(answer, Committed):
                self.history.answered(answer)
                if answer.code not in NOT_FINAL:
                    self.history.count(f"ledger_{Code(answer.code).label}")
                    return answer
            elif answer not in PASSING:
                self.history.count(f"ledger_refused_{Code(answer).label}")
                return None
            poor += answer == Code.INSUFFICIENT_BALANCE
            if poor >= POOR_ROUNDS_MAX:
                break
            await self.sleep(RETRY_MS)
        self.history.count("ledger_gave_up")
        return None

    async def _until_committed(self, raw: bytes) -> Committed | int:
        """Send the same bytes to one validator after the other; the code where all refuse them."""
        code = int(Code.BUSY)
        order = self.random.shuffled(self.validators)
        refusals = 0
        for attempt in range(4 * len(order)):
            try:
                return await self.ask(
                    order[attempt % len(order)],
                    Committed,
                    lambda request_id: SubmitTransaction(request_id, raw),
                    SUBMIT_TIMEOUT_MS,
                )
            except TimeoutError:
                self.history.count("ledger_submissions_repeated")
                refusals = 0
            except RemoteFault as fault:
                code = fault.code
                refusals += 1
                if code not in PASSING or refusals > len(order):
                    return code
                await self.sleep(RETRY_MS)
        return code
