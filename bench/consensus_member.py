"""One member of the consensus benchmark, a process of its own: `bench.consensus_net` starts four.

Reads its plan as one line of JSON, connects, says ``ready``, waits for the line that names the
start, and prints its figures as one line of JSON at the end. A round is as in a validator: all
events that wait, one sync, then the messages.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import uvloop

from bench.consensus_load import BatchApplication, Pool
from consensus import (
    Broadcast,
    Committed,
    Effect,
    Event,
    MemberSet,
    Persist,
    PersistBlock,
    Received,
    Replica,
    ReplicaConfig,
    Send,
    Start,
    Tick,
    VotingState,
    Work,
)
from net.mesh import Peer, PeerMesh
from net.tls import client_context, make_certificate, server_context
from protocol.chain import Block, CommitCertificate, Member, decode_consensus, genesis_header
from protocol.codec import Decoder, Wire, encode
from protocol.errors import TrilemmaError
from protocol.keys import Key
from store.segments import SegmentLog

CHAIN = bytes(31) + b"\x01"
ARRIVALS_MS = 1


class Plan(msgspec.Struct, frozen=True):
    """What one member does. `rate` per second and member, 0 for saturation; `sync` says how a round
    is made durable: in a ``thread``, ``inline``, or ``none`` (to see what durability costs)."""

    index: int
    seeds: list[str]
    ports: list[int]
    directory: str
    batch: int
    rate: int
    warm_s: float
    seconds: float
    block_interval_ms: int
    empty_interval_ms: int
    sync: str


class Figures(msgspec.Struct, frozen=True):
    """What one member measured, in the window behind the warm-up.

    Latencies are milliseconds of its own transactions until the round of their commit was durable:
    from entering the pool, and from being proposed.
    """

    index: int
    transactions: int
    blocks: int
    rounds: int
    syncs: int
    entered_ms: dict[str, float]
    proposed_ms: dict[str, float]
    user_s: float
    system_s: float
    sent_bytes: int
    refused: int
    height: int
    root: str
    counters: dict[str, int]
    sync_ms: float


class VotingRecord(Wire, frozen=True, tag=1):
    """The voting state, replacing earlier ones."""

    state: VotingState


class BlockRecord(Wire, frozen=True, tag=2):
    """A block, not committed yet."""

    block: Block


class CommitRecord(Wire, frozen=True, tag=3):
    """A block stored before is final."""

    block_id: bytes
    certificate: CommitCertificate


decode_record: Decoder[VotingRecord | BlockRecord | CommitRecord] = Decoder(
    VotingRecord | BlockRecord | CommitRecord, canonical=False
)


class BenchMember:
    """Replica, mesh, log and load of one member."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        keys = [Key(bytes.fromhex(seed)) for seed in plan.seeds]
        key = keys[plan.index]
        certificates = [make_certificate(one, f"m{i}") for i, one in enumerate(keys)]
        own = certificates[plan.index]
        self._pool = Pool(plan.index, plan.batch, plan.rate, 20 * plan.batch)
        self._app = BatchApplication(plan.index, len(keys), self._pool, plan.batch)
        members = MemberSet(CHAIN, [Member(one.public, 1) for one in keys])
        config = ReplicaConfig(
            block_interval_ms=plan.block_interval_ms,
            empty_interval_ms=plan.empty_interval_ms,
            max_payload_bytes=3 << 20,
        )
        genesis = genesis_header(CHAIN, 1, self._app.root()[1])
        self._replica = Replica(config, members, key, self._app, genesis)
        self._log = SegmentLog(Path(plan.directory))
        self._keys = [one.public for one in keys]
        contexts = (
            server_context(key, own, certificates),
            client_context(key, own, certificates),
        )
        self.mesh = PeerMesh(
            key.public,
            *contexts,
            self._on_frame,
            listen_host="127.0.0.1",
            listen_port=plan.ports[plan.index],
        )
        peers = zip(self._keys, plan.ports, strict=True)
        self.mesh.set_peers([Peer(one, "127.0.0.1", port) for one, port in peers], *contexts)
        self._events: deque[Event] = deque([Start()])
        self._wake = asyncio.Event()
        self._stopping = False
        self._last_ms = 0
        self._measuring = False
        self._entered: Counter[int] = Counter()
        self._proposed: Counter[int] = Counter()
        self._rounds = self._syncs = self._sync_ns = 0

    async def _on_frame(self, peer: bytes, frame: bytes) -> None:
        self._events.append(Received(self._keys.index(peer), decode_consensus(frame)))
        self._wake.set()

    # --- rounds

    def _now_ms(self) -> int:
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        return self._last_ms

    async def run(self) -> None:
        """Rounds until `stop`."""
        while not self._stopping:
            await self._wait()
            now_ms = self._now_ms()
            self._app.now_ns = time.monotonic_ns()
            effects: list[Effect] = []
            while self._events:
                effects += self._replica.step(self._events.popleft(), now_ms)
            deadline_ms = self._replica.next_deadline_ms()
            if deadline_ms is not None and deadline_ms <= now_ms:
                effects += self._replica.step(Tick(), now_ms)
            if effects:
                await self._carry_out(effects)
            self._rounds += 1

    async def _wait(self) -> None:
        self._wake.clear()
        if self._events or self._stopping:
            return
        deadline_ms = self._replica.next_deadline_ms()
        if deadline_ms is None:
            await self._wake.wait()
            return
        delay_ms = deadline_ms - time.time_ns() / 1e6
        if delay_ms > 0:
            # Not `wait_for`, which makes a task each time.
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_ms / 1000):
                    await self._wake.wait()

    async def _carry_out(self, effects: list[Effect]) -> None:
        """Make durable what the round asks for, then send its messages."""
        state: VotingState | None = None
        wrote = False
        messages: list[Send | Broadcast] = []
        for effect in effects:
            if isinstance(effect, PersistBlock):
                self._log.append(encode(BlockRecord(effect.block)))
                wrote = True
            elif isinstance(effect, Persist):
                state = effect.state
            elif isinstance(effect, Committed):
                header = effect.block.header
                self._log.append(encode(CommitRecord(header.block_id(), effect.certificate)))
                wrote = True
            elif isinstance(effect, Send | Broadcast):
                messages.append(effect)
        if state is not None:
            self._log.append(encode(VotingRecord(state)))
            wrote = True
        if wrote:
            await self._sync()
        for message in messages:
            if isinstance(message, Send):
                self.mesh.send(self._keys[message.member], encode(message.message))
            else:
                self.mesh.broadcast(encode(message.message))
        self._pool.refill(self._app.now_ns)
        self._note_finished()

    async def _sync(self) -> None:
        began_ns = time.perf_counter_ns()
        if self._plan.sync == "thread":
            pending = self._log.start_sync()
            if pending is not None:
                await asyncio.to_thread(pending.wait)
                self._log.finish_sync(pending)
        elif self._plan.sync == "inline":
            self._log.sync()
        else:
            self._log.flush()
        self._syncs += 1
        self._sync_ns += time.perf_counter_ns() - began_ns

    def _note_finished(self) -> None:
        if not self._app.finished:
            return
        now_ns = time.monotonic_ns()
        if self._measuring:
            for entered_ns, proposed_ns in self._app.finished:
                self._proposed[(now_ns - proposed_ns) // 10_000] += len(entered_ns)
                for moment_ns, count in Counter(entered_ns).items():
                    self._entered[(now_ns - moment_ns) // 10_000] += count
        self._app.finished.clear()

    # --- load and measurement

    async def arrivals(self) -> None:
        """Transactions enter at the planned rate."""
        while not self._stopping:
            if self._pool.arrive(time.monotonic_ns()):
                self._events.append(Work())
                self._wake.set()
            await asyncio.sleep(ARRIVALS_MS / 1000)

    async def measure(self, start_ns: int) -> Figures:
        """Run from `start_ns` (monotonic) through warm-up and window, and drain."""
        plan, app = self._plan, self._app
        await _sleep_until(start_ns)
        self._pool.begin(start_ns)
        self._pool.refill(start_ns)
        tasks = [asyncio.create_task(self.run())]
        if plan.rate:
            tasks.append(asyncio.create_task(self.arrivals()))
        await _watch(tasks, start_ns + int(plan.warm_s * 1e9))
        self._measuring = True
        before = self._totals()
        await _watch(tasks, start_ns + int((plan.warm_s + plan.seconds) * 1e9))
        after = self._totals()
        self._measuring = False
        self._pool.stopped = True
        await _watch(tasks, time.monotonic_ns() + 700_000_000)
        self._stopping = True
        self._wake.set()
        await asyncio.gather(*tasks)
        height, root = app.root()
        spent = [last - first for first, last in zip(before, after, strict=True)]
        return Figures(
            index=plan.index,
            transactions=int(spent[0]),
            blocks=int(spent[1]),
            rounds=int(spent[2]),
            syncs=int(spent[3]),
            sync_ms=round(spent[4] / 1e6 / max(1, spent[3]), 3),
            user_s=round(spent[5], 3),
            system_s=round(spent[6], 3),
            sent_bytes=int(spent[7]),
            entered_ms=_percentiles(self._entered),
            proposed_ms=_percentiles(self._proposed),
            refused=self._pool.refused,
            height=height,
            root=root.hex(),
            counters=dict(self._replica.counters),
        )

    def _totals(self) -> list[float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        sent = 0
        for peer in self.mesh.peers:
            session = self.mesh.link(peer.public_key).session
            sent += 0 if session is None else session.bytes_out
        return [
            self._app.transactions, self._replica.committed_height, self._rounds, self._syncs,
            self._sync_ns, used.ru_utime, used.ru_stime, sent,
        ]  # fmt: skip

    async def close(self) -> None:
        """Close links and log."""
        await self.mesh.close()
        self._log.close()


def _percentiles(histogram: Counter[int]) -> dict[str, float]:
    """p50, p90, p99 and the greatest of a histogram in steps of 10 us, as milliseconds."""
    total = sum(histogram.values())
    result: dict[str, float] = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        left = total * share
        for step in sorted(histogram):
            left -= histogram[step]
            if left <= 0:
                result[name] = step / 100
                break
    return result


async def _sleep_until(moment_ns: int) -> None:
    await asyncio.sleep(max(0, moment_ns - time.monotonic_ns()) / 1e9)


async def _watch(tasks: list[asyncio.Task[None]], until_ns: int) -> None:
    """Sleep; an exception of a task ends the benchmark at once."""
    timeout_s = max(0, until_ns - time.monotonic_ns()) / 1e9
    done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def serve(plan: Plan, read_line: Callable[[], str]) -> Figures:
    """One member from its plan to its figures."""
    member = BenchMember(plan)
    await member.mesh.start()
    while len(member.mesh.connected) < len(plan.seeds) - 1:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    start_ns = int(await asyncio.to_thread(read_line))
    figures = await member.measure(start_ns)
    await member.close()
    return figures


def main() -> int:
    """Read the plan, measure, print the figures."""
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    try:
        figures = uvloop.run(serve(plan, sys.stdin.readline))
    except TrilemmaError as error:
        print(f"member {plan.index}: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(figures).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
