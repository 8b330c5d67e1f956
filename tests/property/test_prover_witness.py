"""A block on a witness ends as on the whole state, and who hides what counts is shown up.

`TRILEMMA_FLOW_SEEDS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from witness_world import Block, blocks, named, verify

from protocol.codec import encode
from protocol.errors import Code, Rejected
from prover.step_input import StepInput
from prover.steps import walk
from prover.witness import (
    NOTHING,
    Added,
    added,
    decode_witness,
    execute,
    leaf_count,
    require_larger,
    shown_hash,
)
from prover.witness_maker import Gathered, make

SEEDS = 3 * int(os.environ.get("TRILEMMA_FLOW_SEEDS", "1"))
BLOCKS = 60


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_witness_gives_what_the_state_gives_and_no_larger_one_does_otherwise(seed: int) -> None:
    rng, seen = random.Random(seed), Counter[str]()
    shown = there = 0
    for block in blocks(seed, BLOCKS):
        witness = make(block.chain, block.tree, block.step, verify_signature=verify)
        assert block.execute(witness) == block.result
        shown, there = shown + leaf_count(witness), there + len(block.tree)
        larger = block.some(rng, rng.choice((0.1, 0.4, 0.9)), witness)
        assert block.execute(larger) == block.result
        _lie(block, rng, seen)
    print(seen, f"{shown} leaves of {there} shown")
    assert seen["lies"] >= 5 and shown < 0.8 * there


def _lie(block: Block, rng: random.Random, seen: Counter[str]) -> None:
    """Execute the block on part of the state; the truth can always be told beside it."""
    partial = block.some(rng, rng.choice((0.05, 0.3, 0.8)))
    try:
        told = block.execute(partial)
    except Rejected as error:
        assert error.code == Code.BAD_WITNESS
        seen["refused"] += 1
        return
    if told == block.result:
        seen["true"] += 1
        return
    seen["lies"] += 1
    answer = make(block.chain, block.tree, block.step, partial, verify)
    shown = shown_hash(partial)
    assert require_larger(answer, added(answer, partial), shown) == shown_hash(answer)
    _refuse_smaller(partial, answer)
    assert block.execute(answer) == block.result


def _refuse_smaller(small: bytes, large: bytes) -> None:
    """Whoever shows less than was shown before, or the same, has shown nothing."""
    beyond, before = added(large, small), shown_hash(small)
    for lie in (
        NOTHING, Added(beyond.accounts, []), Added(beyond.accounts, beyond.leaves[1:]),
        Added(beyond.accounts, [*beyond.leaves, 0]), Added([], beyond.leaves),
    ):  # fmt: skip
        if {*lie.accounts} != {*beyond.accounts} or {*lie.leaves} != {*beyond.leaves}:
            with pytest.raises(Rejected, match="does not show all"):
                require_larger(large, lie, before)
    for one, nothing in ((small, NOTHING), (small, Added([1 << 40], [1 << 40]))):
        with pytest.raises(Rejected, match="shows nothing"):
            require_larger(one, nothing, before)
    with pytest.raises(Rejected, match="does not show all"):
        require_larger(small, added(small, large), shown_hash(large))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_step_of_a_block_can_be_shown(seed: int) -> None:
    rng, largest = random.Random(seed), Counter[str]()
    for block in blocks(seed, 90):
        before = block.tree.root
        with walk(block.chain, block.tree, block.step, verify) as walked:
            count = len(block.step.steps(block.engine()).plan)
            number = rng.randrange(count + 1)
            for shown in (number, min(number + 1, count)):
                root, witness = walked.to(shown), walked.witness(shown)
                step = block.step._replace(number=shown)
                after = execute(block.chain, root, witness, step, verify)
                for larger in _larger(rng, block, step, witness):
                    assert execute(block.chain, root, larger, step, verify) == after
                assert after == walked.to(shown + 1)
                stage = str(step.scope(block.chain).stage)
                largest[stage] = max(largest[stage], len(witness))
        assert block.tree.root == before
        with walk(block.chain, block.tree, block.step, verify) as walked:
            ends = [walked.to(place) for place in (0, count, count + 5)]
        assert ends == [before, block.result, block.result]
    print(largest)


def test_a_batch_may_name_any_account() -> None:
    for number in (-1, 1 << 62, (1 << 64) - 1, 9_999 + (1 << 40)):
        block = named(number)
        witness = make(block.chain, block.tree, block.step, verify_signature=verify)
        assert block.execute(witness) == block.result


def _larger(rng: random.Random, block: Block, step: StepInput, witness: bytes) -> Iterator[bytes]:
    """Witnesses with one more account, for some of them, and with all."""
    shown = decode_witness(witness)
    accounts = [int.from_bytes(key[1:], "big") for key, _ in block.tree.iterate(b"a")]
    missing = [one for one in accounts if one not in shown.accounts]
    for more in [*([one] for one in rng.sample(missing, min(2, len(missing)))), missing]:
        found = Gathered(block.tree, step.scope(block.chain))
        found.add(shown)
        found.note(more)
        yield encode(found.witness(rng.choice((0, 2))))


def test_a_step_is_executed_in_its_place_alone() -> None:
    block = list(blocks(7, 6))[-1]
    with walk(block.chain, block.tree, block.step, verify) as walked:
        witness, root = walked.witness(3), walked.to(3)
    for number in (0, 2, 4, 1 << 18):
        with pytest.raises(Rejected, match=r"stands before step 3|hides|cover"):
            execute(block.chain, root, witness, block.step._replace(number=number), verify)


def test_witnesses_that_break_a_rule_are_refused() -> None:
    block = list(blocks(5, 30))[-1]
    witness = make(block.chain, block.tree, block.step, verify_signature=verify)
    whole = decode_witness(witness)
    proof = whole.proof

    def refused(text: str, raw: bytes) -> None:
        with pytest.raises(Rejected, match=text) as caught:
            block.execute(raw)
        assert caught.value.code == Code.BAD_WITNESS

    def proven(keys: set[bytes], accounts: list[int] | None = None) -> bytes:
        shown = whole.accounts if accounts is None else accounts
        return encode(type(whole)(shown, block.tree.prove(keys)))

    keys = {key for key, _ in proof.leaves}
    refused("ascend", encode(type(whole)(whole.accounts[1:], proof)))
    refused("ascend", encode(type(whole)(whole.accounts[::-1], proof)))
    refused("ascend", encode(type(whole)([*whole.accounts, whole.accounts[-1]], proof)))
    refused("no account", encode(type(whole)([-1, *whole.accounts], proof)))
    refused("master is missing", encode(type(whole)([*whole.accounts, 999 + (1 << 55)], proof)))
    refused("other root", encode(type(whole)(whole.accounts, proof.__class__((), (), ()))))
    for kind in (b"m", b"f", b"g"):
        hidden = {key for key in keys if key[:1] != kind}
        refused(r"hides|cover", proven(hidden))
    some = next(key for key in keys if key[:1] == b"p" and int.from_bytes(key[1:9], "big") > 16)
    beside = {key for key in keys if key[:9] != some[:9]}
    refused(r"hides|cover", proven(beside))
    for garbage in (b"", b"\x00", witness[:-1], witness + b"\x00", encode([1, 2, 3])):
        refused("the witness is refused", garbage)
