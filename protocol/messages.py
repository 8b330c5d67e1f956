"""Messages of the public port: arrays ``[tag, request_id, ...]``.

A request names a `request_id` chosen by the client (1 or more); the answer carries the same one,
and so do the pushes of a subscription. An error frame is ``[0, request_id, code, text]``. Tags
below 64 are requests, from 64 on answers and pushes. Those of execution stand in
`protocol.messages_trading`.
"""

from __future__ import annotations

from protocol.chain import Block, CommitCertificate, Header
from protocol.codec import Decoder, Wire
from protocol.keys import domain_hash
from protocol.messages_disputes import DisputesRequest, DisputesView
from protocol.messages_market_data import (
    BookRequest,
    BookView,
    CandlesRequest,
    CandlesView,
    LiquidationsRequest,
    LiquidationsView,
    ReceiptRequest,
    ReceiptView,
    StatsRequest,
    StatsView,
    SubscribeLiquidations,
    TradesRequest,
    TradesView,
)
from protocol.messages_states import StatePartRequest, StatePartView
from protocol.messages_trace import TraceRequest, TraceView
from protocol.messages_trading import (
    AccountRequest,
    AccountView,
    DiffPush,
    EventsPush,
    MarginRequest,
    MarginView,
    OrdersRequest,
    OrderStatusRequest,
    OrderStatusView,
    OrdersView,
    PreviewRequest,
    PreviewView,
    ResultRequest,
    ResultView,
    StandingRequest,
    StandingView,
    SubscribeDiffs,
    SubscribeEvents,
)
from protocol.ordering import OrderedChunk, Receipt
from protocol.settlement import BatchHeader, InboxEntry, OutboxEntry

WIRE_VERSION = 1
CLIENT_FRAME_BYTES = 256 * 1024
NODE_FRAME_BYTES = 8 * 1024 * 1024


class ErrorFrame(Wire, frozen=True, tag=0):
    """A request was refused; `request_id` is 0 where the frame was too broken to tell."""

    request_id: int
    code: int
    text: str


# --- requests that every process answers


class Hello(Wire, frozen=True, tag=1):
    """Opens a session; `chain_id` may be empty to ask which chain this is."""

    request_id: int
    version: int
    chain_id: bytes
    client: str


class Authenticate(Wire, frozen=True, tag=2):
    """Proves a signer to the session: a signature over `session_digest` of its challenge."""

    request_id: int
    scheme: int
    signer: bytes
    signature: bytes


class StatusRequest(Wire, frozen=True, tag=3):
    """Ask for the process's status."""

    request_id: int


# --- sequencer


class Submit(Wire, frozen=True, tag=4):
    """An encoded `SignedBatch` to be ordered."""

    request_id: int
    batch: bytes


class SubmitOnDisconnect(Wire, frozen=True, tag=6):
    """An encoded `SignedBatch` to be submitted when this session ends; answered with `Done`.

    Usually a `CancelAll`. It takes the place of one that the signer gave for the same account; an
    empty `batch` takes back all that this session gave. See `sequencer.on_disconnect` for what is
    promised.
    """

    request_id: int
    batch: bytes


class SubscribeLog(Wire, frozen=True, tag=5):
    """Stream ordered blocks from `from_height` on."""

    request_id: int
    from_height: int


# --- validator, prover


class SubmitTransaction(Wire, frozen=True, tag=20):
    """An encoded `SignedTransaction` for the ledger. Answered when it is committed."""

    request_id: int
    transaction: bytes


class HeaderRequest(Wire, frozen=True, tag=21):
    """Ask for a committed header with its certificate; height 0 means the newest."""

    request_id: int
    height: int


class BatchRequest(Wire, frozen=True, tag=22):
    """Ask for a settled batch's header; number 0 means the newest."""

    request_id: int
    shard: int
    number: int


class BalanceRequest(Wire, frozen=True, tag=23):
    """Ask for an address's ledger balance, nonce and account number."""

    request_id: int
    address: bytes


class InboxRequest(Wire, frozen=True, tag=24):
    """Ask for inbox entries and the proof that they are all up to a ledger height.

    Refused with not_retained where the ledger has forgotten the first of them: its `SweptLeaf` says
    from which one on it has them.
    """

    request_id: int
    from_index: int
    limit: int


class BlocksFrom(Wire, frozen=True, tag=25):
    """Ask for committed ledger blocks upward from a height, as many as fit a frame."""

    request_id: int
    from_height: int
    limit: int


class SubscribeLedger(Wire, frozen=True, tag=26):
    """Push a `LedgerNews` for every committed ledger block from now on."""

    request_id: int


class ProofRequest(Wire, frozen=True, tag=27):
    """Ask for a proof of ledger leaves under the newest certified ledger root."""

    request_id: int
    keys: list[bytes]


class EpochRequest(Wire, frozen=True, tag=28):
    """To a validator: how `number`, 1 or higher, became the epoch after the one before."""

    request_id: int
    number: int


class ValidatorsRequest(Wire, frozen=True, tag=29):
    """To a validator: whose leaves to ask for, to see all validators."""

    request_id: int


class WithdrawalRequest(Wire, frozen=True, tag=40):
    """To a prover: the proof that a withdrawal is in a settled batch."""

    request_id: int
    number: int


class StateProofRequest(Wire, frozen=True, tag=41):
    """To a prover: the proof of 1 to 64 leaves of the shard's state after its newest batch."""

    request_id: int
    keys: list[bytes]


Request = (
    Hello | Authenticate | StatusRequest | Submit | SubmitOnDisconnect | SubscribeLog
    | SubscribeEvents | SubscribeDiffs
    | AccountRequest | BookRequest | ResultRequest | OrdersRequest | CandlesRequest | StatsRequest
    | TradesRequest | OrderStatusRequest | MarginRequest | PreviewRequest | LiquidationsRequest
    | SubscribeLiquidations | ReceiptRequest | StandingRequest | SubmitTransaction
    | HeaderRequest | BatchRequest | BalanceRequest | InboxRequest | BlocksFrom | SubscribeLedger
    | ProofRequest | EpochRequest | ValidatorsRequest | WithdrawalRequest | StateProofRequest
    | DisputesRequest | StatePartRequest | TraceRequest
)  # fmt: skip


# --- answers and pushes


class Welcome(Wire, frozen=True, tag=64):
    """Answer to `Hello`: who this is, and the challenge of the session."""

    request_id: int
    version: int
    chain_id: bytes
    shard: int
    role: str
    name: str
    time_ms: int
    challenge: bytes


class Done(Wire, frozen=True, tag=65):
    """The request was carried out and has nothing more to say."""

    request_id: int


class Status(Wire, frozen=True, tag=66):
    """A process's status: flat names and numbers or texts."""

    request_id: int
    values: dict[str, int | str]


class Accepted(Wire, frozen=True, tag=67):
    """The batch is durable and will be ordered; the receipt proves the promise."""

    request_id: int
    receipt: Receipt


class Ordered(Wire, frozen=True, tag=68):
    """Push, request id of the `Submit`: the batch's block is committed."""

    request_id: int
    height: int
    time_ms: int


class LogChunk(Wire, frozen=True, tag=69):
    """Push: consecutive ordered blocks."""

    request_id: int
    chunk: OrderedChunk


class Committed(Wire, frozen=True, tag=80):
    """A ledger transaction is in a committed block; `code` says whether it took effect."""

    request_id: int
    transaction_id: bytes
    height: int
    code: int
    text: str


class HeaderView(Wire, frozen=True, tag=81):
    """A committed header and the certificate that commits it, or a descendant at `tip`."""

    request_id: int
    header: Header
    certificate: CommitCertificate


class BatchView(Wire, frozen=True, tag=82):
    """A settled batch: its header and the ledger block that settled it.

    `final_batch`, `final_block`: the newest final batch and its last ordered block, 0 for none.
    `left_ms`: the ledger's own time until this batch's window has passed, as a disputed one can
    take longer.
    """

    request_id: int
    header: BatchHeader
    ledger_height: int
    ledger_time_ms: int
    final_batch: int = 0
    final_block: int = 0
    left_ms: int = 0

    @property
    def is_final(self) -> bool:
        """Whether nothing can remove the batch any more."""
        return self.header.number <= self.final_batch


class BalanceView(Wire, frozen=True, tag=83):
    """An address on the ledger; `account` 0 means it never deposited."""

    request_id: int
    address: bytes
    balance_uusd: int
    nonce: int
    account: int
    ledger_height: int


class InboxView(Wire, frozen=True, tag=84):
    """Inbox entries with their heights, and the newest certified ledger root that covers them.

    `entries`: (ledger height of the entry, entry). `proof` is a `TreeProof` (encoded) of the inbox
    leaf under `header.app_root`, which is the ledger after block `header.app_height`.
    """

    request_id: int
    entries: list[tuple[int, InboxEntry]]
    header: Header
    certificate: CommitCertificate
    proof: bytes


class BlocksView(Wire, frozen=True, tag=85):
    """Committed ledger blocks in order and the certificate of the last one."""

    request_id: int
    blocks: list[Block]
    certificate: CommitCertificate


class LedgerNews(Wire, frozen=True, tag=86):
    """Push: a ledger block was committed; what it settled, how far the inbox goes, and the last
    ordered block of the newest batch that is final."""

    request_id: int
    height: int
    time_ms: int
    inbox_count: int
    batches: list[BatchHeader]
    final_block: int = 0


class ProofView(Wire, frozen=True, tag=87):
    """Encoded `TreeProof` of the requested keys under `header.app_root`."""

    request_id: int
    header: Header
    certificate: CommitCertificate
    proof: bytes


class EpochView(Wire, frozen=True, tag=88):
    """Answer to `EpochRequest`: the last block of the epoch before, certified by that epoch's
    members, and the encoded `TreeProof` of the `EpochLeaf` of `number` under its `app_root`."""

    request_id: int
    number: int
    header: Header
    certificate: CommitCertificate
    proof: bytes


class ValidatorsView(Wire, frozen=True, tag=89):
    """Public keys of those with stake or unbonding, unproven; of the highest stakes if too many."""

    request_id: int
    keys: list[bytes]


class WithdrawalView(Wire, frozen=True, tag=90):
    """A withdrawal's entry, its settled batch, and the path to that batch's outbox root."""

    request_id: int
    batch: int
    entry: OutboxEntry
    path: list[bytes]


class StateProofView(Wire, frozen=True, tag=96):
    """Encoded `TreeProof` of the requested keys under the state root after batch `batch`, which is
    posted, and may still have to be settled."""

    request_id: int
    batch: int
    proof: bytes


Answer = (
    ErrorFrame | Welcome | Done | Status | Accepted | Ordered | LogChunk | EventsPush | DiffPush
    | AccountView | BookView | ResultView | OrdersView | CandlesView | StatsView | TradesView
    | OrderStatusView | LiquidationsView | ReceiptView | StandingView | MarginView | PreviewView
    | Committed | HeaderView | BatchView | BalanceView | InboxView | BlocksView | LedgerNews
    | ProofView | EpochView | ValidatorsView | WithdrawalView | StateProofView | DisputesView
    | StatePartView | TraceView
)  # fmt: skip

decode_request: Decoder[Request] = Decoder(Request, canonical=False)
decode_answer: Decoder[Answer] = Decoder(Answer, canonical=False)


def session_digest(chain_id: bytes, challenge: bytes) -> bytes:
    """What a client signs to prove a signer to its session."""
    return domain_hash(b"trilemma/session", chain_id, challenge)
