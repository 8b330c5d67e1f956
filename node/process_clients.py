"""The public port of a validator: submissions, followers of the ledger, questions about it."""

from __future__ import annotations

from collections.abc import Callable

from net.service import ClientSession, PublicService
from node.app import ExecutedBlock
from node.clients import SubmissionDesk
from node.journey import Journey
from node.outcomes import NOT_FINAL
from node.process_machines import Machines
from node.rounds import Outgoing, Round
from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.keys import address_of
from protocol.messages import (
    BalanceRequest,
    BatchRequest,
    BlocksFrom,
    Committed,
    EpochRequest,
    HeaderRequest,
    InboxRequest,
    LedgerNews,
    ProofRequest,
    SubmitTransaction,
    SubscribeLedger,
    ValidatorsRequest,
    ValidatorsView,
)
from protocol.messages_disputes import DisputesRequest
from protocol.messages_trace import TraceRequest

MAX_VALIDATORS_SHOWN = 1_024
"""Most validators in one answer."""

MAX_SUBSCRIBERS = 256
"""Most sessions that follow the ledger."""


class LedgerClients:
    """Clients of one validator. `machines` may be exchanged between rounds.

    `pass_on` sends messages to the other validators at once, `wake` calls for a round, `now_ms` is
    the process's clock, `arrived` is told each new transaction.
    """

    def __init__(
        self,
        machines: Machines,
        pass_on: Callable[[list[Outgoing]], None],
        wake: Callable[[], None],
        now_ms: Callable[[], int],
        arrived: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self.machines = machines
        self.desk = SubmissionDesk()
        self._journey = Journey(machines.ledger)
        self._height = machines.ledger.height
        self._pass_on = pass_on
        self._wake = wake
        self._now_ms = now_ms
        self._arrived = arrived
        self._subscribers: dict[ClientSession, int] = {}
        # Executed, but not yet on disk.
        self._settling: set[bytes] = set()

    def register(self, service: PublicService) -> None:
        """Have the port answer every request that a validator knows."""
        for request, handler in (
            (SubmitTransaction, self._submit),
            (SubscribeLedger, self._subscribe),
            (HeaderRequest, lambda _, request: self.machines.queries.header(request)),
            (BatchRequest, lambda _, request: self.machines.queries.batch(request)),
            (BalanceRequest, lambda _, request: self.machines.queries.balance(request)),
            (InboxRequest, lambda _, request: self.machines.queries.inbox(request)),
            (BlocksFrom, lambda _, request: self.machines.queries.blocks(request)),
            (ProofRequest, lambda _, request: self.machines.queries.proof(request)),
            (EpochRequest, lambda _, request: self.machines.queries.epoch(request)),
            (ValidatorsRequest, lambda _, request: self._validators(request)),
            (DisputesRequest, lambda _, request: self.machines.queries.disputes(request)),
            (TraceRequest, lambda _, request: self._trace(request)),
        ):
            service.on(request, handler)

    def takes_large(self, signer: bytes) -> bool:
        """Whether a signer (public key) may have large transactions to send: batches and their
        defence, and what challengers show."""
        ledger = self.machines.ledger
        return signer in ledger.provers or ledger.disputes.plays(address_of(signer))

    def start_anew(self, machines: Machines) -> None:
        """Other machines, with an empty pool, took over."""
        self.machines = machines
        self._journey = Journey(machines.ledger)
        self._height = machines.ledger.height
        text = "this validator lagged and started anew; send the transaction again"
        self.desk.drop_all(Code.NOT_READY, text)

    # --- rounds

    def begin(self, done: Round) -> None:
        """A round is being written: what it holds is neither new nor answered yet."""
        self._settling = {one.id for block in done.executed for one in block.outcome.results}

    def publish(self, done: Round) -> None:
        """A round is durable: answer and announce what it executed, and what it gave up."""
        self._settling.clear()
        if done.executed:
            self._height = self.machines.ledger.height
            self.machines.queries.set_tip()
        for executed in done.executed:
            self._announce(executed)
        for identity in done.expired:
            text = "the transaction waited too long; is an earlier nonce of its sender missing?"
            self.desk.dropped(identity, Code.NOT_READY, text)
        for displaced in done.displaced:
            self.desk.dropped(displaced.id, displaced.code, displaced.text)
        if done.swept:
            self.desk.forget_closed()

    def _announce(self, executed: ExecutedBlock) -> None:
        outcome = executed.outcome
        self._journey.note(outcome, self.machines.ledger, self._now_ms())
        for result in outcome.results:
            self.desk.committed(result.id, outcome.height, int(result.code), result.text)
        for identity in executed.outdated:
            text = "another transaction of this sender has used the nonce"
            self.desk.dropped(identity, Code.BAD_LEDGER_NONCE, text)
        inbox_count = self.machines.ledger.entries_at(outcome.height)
        final_block = self.machines.ledger.final().last_block
        for session, request_id in list(self._subscribers.items()):
            if session.link.writable:
                session.send(
                    LedgerNews(
                        request_id,
                        outcome.height,
                        outcome.time_ms,
                        inbox_count,
                        outcome.batches,
                        final_block,
                    )
                )
            else:
                # News that cannot be kept whole is worth nothing: the follower subscribes anew.
                session.link.close("slow_consumer")

    # --- requests

    def _submit(self, session: ClientSession, request: SubmitTransaction) -> Wire | None:
        self.desk.require_room(session)
        machines, raw = self.machines, request.transaction
        identity = machines.ledger.envelopes.identity(raw)
        known = machines.store.outcome(identity)
        if known is not None and known.code not in NOT_FINAL:
            return Committed(request.request_id, identity, known.height, known.code, known.text)
        messages: list[Outgoing] = []
        if identity not in self._settling:
            messages = machines.validator.submit(raw, self._now_ms())[1]
        self.desk.wait(identity, session, request.request_id)
        if messages:
            self._arrived(raw)
            self._pass_on(messages)
            self._wake()
        return None

    def _subscribe(self, session: ClientSession, request: SubscribeLedger) -> Wire | None:
        if session in self._subscribers or len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise Rejected(
                Code.TOO_MANY_SUBSCRIPTIONS,
                f"a session follows the ledger once, and {MAX_SUBSCRIBERS} sessions may",
            )
        self._subscribers[session] = request.request_id

        def leave() -> None:
            self._subscribers.pop(session, None)

        session.on_close.append(leave)
        # The ledger may be a block ahead, whose news are still to come.
        inbox_count = self.machines.ledger.entries_at(self._height)
        time_ms = self.machines.queries.tip_time_ms
        final_block = self.machines.ledger.final().last_block
        return LedgerNews(request.request_id, self._height, time_ms, inbox_count, [], final_block)

    def _trace(self, request: TraceRequest) -> Wire:
        return self._journey.marks(request, self.machines.ledger)

    def _validators(self, request: ValidatorsRequest) -> Wire:
        leaves = sorted(self.machines.ledger.validators(), key=lambda leaf: -leaf.stake_uusd)
        keys = [leaf.public_key for leaf in leaves[:MAX_VALIDATORS_SHOWN]]
        return ValidatorsView(request.request_id, keys)
