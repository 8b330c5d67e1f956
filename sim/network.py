"""A network between named nodes: delay, loss, repetition, reordering, partitions, bandwidth.

Rules may change at any time and hold for messages sent from then on; a partition also takes what
is under way. What a fault did to at least one message is counted in `bit`, so that a run can show
that its faults were more than intentions. Links keep their order, as TCP does, unless a rule says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocol.codec import encode
from protocol.errors import ConfigError
from sim.kernel import US_PER_S, Kernel
from sim.random import PPM, SplitMix64

Handler = Callable[[str, Any], None]
"""(name of the source, message): takes a message that arrived."""

MAX_DOUBLINGS = 16


class Delay(Protocol):
    """How long a message takes, in microseconds."""

    def draw(self, random: SplitMix64, source: str, target: str) -> int:
        """Delay of one message."""


@dataclass(frozen=True)
class Constant:
    """Always the same delay."""

    delay_us: int

    def draw(self, random: SplitMix64, source: str, target: str) -> int:
        return self.delay_us


@dataclass(frozen=True)
class Uniform:
    """Any delay from `low_us` to `high_us`, equally likely."""

    low_us: int
    high_us: int

    def draw(self, random: SplitMix64, source: str, target: str) -> int:
        return random.between(self.low_us, self.high_us)


@dataclass(frozen=True)
class LongTail:
    """At least `least_us`, and more than k times as much with a probability of about 1/k, as in a
    Pareto distribution of shape 1, cut at `most_us`."""

    least_us: int
    most_us: int

    def draw(self, random: SplitMix64, source: str, target: str) -> int:
        bits = random.next()
        doublings = 0
        while bits & 1 and doublings < MAX_DOUBLINGS:
            bits >>= 1
            doublings += 1
        low = self.least_us << doublings
        return min(random.between(low, 2 * low), self.most_us)


@dataclass(frozen=True)
class Regions:
    """Delays by the regions of the two ends, with a uniform jitter on top.

    `region` names each node's row and column of `matrix_us`; other nodes are in the first.
    """

    region: Mapping[str, int]
    matrix_us: Sequence[Sequence[int]]
    jitter_ppm: int = 100_000

    def draw(self, random: SplitMix64, source: str, target: str) -> int:
        base = self.matrix_us[self.region.get(source, 0)][self.region.get(target, 0)]
        return base + random.below(base * self.jitter_ppm // PPM + 1)


@dataclass(frozen=True)
class LinkRule:
    """What happens to messages of one direction of a link.

    `reorder_ppm`: share of messages that are held back by up to `reorder_us`, past later ones.
    `ordered`: messages otherwise arrive in the order in which they were sent.
    `bytes_per_s`: None for no limit.
    """

    delay: Delay = field(default_factory=lambda: Uniform(500, 1_500))
    loss_ppm: int = 0
    duplicate_ppm: int = 0
    reorder_ppm: int = 0
    reorder_us: int = 50_000
    ordered: bool = True
    bytes_per_s: int | None = None


class _Link:
    __slots__ = ("free_us", "held_us", "last_us", "rule")

    def __init__(self, rule: LinkRule) -> None:
        self.rule = rule
        self.last_us = 0
        self.held_us = 0
        self.free_us = 0


Pair = tuple[str, str]


class Network:
    """Carries messages between attached nodes.

    Messages are shared objects; with `decode` every message is encoded and decoded again on its
    way, which proves that it survives the wire. `censor` (source, target, message) may name
    messages that an adversary who reads them loses. A queue in front of a bandwidth limit holds
    `max_queue_us` of traffic and drops what is beyond.
    """

    def __init__(
        self,
        kernel: Kernel,
        default: LinkRule | None = None,
        *,
        decode: Callable[[bytes], Any] | None = None,
        max_queue_us: int = US_PER_S,
    ) -> None:
        self.bit: dict[str, int] = {}
        self.sent = 0
        self.delivered = 0
        self.censor: Callable[[str, str, Any], bool] | None = None
        self._kernel = kernel
        self._random = kernel.stream("network")
        self._default = default if default is not None else LinkRule()
        self._decode = decode
        self._max_queue_us = max_queue_us
        self._handlers: dict[str, Handler] = {}
        self._rules: dict[Pair, LinkRule] = {}
        self._links: dict[Pair, _Link] = {}
        self._cuts: dict[str, frozenset[Pair]] = {}
        self._cut: frozenset[Pair] = frozenset()
        self._node_bytes_per_s: dict[str, int] = {}
        self._node_free_us: dict[str, int] = {}

    def attach(self, name: str, handler: Handler) -> None:
        """Deliver messages for `name` to `handler`, replacing the one before."""
        self._handlers[name] = handler

    def detach(self, name: str) -> None:
        """Drop messages for `name` on arrival: its process is down."""
        self._handlers.pop(name, None)

    @property
    def sized(self) -> bool:
        """Whether sizes matter now, so that a sender need not compute them otherwise."""
        limited = any(rule.bytes_per_s is not None for rule in self._rules.values())
        return limited or bool(self._node_bytes_per_s) or self._default.bytes_per_s is not None

    def set_default(self, rule: LinkRule) -> None:
        """The rule of every link that has none of its own."""
        self._default = rule
        self._renew()

    def set_link(self, source: str, target: str, rule: LinkRule | None) -> None:
        """The rule of one direction of a link; None for the default."""
        if rule is None:
            self._rules.pop((source, target), None)
        else:
            self._rules[(source, target)] = rule
        self._renew()

    def clear_links(self) -> None:
        """Every link follows the default again."""
        self._rules.clear()
        self._renew()

    def set_bandwidth(self, name: str, bytes_per_s: int | None) -> None:
        """Limit what a node sends on all its links together; None for no limit."""
        if bytes_per_s is None:
            self._node_bytes_per_s.pop(name, None)
        elif bytes_per_s < 1:
            raise ConfigError("a bandwidth must be at least one byte per second")
        else:
            self._node_bytes_per_s[name] = bytes_per_s

    def cut(self, name: str, pairs: Iterable[Pair]) -> None:
        """Cut the (source, target) directions under a name, replacing that name's cut before."""
        self._cuts[name] = frozenset(pairs)
        self._join_cuts()

    def partition(self, name: str, groups: Sequence[Iterable[str]]) -> None:
        """Cut everything between nodes that share no group; one in two groups is a bridge."""
        members = [frozenset(group) for group in groups]
        nodes = sorted(frozenset().union(*members))
        self.cut(
            name,
            [
                (a, b)
                for a in nodes
                for b in nodes
                if a != b and not any(a in group and b in group for group in members)
            ],
        )

    def cut_one_way(self, name: str, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Cut messages from `sources` to `targets`, while answers still pass."""
        receivers = list(targets)
        self.cut(name, [(a, b) for a in sources for b in receivers if a != b])

    def heal(self, name: str | None = None) -> None:
        """Mend the cut of a name, or all of them."""
        if name is None:
            self._cuts.clear()
        else:
            self._cuts.pop(name, None)
        self._join_cuts()

    def send(self, source: str, target: str, message: Any, size_bytes: int = 0) -> None:
        """Send a message; whether and when it arrives is up to the rules."""
        self.sent += 1
        pair = (source, target)
        if pair in self._cut:
            self._bite("partitioned")
            return
        link = self._links.get(pair)
        if link is None:
            rule = self._rules.get(pair, self._default)
            link = self._links[pair] = _Link(rule)
        rule = link.rule
        random = self._random
        if random.chance(rule.loss_ppm):
            self._bite("lost")
            return
        if self.censor is not None and self.censor(source, target, message):
            self._bite("censored")
            return
        if self._decode is not None:
            raw = encode(message)
            size_bytes = len(raw)
            message = self._decode(raw)
        leaves_us = self._queue(source, link, size_bytes)
        if leaves_us is None:
            self._bite("queue_full")
            return
        self._carry(link, source, target, message, leaves_us)
        if random.chance(rule.duplicate_ppm):
            self._bite("repeated")
            self._carry(link, source, target, message, leaves_us)

    def _carry(self, link: _Link, source: str, target: str, message: Any, leaves_us: int) -> None:
        rule, random = link.rule, self._random
        arrives_us = leaves_us + rule.delay.draw(random, source, target)
        if random.chance(rule.reorder_ppm):
            arrives_us += random.below(rule.reorder_us + 1)
            link.held_us = max(link.held_us, arrives_us)
        else:
            if arrives_us < link.last_us and rule.ordered:
                arrives_us = link.last_us
            if arrives_us < max(link.held_us, link.last_us):
                self._bite("reordered")
            link.last_us = max(link.last_us, arrives_us)
        self._kernel.at(arrives_us, self._deliver, source, target, message)

    def _queue(self, source: str, link: _Link, size_bytes: int) -> int | None:
        """When the last byte leaves, behind what waits before it; None where too much does."""
        now_us = self._kernel.now_us
        leaves_us = now_us
        node_rate = self._node_bytes_per_s.get(source)
        link_rate = link.rule.bytes_per_s
        if node_rate is None and link_rate is None:
            return now_us
        if node_rate is not None:
            leaves_us = max(leaves_us, self._node_free_us.get(source, 0))
            leaves_us += size_bytes * US_PER_S // node_rate
        link_us = leaves_us
        if link_rate is not None:
            link_us = max(leaves_us, link.free_us) + size_bytes * US_PER_S // link_rate
        if link_us - now_us > self._max_queue_us:
            return None
        if node_rate is not None:
            self._node_free_us[source] = leaves_us
        link.free_us = link_us
        self._bite("queued")
        return link_us

    def _deliver(self, source: str, target: str, message: Any) -> None:
        if self._cut and (source, target) in self._cut:
            self._bite("partitioned")
            return
        handler = self._handlers.get(target)
        if handler is None:
            self._bite("receiver_down")
            return
        self.delivered += 1
        handler(source, message)

    def _bite(self, kind: str) -> None:
        self.bit[kind] = self.bit.get(kind, 0) + 1

    def _renew(self) -> None:
        for pair, link in self._links.items():
            link.rule = self._rules.get(pair, self._default)

    def _join_cuts(self) -> None:
        self._cut = frozenset().union(*self._cuts.values())
