"""Sends signed batches to a sequencer over one session, in order, and sees to it that each arrives.

Refusals that say *later* (busy) are sent again after a wait; when the connection is lost, whatever
was not accepted is sent again in its order. The same signed bytes have the same nonce, so that a
batch which did arrive the first time is not executed twice.

Where there are several sequencers, one that orders nothing is left for the next, and what was
accepted but not ordered is sent there, too: a sequencer that died, or is cut off from the others,
may be the only one that has it.
"""

from __future__ import annotations

import asyncio
import time

from client.channel import RETRIED, Channel
from client.endpoint import Endpoint
from client.submission import Submission
from protocol.actions import batch_id
from protocol.codec import Decoder, encode
from protocol.errors import Code, Rejected, RemoteFault, TrilemmaError
from protocol.genesis import Chain
from protocol.messages import Accepted, Answer, ErrorFrame, Ordered, Submit
from protocol.ordering import Receipt, receipt_digest, verify_receipt

BUSY_WAIT_MS = 20
BUSY_WAIT_CAP_MS = 1_000

STALL_MS = 5_000
"""A sequencer that has ordered nothing for so long, while something waits, is left for another;
after each time that this did not help twice as long, up to `STALL_CAP_MS`."""

STALL_CAP_MS = 40_000
STALL_TIMES = 6
"""So many times as long a single batch may wait while others are ordered."""

_decode: Decoder[Answer] = Decoder(Accepted | Ordered | ErrorFrame, canonical=False)


class ReceiptVerifier:
    """Verifies receipts; receipts of one group commit share a signature, checked once."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._keys = [bytes.fromhex(s.public_key) for s in chain.genesis.sequencers]
        self._known: dict[tuple[int, bytes], bytes] = {}

    def verify(self, receipt: Receipt, raw: bytes) -> None:
        """Raise `Rejected` unless the receipt is a sequencer's and promises this batch."""
        if receipt.batch_id != batch_id(raw):
            raise Rejected(Code.BAD_PROOF, "the receipt names another batch")
        if not 0 <= receipt.sequencer < len(self._keys):
            raise Rejected(Code.UNKNOWN_SIGNER, f"there is no sequencer {receipt.sequencer}")
        chain_id = self._chain.chain_id
        digest = receipt_digest(chain_id, receipt.time_ms, receipt.root, receipt.size)
        group = (receipt.sequencer, digest)
        if receipt.size == 1 or self._known.get(group) != receipt.signature:
            verify_receipt(chain_id, self._keys[receipt.sequencer], receipt)
            if len(self._known) >= 256:
                self._known.clear()
            self._known[group] = receipt.signature


class Pipeline:
    """Submits over `channel`.

    `busy` counts refusals that were sent again, `resent` repeated batches, `reordered` the refused
    batches which later ones of this pipeline may have passed, and `moved` how often a sequencer
    that orders nothing was left for another.
    """

    def __init__(self, chain: Chain, channel: Channel, *, verify_receipts: bool = True) -> None:
        self.busy = 0
        self.resent = 0
        self.reordered = 0
        self.moved = 0
        self._channel = channel
        self._verifier = ReceiptVerifier(chain) if verify_receipts else None
        self._open: dict[int, Submission] = {}
        self._waiting: list[Submission] = []
        self._busy_wait_ms = BUSY_WAIT_MS
        self._endpoint: Endpoint | None = None
        self._retry: asyncio.Task[None] | None = None
        self._last_sent: Submission | None = None
        self._closed = False
        self._watch: asyncio.Task[None] | None = None
        self._stall_ms = STALL_MS
        self._ordered_ns = 0

    @property
    def _several(self) -> bool:
        """Whether another sequencer can be asked."""
        return self._channel.places > 1

    @property
    def unaccepted(self) -> int:
        """Batches that have no receipt yet."""
        return sum(not one.accepted_ns for one in (*self._open.values(), *self._waiting))

    async def submit(self, submission: Submission) -> None:
        """Send a batch; returns once it is handed to the connection (or queued for the next)."""
        if not submission.submitted_ns:
            submission.submitted_ns = time.perf_counter_ns()
        if self._waiting or self._retry is not None:
            self._waiting.append(submission)
            self._start_retry()
            return
        endpoint = self._endpoint
        if endpoint is None or not endpoint.connected:
            endpoint = await self._connect()
        self._send(endpoint, submission)
        if not endpoint.session.writable:
            try:
                await endpoint.drain()
            except ConnectionError:
                return

    async def _connect(self) -> Endpoint:
        endpoint = await self._channel.session()
        if endpoint is not self._endpoint:
            self._endpoint = endpoint
            endpoint.on_lost = self._on_lost
        return endpoint

    def _send(self, endpoint: Endpoint, submission: Submission) -> None:
        request_id = endpoint.next_request_id()
        submission.attempts += 1
        submission.sent_ns = time.perf_counter_ns()
        self._last_sent = submission
        self._open[request_id] = submission
        endpoint.attach(request_id, self._on_frame)
        try:
            endpoint.post(encode(Submit(request_id, submission.raw)))
        except ConnectionError:
            self._open.pop(request_id, None)
            self._waiting.append(submission)
            self._start_retry()
        if self._watch is None and self._several and not self._closed:
            self._watch = asyncio.get_running_loop().create_task(self._leave_stalled())

    def _on_frame(self, tag: int, frame: bytes) -> None:
        answer = _decode(frame)
        submission = self._open.get(answer.request_id)
        if submission is None:
            return
        if isinstance(answer, Accepted):
            self._accept(submission, answer.receipt)
            return
        self._forget(answer.request_id)
        if isinstance(answer, Ordered):
            submission.height = answer.height
            self._ordered_ns, self._stall_ms = time.perf_counter_ns(), STALL_MS
            submission.reach("ordered")
        elif isinstance(answer, ErrorFrame):
            self._refused(submission, answer)

    def _accept(self, submission: Submission, receipt: Receipt) -> None:
        if self._verifier is not None:
            try:
                self._verifier.verify(receipt, submission.raw)
            except Rejected as fault:
                submission.fail(RemoteFault(fault.code, f"bad receipt: {fault.text}"))
                return
        self._busy_wait_ms = BUSY_WAIT_MS
        submission.receipt = receipt
        submission.reach("accepted")

    def _refused(self, submission: Submission, answer: ErrorFrame) -> None:
        if answer.code in RETRIED or answer.code == Code.SESSION_NOT_PROVEN:
            self.busy += 1
            self.reordered += self._last_sent is not submission
            self._waiting.append(submission)
            self._start_retry()
        elif not (submission.executed_ns or (submission.accepted_ns and self._several)):
            submission.fail(RemoteFault(answer.code, answer.text))

    def _forget(self, request_id: int) -> None:
        self._open.pop(request_id, None)
        if self._endpoint is not None:
            self._endpoint.detach(request_id)

    def _on_lost(self) -> None:
        lost, self._open = self._open, {}
        self._endpoint = None
        again = [s for s in lost.values() if self._is_due_again(s)]
        self._waiting = again + self._waiting
        if self._waiting and not self._closed:
            self._start_retry()

    def _is_due_again(self, submission: Submission) -> bool:
        """Whether a batch of a lost session is sent again: what has its receipt, too, as soon as
        somebody else can order it."""
        if submission.error is not None:
            return False
        if submission.accepted_ns and not self._several:
            return False
        return not (submission.ordered_ns or submission.executed_ns)

    async def _leave_stalled(self) -> None:
        """While something waits, see to it that the sequencer orders."""
        while self._open and not self._closed:
            await asyncio.sleep(self._stall_ms / 5_000)
            oldest = next(iter(self._open.values()), None)
            if oldest is None:
                break
            now_ns, stall_ns = time.perf_counter_ns(), self._stall_ms * 1_000_000
            waits_ns = now_ns - oldest.sent_ns
            silent = min(waits_ns, now_ns - self._ordered_ns) > stall_ns
            if silent or waits_ns > STALL_TIMES * stall_ns:
                self.moved += 1
                self._stall_ms = min(2 * self._stall_ms, STALL_CAP_MS)
                await self._channel.move_on()
        self._watch = None

    def _start_retry(self) -> None:
        if self._retry is None and not self._closed:
            self._retry = asyncio.get_running_loop().create_task(self._resend())

    async def _resend(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._busy_wait_ms / 1000)
                self._busy_wait_ms = min(2 * self._busy_wait_ms, BUSY_WAIT_CAP_MS)
                endpoint = await self._connect()
                batches, self._waiting = self._waiting, []
                batches.sort(key=lambda submission: submission.submitted_ns)
                for submission in batches:
                    if submission.executed_ns or submission.error is not None:
                        continue
                    self.resent += submission.attempts > 0
                    if endpoint.connected:
                        self._send(endpoint, submission)
                    else:
                        self._waiting.append(submission)
        except TrilemmaError as error:
            failed, self._waiting = self._waiting, []
            for submission in failed:
                submission.fail(error)
        finally:
            self._retry = None
            if self._waiting and not self._closed:
                self._start_retry()

    async def resend_stale(self, submissions: list[Submission]) -> None:
        """Send batches again that were accepted long ago and not executed."""
        endpoint = await self._connect()
        for submission in submissions:
            self.resent += 1
            self._send(endpoint, submission)

    async def close(self) -> None:
        """Stop sending again what waits; the channel stays open."""
        self._closed = True
        tasks = [task for task in (self._retry, self._watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
