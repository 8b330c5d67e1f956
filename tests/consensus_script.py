"""Runs consensus scenarios: text files of commands and what they print.

Every member is a real replica. Messages wait until a command delivers, drops or repeats them, so a
script decides what each member has seen at each moment. A delivery takes a millisecond; otherwise
time stands still until `tick`.

Commands, one per line; members are numbers:

    cluster SIZE [stakes=A,B,..] [epochs=0123,1234]   start, everybody rejoined
    submit OP                  give every member an operation to order
    deliver [FILTER..]         deliver what waits now (not what that causes)
    settle                     deliver everything until nothing waits
    drop [FILTER..] / hold [FILTER..] / release              lose, set aside, bring back messages
    repeat KIND FROM TO        deliver a message a second time
    tick MS                    time passes; members act on their timers
    waiting                    list the messages that wait
    crash M.. / restart M.. / backup M / restore M           M's disk survives; restore: an old disk
    equivocate M OP / doublevote M / stale M / forge-tc M / garbage M    a member breaks the rules
    state [M..]                view, certificates, votes, commits
    log [M..]                  what is committed

A FILTER is kind=K,K from=M,M to=M,M or view=V; kinds are proposal, vote, timeout, certified,
rejoin, remembered, request, response. Output stands under `----`; it is written anew by
`pytest tests/scenarios --rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from hashlib import sha256
from typing import Any

from consensus_log import Disk, EpochLog
from msgspec.structs import replace

from consensus import (
    Broadcast,
    Committed,
    Effect,
    EpochBegan,
    Event,
    MemberSet,
    Misbehaviour,
    Persist,
    PersistBlock,
    Received,
    Replica,
    ReplicaConfig,
    Send,
    Start,
    Tick,
    Work,
)
from protocol.chain import (
    QC,
    TC,
    Block,
    BlocksRequest,
    BlocksResponse,
    Certified,
    Header,
    Proposal,
    Rejoin,
    Remembered,
    Signature,
    Timeout,
    TimeoutSignature,
    Vote,
    genesis_header,
    payload_hash,
    proposal_digest,
    timeout_digest,
    vote_digest,
)
from protocol.errors import SafetyViolation
from sim.bank import SimKey, sim_verify

CHAIN = sha256(b"scenario").digest()
START_MS = 1_000_000
CONFIG = ReplicaConfig(
    block_interval_ms=0, empty_interval_ms=0, idle_interval_ms=None, timeout_ms=100,
    timeout_max_ms=800, fetch_timeout_ms=50, prove_roots=False,
)  # fmt: skip
KINDS: dict[type, str] = {
    Proposal: "proposal", Vote: "vote", Timeout: "timeout", Certified: "certified",
    Rejoin: "rejoin", Remembered: "remembered", BlocksRequest: "request",
    BlocksResponse: "response",
}  # fmt: skip


class Message:
    """A message on its way."""

    def __init__(self, source: int, target: int, content: Any) -> None:
        self.source, self.target, self.content = source, target, content
        self.kind = KINDS[type(content)]

    @property
    def view(self) -> int | None:
        if isinstance(self.content, Proposal):
            return self.content.block.header.view
        return getattr(self.content, "view", None)

    def text(self) -> str:
        return f"{self.source} -> {self.target}: {describe(self.content)}"


def describe(message: Any) -> str:
    """A message in a few words."""
    if isinstance(message, Proposal):
        header, timeout = message.block.header, message.block.timeout
        what = f' "{message.block.payload.decode()}"' if message.block.payload else " empty"
        after = "" if timeout is None else f" after TC {timeout.view}"
        return f"proposal v{header.view} h{header.height}{what} on QC {header.parent_view}{after}"
    if isinstance(message, Vote):
        return f"vote v{message.view} h{message.height}"
    if isinstance(message, Timeout):
        return f"timeout v{message.view} with QC {message.high_qc.view}"
    if isinstance(message, Certified):
        tc = "" if message.tc is None else f", TC {message.tc.view}"
        return f"certified QC {message.qc.view}{tc}"
    if isinstance(message, BlocksRequest):
        return f"request for blocks above {message.above_height}"
    if isinstance(message, BlocksResponse):
        heights = [block.header.height for block in message.blocks]
        return f"response with {f'blocks {heights[0]}-{heights[-1]}' if heights else 'no blocks'}"
    return KINDS[type(message)]


class Script:
    """The members of one scenario, and the messages between them."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.now_ms = START_MS
        self.keys: list[SimKey] = []
        self.replicas: dict[int, Replica] = {}
        self.disks: list[Disk] = []
        self.backups: dict[int, Disk] = {}
        self.wire: list[Message] = []
        self.aside: list[Message] = []
        self.seen: list[Message] = []
        self.history: dict[int, bytes] = {}
        self.starting: set[int] = set()

    def run(self, command: str) -> list[str]:
        """The lines that a command prints; a broken promise is an AssertionError."""
        self.out = []
        verb, *words = command.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        getattr(self, "do_" + verb.replace("-", "_"))([w for w in words if "=" not in w], options)
        return self.out or ["ok"]

    # --- commands

    def do_cluster(self, words: list[str], options: dict[str, str]) -> None:
        self.plan = options["epochs"].split(",") if "epochs" in options else [
            "".join(str(index) for index in range(int(words[0])))
        ]  # fmt: skip
        size = int(words[0])
        self.keys = [SimKey(str(index)) for index in range(size)]
        given = options.get("stakes")
        self.stakes = [int(one) for one in given.split(",")] if given else [1] * size
        self.seats = [[int(digit) for digit in one] for one in self.plan]
        self.genesis = genesis_header(CHAIN, START_MS, bytes(32))
        self.disks = [Disk() for _ in range(size)]
        self.pending: list[list[bytes]] = [[] for _ in range(size)]
        self.starting = set(range(size))
        for index in range(size):
            self.boot(index)
        self.starting = set()
        self.settle()
        self.out = []

    def do_submit(self, words: list[str], options: dict[str, str]) -> None:
        operation = " ".join(words).encode()
        self.now_ms += 1
        for index, pending in enumerate(self.pending):
            pending.append(operation)
            if index in self.replicas:
                self.app(index).pending.append(operation)
                self.step(index, Work())

    def do_deliver(self, words: list[str], options: dict[str, str]) -> None:
        self.now_ms += 1
        for message in self.take(options):
            self.hand_over(message)

    def do_settle(self, words: list[str], options: dict[str, str]) -> None:
        before = {index: replica.committed_height for index, replica in self.replicas.items()}
        self.settle()
        self.out = [line for line in self.out if "!" in line]
        for index, replica in self.replicas.items():
            if replica.committed_height > before.get(index, 0):
                self.out.append(f"{index} commits up to h{replica.committed_height}")

    def do_drop(self, words: list[str], options: dict[str, str]) -> None:
        self.out = [f"lost: {message.text()}" for message in self.take(options)]

    def do_hold(self, words: list[str], options: dict[str, str]) -> None:
        held = self.take(options)
        self.aside += held
        self.out = [f"held: {message.text()}" for message in held]

    def do_release(self, words: list[str], options: dict[str, str]) -> None:
        self.wire += self.aside
        self.aside = []

    def do_repeat(self, words: list[str], options: dict[str, str]) -> None:
        kind, source, target = words[0], int(words[1]), int(words[2])
        old = [m for m in self.seen if (m.kind, m.source, m.target) == (kind, source, target)]
        self.hand_over(old[-1])

    def do_tick(self, words: list[str], options: dict[str, str]) -> None:
        until_ms = self.now_ms + int(words[0])
        while True:
            due = [
                (d, i) for i, r in self.replicas.items() if (d := r.next_deadline_ms()) is not None
            ]
            moment, index = min(due, default=(until_ms + 1, 0))
            if moment > until_ms:
                break
            self.now_ms = max(self.now_ms, moment)
            self.step(index, Tick())
            if self.replicas[index].next_deadline_ms() == moment:
                break
        self.now_ms = until_ms

    def do_waiting(self, words: list[str], options: dict[str, str]) -> None:
        self.out = [message.text() for message in self.wire] or ["nothing"]

    def do_crash(self, words: list[str], options: dict[str, str]) -> None:
        for index in map(int, words):
            del self.replicas[index]
            self.wire = [m for m in self.wire if m.target != index]

    def do_restart(self, words: list[str], options: dict[str, str]) -> None:
        for index in map(int, words):
            self.replicas.pop(index, None)
            self.boot(index)

    def do_backup(self, words: list[str], options: dict[str, str]) -> None:
        self.backups[int(words[0])] = deepcopy(self.disks[int(words[0])])

    def do_restore(self, words: list[str], options: dict[str, str]) -> None:
        index = int(words[0])
        self.replicas.pop(index, None)
        self.disks[index] = deepcopy(self.backups[index])
        self.boot(index)

    def do_equivocate(self, words: list[str], options: dict[str, str]) -> None:
        """Member M signs a second block for the view of the proposal that it just sent."""
        index, operation = int(words[0]), " ".join(words[1:]).encode()
        first = next(m for m in reversed(self.wire + self.seen)
                     if m.source == index and m.kind == "proposal").content  # fmt: skip
        header = replace(first.block.header, payload_hash=payload_hash(operation))
        block = replace(first.block, header=header, payload=operation)
        second = Proposal(block, self.keys[index].sign(proposal_digest(header.block_id())))
        targets = [int(t) for t in options["to"].split(",")]
        for target in targets:
            self.wire = [m for m in self.wire if not (
                m.source == index and m.target == target and m.kind == "proposal")]  # fmt: skip
            self.wire.append(Message(index, target, second))

    def do_doublevote(self, words: list[str], options: dict[str, str]) -> None:
        """Member M votes for the last proposal that `seen` got, whatever it voted for."""
        index, target = int(words[0]), int(options["to"])
        proposal = next(m for m in reversed(self.seen) if m.kind == "proposal"
                        and m.target == int(options["seen"])).content  # fmt: skip
        self.wire.append(Message(index, target, self.vote(index, proposal.block.header)))

    def do_stale(self, words: list[str], options: dict[str, str]) -> None:
        """Member M proposes in the current view of `to`, on a certificate that is too low."""
        index, target = int(words[0]), int(options["to"])
        replica = self.replicas[target]
        tc = replica._safety.high_tc
        header = Header(
            CHAIN, 0, replica.view, 1, self.genesis.block_id(), 0, self.now_ms, index,
            payload_hash(b"stale"), replica._origin.digest(), 0, bytes(32), 1,
        )  # fmt: skip
        block = Block(header, b"stale", replica._origin, tc)
        signature = self.keys[index].sign(proposal_digest(header.block_id()))
        self.wire.append(Message(index, target, Proposal(block, signature)))

    def do_forge_tc(self, words: list[str], options: dict[str, str]) -> None:
        """Member M sends a timeout certificate that has its own signature alone, thrice."""
        index, target, view = int(words[0]), int(options["to"]), int(options["view"])
        qc = self.replicas[target]._origin
        sign = self.keys[index].sign(timeout_digest(CHAIN, 0, view, qc.view))
        signatures = [TimeoutSignature(member, qc.view, sign) for member in range(3)]
        tc = TC(CHAIN, 0, view, qc, signatures)
        self.wire.append(Message(index, target, Certified(qc, tc)))

    def do_forge_qc(self, words: list[str], options: dict[str, str]) -> None:
        """Member M sends a QC for a block of its own making, with too few or false votes."""
        index, target, view = int(words[0]), int(options["to"]), int(options["view"])
        block_id = sha256(b"made up").digest()
        digest = vote_digest(CHAIN, 0, view, view, block_id)
        signers = [int(one) for one in options["signers"].split(",")]
        signatures = [Signature(member, self.keys[index].sign(digest)) for member in signers]
        qc = QC(CHAIN, 0, view, view, block_id, signatures)
        self.wire.append(Message(index, target, Certified(qc, None)))

    def do_counters(self, words: list[str], options: dict[str, str]) -> None:
        """Counters of member M whose name begins with a word."""
        replica = self.replicas[int(words[0])]
        for name, count in sorted(replica.counters.items()):
            if any(name.startswith(prefix) for prefix in words[1:]):
                self.out.append(f"{name} {count}")

    def do_state(self, words: list[str], options: dict[str, str]) -> None:
        for index in [int(word) for word in words] or sorted(self.replicas):
            replica = self.replicas[index]
            safety = replica._safety
            epoch = f" epoch {replica.members.epoch}" if len(self.plan) > 1 else ""
            seat = "" if replica.index is not None else " observes"
            tc = "" if safety.high_tc is None else f" TC {safety.high_tc.view}"
            self.out.append(
                f"{index}:{epoch}{seat} view {replica.view}, QC {safety.high_qc.view}{tc}, "
                f"voted in {safety.last_voted_view}, committed h{replica.committed_height}"
            )

    def do_log(self, words: list[str], options: dict[str, str]) -> None:
        for index in [int(word) for word in words] or sorted(self.replicas):
            self.out.append(
                f"{index}: {' '.join(op.decode() for op in self.app(index).log) or '-'}"
            )

    # --- machinery

    def app(self, index: int) -> EpochLog:
        app = self.replicas[index]._app
        if not isinstance(app, EpochLog):
            raise TypeError(app)
        return app

    def vote(self, index: int, header: Header) -> Vote:
        block_id = header.block_id()
        digest = vote_digest(CHAIN, header.epoch, header.view, header.height, block_id)
        signature = self.keys[index].sign(digest)
        return Vote(CHAIN, header.epoch, header.view, header.height, block_id, index, signature)

    def boot(self, index: int) -> None:
        disk = self.disks[index]
        app = EpochLog(CHAIN, START_MS, self.keys, self.seats, self.stakes)
        recovered = disk.recover()
        for height in sorted(disk.chain):
            app.commit(*disk.chain[height])
        app.pending = [op for op in self.pending[index] if op not in app.log]
        self.replicas[index] = Replica(
            CONFIG, app.members(), self.keys[index], app, self.genesis, recovered,
            stored=disk.chain.get, verifier=sim_verify,
        )  # fmt: skip
        self.step(index, Start())

    def numbers(self, index: int) -> Callable[[int], int]:
        """How a member's replica numbers the others."""
        members = self.replicas[index].members

        def number(other: int) -> int:
            seat = members.index_of(self.keys[other].public)
            return 1_000_000 + other if seat is None else seat

        return number

    def name(self, members: MemberSet, number: int) -> int:
        if number >= 1_000_000:
            return number - 1_000_000
        return next(i for i, key in enumerate(self.keys) if key.public == members.keys[number])

    def hand_over(self, message: Message) -> None:
        if message.target not in self.replicas:
            return
        self.seen.append(message)
        self.out.append(message.text())
        peer = self.numbers(message.target)(message.source)
        self.step(message.target, Received(peer, message.content))

    def step(self, index: int, event: Event) -> None:
        replica, disk = self.replicas[index], self.disks[index]
        refused = {
            n: c for n, c in replica.counters.items() if n.startswith(("rejected", "not_voted"))
        }
        members = replica.members
        try:
            effects = replica.step(event, self.now_ms)
        except SafetyViolation as error:
            self.out.append(f"  ! {index} stops: {str(error).split(':')[0]}")
            del self.replicas[index]
            return
        for name, count in replica.counters.items():
            if name.startswith(("rejected", "not_voted")) and count > refused.get(name, 0):
                self.out.append(f"  ! {index} refuses: {name.removeprefix('rejected_')}")
        for effect in effects:
            if isinstance(effect, EpochBegan):
                members = effect.members
            self.carry_out(index, effect, members, disk)

    def carry_out(self, index: int, effect: Effect, members: MemberSet, disk: Disk) -> None:
        if isinstance(effect, PersistBlock):
            disk.blocks[effect.block.header.block_id()] = effect.block
        elif isinstance(effect, Persist):
            disk.state = effect.state
        elif isinstance(effect, Committed):
            self.committed(index, effect, disk)
        elif isinstance(effect, EpochBegan):
            self.out.append(f"  ! {index} begins epoch {effect.members.epoch}")
        elif isinstance(effect, Misbehaviour):
            culprit = self.name(members, effect.evidence.member)
            what = type(effect.evidence).__name__
            self.out.append(f"  ! {index} has evidence: {what} of {culprit}")
        elif isinstance(effect, Send):
            self.post(index, self.name(members, effect.member), effect.message)
        elif isinstance(effect, Broadcast):
            for other in range(len(self.keys)):
                if other != index:
                    self.post(index, other, effect.message, quiet=True)
            self.out.append(f"  {index} -> all: {describe(effect.message)}")

    def post(self, source: int, target: int, content: Any, *, quiet: bool = False) -> None:
        message = Message(source, target, content)
        if target in self.replicas or target in self.starting:
            self.wire.append(message)
        if not quiet:
            self.out.append(f"  {message.text()}")

    def committed(self, index: int, effect: Committed, disk: Disk) -> None:
        header = effect.block.header
        block_id = header.block_id()
        if self.history.setdefault(header.height, block_id) != block_id:
            raise AssertionError(f"two blocks are committed at height {header.height}")
        ends = effect.certificate.height == header.height
        disk.chain[header.height] = (effect.block, effect.certificate if ends else None)
        payload = f' "{effect.block.payload.decode()}"' if effect.block.payload else ""
        self.out.append(f"  {index} commits h{header.height}{payload}")

    def settle(self) -> None:
        for _ in range(400):
            if not self.wire:
                return
            self.now_ms += 1
            for message in self.take({}):
                self.hand_over(message)
        raise AssertionError("messages never come to an end")

    def take(self, options: dict[str, str]) -> list[Message]:
        """Remove and return the waiting messages that a filter matches."""
        chosen = list(matching(self.wire, options))
        self.wire = [message for message in self.wire if message not in chosen]
        return chosen


def matching(messages: Sequence[Message], options: dict[str, str]) -> Iterator[Message]:
    """Messages that fit all filters."""
    kinds = options.get("kind", "").split(",") if "kind" in options else None
    sources = [int(one) for one in options["from"].split(",")] if "from" in options else None
    targets = [int(one) for one in options["to"].split(",")] if "to" in options else None
    for message in messages:
        if kinds is not None and message.kind not in kinds:
            continue
        if sources is not None and message.source not in sources:
            continue
        if targets is not None and message.target not in targets:
            continue
        if "view" in options and message.view != int(options["view"]):
            continue
        yield message
