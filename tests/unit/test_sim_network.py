"""The simulated network: each fault does what it says, and says what it did."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.chain import BlocksRequest, decode_consensus
from protocol.errors import ConfigError
from sim.kernel import Kernel
from sim.network import Constant, LinkRule, LongTail, Network, Regions, Uniform

NAMES = ("a", "b", "c", "d")
DELAY = LinkRule(delay=Constant(1_000))


class Post:
    """A network whose deliveries are noted as (time, source, target, message)."""

    def __init__(self, rule: LinkRule = DELAY, **options: Any) -> None:
        self.kernel = Kernel(1)
        self.network = Network(self.kernel, rule, **options)
        self.got: list[tuple[int, str, str, Any]] = []
        for name in NAMES:
            self.network.attach(name, self._note(name))

    def _note(self, target: str) -> Any:
        return lambda source, message: self.got.append(
            (self.kernel.now_us, source, target, message)
        )

    def send_all(self) -> set[str]:
        """Which pairs can talk now, as "ab" for a to b."""
        self.got.clear()
        for source in NAMES:
            for target in NAMES:
                if source != target:
                    self.network.send(source, target, "hello")
        self.kernel.run(self.kernel.now_us + 10_000)
        return {source + target for _, source, target, _ in self.got}


def test_a_message_takes_the_delay_of_its_link() -> None:
    post = Post()
    post.network.set_link("a", "b", LinkRule(delay=Constant(7_000)))
    post.network.send("a", "b", 1)
    post.network.send("b", "a", 2)
    post.kernel.run(10_000)
    assert post.got == [(1_000, "b", "a", 2), (7_000, "a", "b", 1)]


def test_links_keep_their_order_unless_they_are_told_not_to() -> None:
    for ordered in (True, False):
        post = Post(LinkRule(delay=Uniform(0, 50_000), ordered=ordered))
        for number in range(50):
            post.network.send("a", "b", number)
        post.kernel.run(100_000)
        numbers = [message for *_, message in post.got]
        assert (numbers == sorted(numbers)) == ordered
        assert bool(post.network.bit.get("reordered")) != ordered


def test_held_back_messages_are_overtaken() -> None:
    post = Post(LinkRule(delay=Constant(100), reorder_ppm=200_000))
    for number in range(200):
        post.kernel.at(number * 1_000, post.network.send, "a", "b", number)
    post.kernel.run(1_000_000)
    numbers = [message for *_, message in post.got]
    assert sorted(numbers) == list(range(200))
    assert numbers != sorted(numbers)
    assert post.network.bit["reordered"] > 0


def test_loss_and_repetition_are_counted_message_by_message() -> None:
    post = Post(LinkRule(delay=Constant(1), loss_ppm=300_000, duplicate_ppm=300_000))
    for number in range(1_000):
        post.network.send("a", "b", number)
    post.kernel.run(100)
    bit = post.network.bit
    assert len(post.got) == 1_000 - bit["lost"] + bit["repeated"]
    assert 200 < bit["lost"] < 400
    assert 100 < bit["repeated"] < 310


def test_full_partition_bridge_and_healing() -> None:
    post = Post()
    everyone = {x + y for x in NAMES for y in NAMES if x != y}
    post.network.partition("p", [["a", "b"], ["c", "d"]])
    assert post.send_all() == {"ab", "ba", "cd", "dc"}
    post.network.partition("p", [["a", "b"], ["b", "c", "d"]])
    assert post.send_all() == everyone - {"ac", "ca", "ad", "da"}
    post.network.heal()
    assert post.send_all() == everyone
    assert post.network.bit["partitioned"] == 8 + 4


def test_a_one_way_cut_leaves_the_way_back() -> None:
    post = Post()
    post.network.cut_one_way("p", ["a"], NAMES)
    assert post.send_all() & {"ab", "ba", "ac", "ca"} == {"ba", "ca"}
    post.network.cut("q", [("b", "a")])
    post.network.heal("p")
    assert post.send_all() & {"ab", "ba"} == {"ab"}


def test_a_partition_takes_what_is_under_way() -> None:
    post = Post()
    post.network.send("a", "b", 1)
    post.network.partition("p", [["a"], ["b"]])
    post.kernel.run(5_000)
    assert post.got == []


def test_messages_wait_for_bandwidth_and_overflow() -> None:
    post = Post(max_queue_us=1_000_000)
    post.network.set_bandwidth("a", 1_000)
    assert post.network.sized
    for number in range(20):
        post.network.send("a", "b", number, 100)
    post.kernel.run(10_000_000)
    assert [at_us for at_us, *_ in post.got] == [100_000 * n + 1_000 for n in range(1, 11)]
    assert post.network.bit == {"queued": 10, "queue_full": 10}
    with pytest.raises(ConfigError):
        post.network.set_bandwidth("a", 0)


def test_a_down_receiver_gets_nothing() -> None:
    post = Post()
    post.network.detach("b")
    assert "ab" not in post.send_all()
    assert post.network.bit["receiver_down"] == 3


def test_what_survives_the_wire_arrives_as_another_equal_object() -> None:
    post = Post(decode=decode_consensus)
    message = BlocksRequest(bytes(32), 3, 9)
    post.network.send("a", "b", message)
    post.kernel.run(5_000)
    assert post.got[0][3] == message
    assert post.got[0][3] is not message


def test_an_adversary_may_lose_what_it_names() -> None:
    post = Post()
    post.network.censor = lambda source, target, message: source == "a"
    assert not {pair for pair in post.send_all() if pair.startswith("a")}
    assert post.network.bit["censored"] == 3


def test_long_tails_are_long_and_regions_apart() -> None:
    random = Kernel(3).stream("delays")
    tail = LongTail(1_000, 400_000)
    drawn = sorted(tail.draw(random, "a", "b") for _ in range(4_000))
    assert drawn[0] >= 1_000 and drawn[-1] <= 400_000
    assert drawn[2_000] < 4_000 < 64_000 < drawn[-40]
    regions = Regions({"a": 0, "b": 1}, ((1_000, 90_000), (90_000, 1_000)))
    assert 90_000 <= regions.draw(random, "a", "b") <= 99_000
    assert regions.draw(random, "a", "c") <= 1_100
