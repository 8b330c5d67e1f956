"""Old states of the tree, against trees built anew from the leaves that they had."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tree_world import KINDS, Leaves, apply_to_model, random_changes

from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from prover.tree import EMPTY_ROOT, StateTree, verify_first, verify_proof
from prover.tree_history import TreeHistory, decode_undo

FIRST = 17
"""Number of the batch before the first one recorded."""


class Past:
    """A tree with its history, and all states that it had as dictionaries."""

    def __init__(self, seed: int, batches: int, max_batches: int = 100) -> None:
        self.rng = random.Random(seed)
        self.make = KINDS[seed % len(KINDS)]
        self.tree = StateTree()
        self.states: dict[int, Leaves] = {FIRST: {}}
        self.history = TreeHistory(FIRST, EMPTY_ROOT, max_batches, 1 << 30)
        self.stored: dict[int, bytes] = {}
        for _ in range(batches):
            self.batch()

    def batch(self) -> None:
        number = self.history.newest + 1
        model = dict(self.states[number - 1])
        changes = random_changes(self.rng, model, self.make)
        undo: dict[bytes, bytes | None] = {}
        root = self.tree.update(changes, undo)
        assert undo == {
            key: model.get(key)
            for key, value in changes.items()
            if key in model or value is not None
        }
        apply_to_model(model, changes)
        self.states[number] = model
        self.stored[number] = self.history.record(number, undo, root)

    def root(self, number: int) -> bytes:
        return StateTree(self.states[number].items()).root

    def check(self, number: int) -> None:
        """Reopens a state and looks at all of it."""
        newest = self.history.newest
        with self.history.reopen(self.tree, number) as tree:
            assert tree.root == self.root(number) == self.history.root(number)
            assert list(tree.iterate()) == sorted(self.states[number].items())
            assert len(tree) == len(self.states[number])
        assert self.tree.root == self.root(newest)
        assert list(self.tree.iterate()) == sorted(self.states[newest].items())


@pytest.mark.parametrize("seed", range(24))
def test_every_kept_state_can_be_reopened_and_left(seed: int) -> None:
    past = Past(seed, 12)
    numbers = list(past.states)
    assert (past.history.oldest, past.history.newest) == (numbers[0], numbers[-1])
    for number in past.rng.sample(numbers, len(numbers)):
        past.check(number)


@pytest.mark.parametrize("seed", range(24))
def test_batches_rewinds_forgetting_and_restarts_in_any_order(seed: int) -> None:
    past = Past(seed, 3)
    rng, done = past.rng, set[str]()
    for _ in range(40):
        history = past.history
        step = rng.choice(["batch", "batch", "check", "check", "rewind", "forget", "restart"])
        number = rng.randint(history.oldest, history.newest)
        if step == "batch":
            past.batch()
        elif step == "check":
            past.check(number)
        elif step == "rewind":
            assert history.rewind(past.tree, number) == past.root(number)
            for behind in [other for other in past.states if other > number]:
                del past.states[behind]
                del past.stored[behind]
            assert history.newest == number
        elif step == "forget":
            history.forget(number)
            assert history.oldest == number
            for raw in [other for other in past.stored if other <= number]:
                del past.stored[raw]
        else:
            kept = [past.stored[at] for at in sorted(past.stored)]
            assert history.stored_bytes == sum(map(len, kept))
            root = past.root(history.newest)
            past.tree = StateTree(past.states[history.newest].items())
            past.history = TreeHistory(history.newest, root, 100, 1 << 30, kept)
            assert past.history.oldest == history.oldest
        done.add(step)
        assert past.tree.root == past.history.root(past.history.newest)
    assert len(done) > 3


@pytest.mark.parametrize("seed", range(12))
def test_proofs_under_old_roots_verify(seed: int) -> None:
    past = Past(seed, 8)
    for number, model in past.states.items():
        root = past.root(number)
        keys = [past.make(past.rng) for _ in range(3)]
        keys += past.rng.sample(sorted(model), min(3, len(model)))
        proof = past.history.prove_at(past.tree, number, keys)
        assert verify_proof(root, proof, keys) == {key: model.get(key) for key in keys}
        prefix = past.rng.choice(keys)[: past.rng.choice([0, 1, 2])]
        proof = past.history.prove_first_at(past.tree, number, prefix, 3)
        under = sorted(item for item in model.items() if item[0].startswith(prefix))
        assert verify_first(root, proof, prefix, 3) == under[:3]
    assert past.tree.root == past.root(past.history.newest)


def test_a_reader_that_fails_leaves_the_tree_where_it_belongs() -> None:
    past = Past(5, 4)
    with pytest.raises(ZeroDivisionError), past.history.reopen(past.tree, FIRST + 1):
        raise ZeroDivisionError
    past.check(FIRST + 2)


def not_found(ask: Callable[[], object]) -> None:
    with pytest.raises(Rejected) as caught:
        ask()
    assert caught.value.code == Code.NOT_FOUND


def test_what_is_forgotten_or_not_there_yet_is_not_found() -> None:
    past = Past(6, 5)
    past.history.forget(FIRST + 2)
    for number in (FIRST, FIRST + 1, FIRST + 6):
        not_found(lambda n=number: past.history.root(n))
        not_found(lambda n=number: past.history.rewind(past.tree, n))
        not_found(lambda n=number: past.history.prove_at(past.tree, n, [b"a"]))
    not_found(lambda: past.history.forget(FIRST + 6))
    past.check(FIRST + 2)
    past.history.forget(FIRST)
    assert past.history.oldest == FIRST + 2


def test_a_full_history_takes_nothing_before_something_is_forgotten() -> None:
    past = Past(7, 3, max_batches=3)
    assert past.history.full
    with pytest.raises(SafetyViolation, match="full"):
        past.history.record(FIRST + 4, {}, past.tree.root)
    past.history.forget(FIRST + 1)
    assert not past.history.full
    past.batch()
    small = TreeHistory(0, EMPTY_ROOT, 10, 100)
    small.record(1, {b"k": bytes(200)}, past.tree.root)
    assert small.full


def test_misuse_is_a_safety_violation() -> None:
    past = Past(8, 4)
    history, tree = past.history, past.tree
    with pytest.raises(SafetyViolation, match="behind batch"):
        history.record(FIRST + 6, {}, tree.root)
    with pytest.raises(SafetyViolation, match="does not stand after"):
        history.prove_at(StateTree([(b"x", b"")]), FIRST, [b"x"])
    with history.reopen(tree, FIRST + 1):
        for misuse in (
            lambda: history.record(FIRST + 5, {}, tree.root),
            lambda: history.forget(FIRST + 1),
            lambda: history.rewind(tree, FIRST),
            lambda: history.prove_at(tree, FIRST, [b"x"]),
        ):
            with pytest.raises(SafetyViolation, match="reopened"):
                misuse()
    past.check(FIRST + 3)
    with (
        pytest.raises(SafetyViolation, match="was changed"),
        history.reopen(tree, FIRST + 1),
    ):
        tree.update({b"\xff" * 70: b"new"})
    with pytest.raises(SafetyViolation, match="does not stand after"):
        history.rewind(tree, FIRST)


def test_damaged_undos_are_seen() -> None:
    past = Past(9, 5)
    kept = [past.stored[number] for number in sorted(past.stored)]
    newest, root = past.history.newest, past.tree.root
    for damaged in (
        [b"\xc1", *kept[1:]],
        [kept[0][:-1], *kept[1:]],
        kept[:-1],
        kept[:2] + kept[3:],
        [kept[1], kept[0], *kept[2:]],
    ):
        with pytest.raises(SafetyViolation):
            TreeHistory(newest, root, 100, 1 << 30, damaged)
    with pytest.raises(SafetyViolation, match="root of the tree"):
        TreeHistory(newest, bytes(32), 100, 1 << 30, kept)
    # a value that is another one: found when it is needed
    undo = decode_undo(kept[3])
    (key, value), *rest = undo.leaves
    bad = encode(type(undo)(undo.number, undo.pre_root, undo.post_root, [(key, b"other"), *rest]))
    assert value != b"other"
    history = TreeHistory(newest, root, 100, 1 << 30, [*kept[:3], bad, *kept[4:]])
    with pytest.raises(SafetyViolation, match="do not lead to the root"):
        history.rewind(past.tree, undo.number - 1)
    swapped = encode(type(undo)(undo.number, undo.pre_root, undo.post_root, undo.leaves[::-1]))
    with pytest.raises(SafetyViolation, match="key order"):
        TreeHistory(newest, root, 100, 1 << 30, [*kept[:3], swapped, *kept[4:]])
