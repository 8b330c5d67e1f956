"""A process of the simulator: turns, timers, requests and answers, crashes and pauses.

What the shells get from asyncio and from sessions, on the kernel and the network of the simulator.
A process handles one input after the other. While it waits for its disk, or is paused, inputs
queue up. Requests are sent again by whoever asked, as connections break; a stream answers with as
many pushes as its window allows and is asked again from where it got to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault, SafetyViolation
from protocol.genesis import Chain
from protocol.messages import ErrorFrame
from sim.actors_tasks import Promise, Pulse, Tasks
from sim.disk import Disk, DiskRule
from sim.kernel import US_PER_MS, Kernel
from sim.network import Network
from sim.pipeline_history import History

T = TypeVar("T")

INPUTS_MAX = 20_000
"""Messages and timers that may wait while a process is paused or waits for its disk."""

STREAM_WINDOW = 256
"""Pushes of a stream before its reader has to ask again."""

ASK_TIMEOUT_MS = 400


@dataclass
class Setting:
    """What all processes of one run share."""

    kernel: Kernel
    network: Network
    chain: Chain
    history: History
    disk_rule: DiskRule = field(default_factory=DiskRule)

    def genesis_ms(self) -> int:
        """Unix time at which the virtual clock starts."""
        return self.chain.genesis.time_ms


class Process:
    """One process; `boot` builds its machines from its disks and may be called again after `crash`.

    `disks` are the names of its disks: files that are synced one by one lose their tails one by
    one.
    """

    role = "process"

    def __init__(
        self, setting: Setting, name: str, disks: tuple[str, ...] = (), skew_us: int = 0
    ) -> None:
        self.setting = setting
        self.kernel, self.network, self.chain = setting.kernel, setting.network, setting.chain
        self.history = setting.history
        self.name = name
        self.random = self.kernel.stream(f"process {name}")
        self.disks = {
            disk: Disk(self.kernel, f"{name} {disk}", setting.disk_rule) for disk in disks
        }
        self.alive = False
        self.paused = False
        self.boots = 0
        self.tasks = Tasks()
        self.honest = True
        self.doomed = False
        """Whether the process dies within its next sync."""
        self._skew_us = skew_us
        self._blocked = False
        self._in_turn = False
        self._inputs: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._asked: dict[int, tuple[type[Any], Promise[Any]]] = {}
        self._streams: dict[int, Callable[[Any], None]] = {}
        self._request_id = 0
        self._handlers: dict[type[Any], Callable[[str, Any], Wire | None]] = {}

    # --- life

    def boot(self) -> None:
        """Start from what is on disk; `crash` first where it runs."""
        self.alive, self.paused, self._blocked = True, False, False
        self.doomed = False
        self.boots += 1
        self.tasks = Tasks()
        self._inputs.clear()
        self._asked.clear()
        self._streams.clear()
        self._handlers = {}
        self.network.attach(self.name, self._arrived)
        self.kernel.trace("boot", self.name)
        self._input(self.start)

    def start(self) -> None:
        """Build the machines and spawn the coroutines: the first turn."""
        raise SafetyViolation(f"{self.role} does not say how it starts")

    def crash(self) -> None:
        """Stop at once: what is not synced may be lost."""
        if not self.alive:
            return
        self.kernel.trace("crash", self.name)
        self.history.count(f"crashed_{self.role}")
        self.alive = False
        self.network.detach(self.name)
        self.tasks.drop()
        self._inputs.clear()
        for disk in self.disks.values():
            disk.crash()

    def pause(self) -> None:
        """Stand still: a virtual machine that is not scheduled."""
        if self.alive:
            self.paused = True
            self.history.count(f"paused_{self.role}")

    def resume(self) -> None:
        """Go on with everything that came meanwhile."""
        self.paused = False
        self._pump()

    # --- time

    def now_ms(self) -> int:
        """This process's wall clock."""
        return self.setting.genesis_ms() + (self.kernel.now_us + self._skew_us) // US_PER_MS

    def later(self, delay_ms: int, callback: Callable[..., None], *args: Any) -> None:
        """Take an input after a delay, unless the process ends before."""
        self.kernel.after(max(0, delay_ms) * US_PER_MS, self._timer, self.boots, callback, args)

    def _timer(self, boot: int, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        if boot == self.boots and self.alive:
            self._input(callback, *args)

    def sleep(self, delay_ms: int) -> Promise[None]:
        """Done after a delay."""
        done: Promise[None] = Promise()
        self.later(delay_ms, done.resolve, None)
        return done

    def first_of(self, pulse: Pulse, timeout_ms: int) -> Promise[None]:
        """Done at the pulse, or after a delay."""
        done = self.sleep(timeout_ms)
        pulse.wait().on_done(lambda: done.resolve(None))
        return done

    # --- turns

    @property
    def waiting_inputs(self) -> int:
        """Messages and timers that wait for their turn."""
        return len(self._inputs)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of this process."""
        self.tasks.spawn(work)

    def _arrived(self, source: str, message: Any) -> None:
        self._input(self.receive, source, message)

    def _input(self, callback: Callable[..., None], *args: Any) -> None:
        if len(self._inputs) >= INPUTS_MAX:
            self.history.count("inputs_dropped")
            return
        self._inputs.append((callback, args))
        self._pump()

    def _pump(self) -> None:
        if self._in_turn:
            return
        self._in_turn = True
        try:
            while self.alive and not self.paused and not self._blocked:
                if self._inputs:
                    callback, args = self._inputs.popleft()
                    callback(*args)
                elif not self.tasks.ready:
                    break
                self.tasks.run_ready(self._is_blocked)
        except SafetyViolation as violation:
            self._in_turn = False
            self.history.stopped(self.name, str(violation), self.honest)
            self.crash()
        finally:
            self._in_turn = False

    def _is_blocked(self) -> bool:
        return self._blocked or not self.alive

    def block_until_synced(self, then: Callable[[], None], *chosen: Disk) -> None:
        """Sync disks (all of them, or those chosen); nothing else happens before `then`."""
        disks = list(chosen) or list(self.disks.values())
        delay_us = sum(disk.sync_time_us() for disk in disks if disk.dirty)
        if not delay_us:
            self._sync_now(disks)
            then()
            return
        self._blocked = True
        self.meet_doom(delay_us)
        self.kernel.after(delay_us, self._synced, self.boots, disks, then)

    def _synced(self, boot: int, disks: list[Disk], then: Callable[[], None]) -> None:
        if boot != self.boots or not self.alive:
            return
        self._sync_now(disks)
        self._blocked = False
        self._inputs.appendleft((then, ()))
        self._pump()

    def meet_doom(self, within_us: int) -> None:
        """A sync of this length begins; a doomed process will not see the end of it."""
        if self.doomed:
            self.doomed = False
            self.history.count("crashed_in_sync")
            self.kernel.after(self.random.below(within_us + 1), self._die, self.boots)

    def _die(self, boot: int) -> None:
        if boot == self.boots:
            self.crash()

    @staticmethod
    def _sync_now(disks: list[Disk]) -> None:
        for disk in disks:
            if disk.dirty:
                disk.sync_now()

    def synced(self) -> Promise[None]:
        """Await it after writing: the whole process waits for its disks."""
        done: Promise[None] = Promise()
        self.block_until_synced(lambda: done.resolve(None))
        return done

    # --- messages

    def on(self, request: type[T], handler: Callable[[str, T], Wire | None]) -> None:
        """Serve a kind of request: the handler answers, answers later (None), or refuses."""
        self._handlers[request] = handler

    def send(self, target: str, message: Wire) -> None:
        """Send a message; nobody says whether it arrives."""
        self.network.send(self.name, target, message)

    def receive(self, source: str, message: Any) -> None:
        """Take a message: a request, an answer, or a push."""
        handler = self._handlers.get(type(message))
        if handler is None:
            self._answered(message)
            return
        try:
            answer = handler(source, message)
        except Rejected as error:
            answer = ErrorFrame(message.request_id, error.code, error.text)
        if answer is not None:
            self.send(source, answer)

    def _answered(self, message: Any) -> None:
        request_id = getattr(message, "request_id", 0)
        push = self._streams.get(request_id)
        if push is not None:
            push(message)
            return
        found = self._asked.pop(request_id, None)
        if found is None:
            self.history.count("late_answers")
            return
        expected, promise = found
        if isinstance(message, ErrorFrame):
            promise.fail(RemoteFault(message.code, message.text))
        elif isinstance(message, expected):
            promise.resolve(message)
        else:
            promise.fail(RemoteFault(Code.UNKNOWN_MESSAGE, "an answer of another kind"))

    def next_request_id(self) -> int:
        """A request id that none of this process's earlier requests had."""
        self._request_id += 1
        return self._request_id

    def ask(
        self,
        target: str,
        answer: type[T],
        request: Callable[[int], Wire],
        timeout_ms: int = ASK_TIMEOUT_MS,
    ) -> Promise[T]:
        """Ask once; raises `RemoteFault` or `TimeoutError` where it is awaited."""
        request_id = self.next_request_id()
        promise: Promise[T] = Promise()
        self._asked[request_id] = (answer, promise)
        self.send(target, request(request_id))
        self.later(timeout_ms, self._gave_up, request_id)
        return promise

    def _gave_up(self, request_id: int) -> None:
        found = self._asked.pop(request_id, None)
        if found is not None:
            found[1].fail(TimeoutError())

    def open_stream(self, push: Callable[[Any], None]) -> int:
        """Request id whose answers all go to `push`."""
        request_id = self.next_request_id()
        self._streams[request_id] = push
        return request_id

    def close_stream(self, request_id: int) -> None:
        """Its late pushes count as late answers."""
        self._streams.pop(request_id, None)


class StreamServer(Generic[T]):
    """Serves records in order to whoever subscribed, a window at a time.

    `read(request_id, position)` gives the message at a position and the position behind it, None
    where there is none yet.
    """

    def __init__(
        self, process: Process, read: Callable[[int, int], tuple[Wire, int] | None]
    ) -> None:
        self._process = process
        self._read = read
        self._readers: dict[str, tuple[int, int, int]] = {}

    def subscribe(self, source: str, request_id: int, position: int) -> None:
        """Stream to `source` from a position on; replaces its last subscription."""
        self._readers[source] = (request_id, position, STREAM_WINDOW)
        self._push(source)

    def grown(self) -> None:
        """There is something new."""
        for source in list(self._readers):
            self._push(source)

    def _push(self, source: str) -> None:
        request_id, position, room = self._readers[source]
        while room:
            found = self._read(request_id, position)
            if found is None:
                break
            message, position = found
            room -= 1
            self._process.send(source, message)
        self._readers[source] = (request_id, position, room)


class StreamReader:
    """Follows one kind of stream from one server after the other.

    `request(request_id)` is made anew for every subscription and says where to go on; `take`
    returns whether a push was the next one. Silence, a gap and a used-up window subscribe anew.
    """

    def __init__(
        self,
        process: Process,
        servers: list[str],
        request: Callable[[int], Wire],
        take: Callable[[Any], bool],
        quiet_ms: int = 500,
    ) -> None:
        self._process = process
        self._servers = servers
        self._request = request
        self._take = take
        self._quiet_ms = quiet_ms
        self._server = 0
        self._request_id = 0
        self._taken = 0
        self._seen = 0
        self._subscribed_us = -1

    def start(self) -> None:
        """Subscribe, and watch over the subscription."""
        self._subscribe()
        self._process.later(self._quiet_ms, self._watch, 0)

    def _subscribe(self) -> None:
        process = self._process
        process.close_stream(self._request_id)
        self._request_id = process.open_stream(self._pushed)
        self._taken = 0
        self._subscribed_us = process.kernel.now_us
        process.send(self._servers[self._server], self._request(self._request_id))

    def _watch(self, seen: int) -> None:
        if self._seen == seen:
            self._next_server()
        self._process.later(self._quiet_ms, self._watch, self._seen)

    def _next_server(self) -> None:
        self._server = (self._server + 1) % len(self._servers)
        self._subscribe()

    def _pushed(self, message: Any) -> None:
        if isinstance(message, ErrorFrame):
            return
        try:
            next_one = self._take(message)
        except Rejected:
            self._process.history.count("streams_rejected")
            self._next_server()
            return
        if next_one:
            self._seen += 1
            self._taken += 1
            if self._taken >= STREAM_WINDOW:
                self._subscribe()
        elif self._process.kernel.now_us - self._subscribed_us > 50 * US_PER_MS:
            self._process.history.count("stream_gaps")
            self._subscribe()
