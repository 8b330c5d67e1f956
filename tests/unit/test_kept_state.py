"""The shard's state as validators keep and serve it: whole, proven part by part, taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from exit_world import ExitWorld, traded

from node import kept_state
from node.kept_state import PartsTaken, inflate, kept_file, parts_of, read_kept
from node.process_states import PARTIAL_SUFFIX, KeptStates, fetch_state
from node.rebuild import RebuiltState
from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault
from protocol.messages_states import StatePartRequest, StatePartView
from prover.tree import StateTree

NAME = "shard.state"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts out of a small state."""
    monkeypatch.setattr(kept_state, "PART_LEAVES", 4)


@pytest.fixture(scope="module")
def world() -> ExitWorld:
    made = ExitWorld()
    traded(made)
    return made


def put(state: RebuiltState, folder: Path) -> KeptStates:
    """A validator that keeps this state."""
    (folder / NAME).write_bytes(kept_file(state))
    return KeptStates(folder / NAME)


class Peers:
    """Validators with kept states; each question goes to the one whose turn it is."""

    def __init__(self, *peers: KeptStates) -> None:
        self.peers = list(peers)
        self.asked: list[tuple[int, int, int]] = []
        self.change: Callable[[StatePartView], Wire] = lambda view: view
        self.at = 0

    async def ask(self, kind: type[Any], make: Any, timeout_ms: int = 0) -> Any:
        request = cast(StatePartRequest, make(1))
        self.asked.append((self.at, request.batch, request.part))
        try:
            return self.change(self.peers[self.at].part(request))
        except Rejected as error:
            raise RemoteFault(int(error.code), error.text) from None

    async def drop(self) -> None:
        self.at = (self.at + 1) % len(self.peers)


def test_a_kept_state_reads_as_it_was(world: ExitWorld) -> None:
    state = world.rebuilt()
    raw = kept_file(state)
    assert read_kept(raw) == state.checked()
    again = RebuiltState(world.ledger, read_kept(raw))
    assert again.tree.root == world.ledger.final().state_root
    assert len(list(parts_of(state.tree))) > 3
    for cut in (0, 3, 20, len(raw) // 2, len(raw) - 1):
        with pytest.raises(Rejected):
            read_kept(raw[:cut])
    with pytest.raises(Rejected):
        read_kept(raw + b"\0")


def test_each_part_is_proven_and_none_can_be_left_out(world: ExitWorld) -> None:
    state = world.rebuilt()
    parts = list(parts_of(state.tree))
    taken = PartsTaken(4, state.tree.root)
    for number, part in enumerate(parts):
        for wrong in parts[:number] + parts[number + 1 :]:
            with pytest.raises(Rejected):
                taken.take(wrong)
        assert not taken.complete
        taken.take(part)
    assert taken.complete and taken.parts == parts
    other = StateTree([*state.tree.iterate(), (b"zz", b"1")])
    with pytest.raises(Rejected):
        PartsTaken(4, other.root).take(parts[0])


def test_a_part_that_is_not_full_or_expands_too_far_is_refused(
    world: ExitWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = world.rebuilt()
    part = next(iter(parts_of(state.tree)))
    monkeypatch.setattr(kept_state, "PART_LEAVES", 8)
    with pytest.raises(Rejected, match="before it is full"):
        PartsTaken(4, state.tree.root).take(part)
    monkeypatch.setattr(kept_state, "MAX_PART_BYTES", 100)
    for bad in (part, b"", b"nonsense", part[:-3], part + b"1"):
        with pytest.raises(Rejected):
            inflate(bad)


async def test_a_state_comes_from_others_whatever_some_of_them_answer(
    world: ExitWorld, tmp_path: Path
) -> None:
    state = world.rebuilt()
    (tmp_path / "a").mkdir()
    peers = Peers(KeptStates(tmp_path / "nothing"), put(state, tmp_path / "a"))
    lies = 0

    def lie(view: StatePartView) -> Wire:
        nonlocal lies
        lies += 1
        if lies % 3:
            return view
        return StatePartView(view.request_id, view.batch, view.part, view.parts, b"lie")

    peers.change = lie
    path = tmp_path / NAME
    assert await fetch_state(peers, world.ledger, 1, path, 0) == 4
    assert path.read_bytes() == (tmp_path / "a" / NAME).read_bytes()
    assert not path.with_name(NAME + PARTIAL_SUFFIX).exists()
    assert KeptStates(path).batch() == 4


async def test_a_fetch_goes_on_where_a_crash_ended_it(world: ExitWorld, tmp_path: Path) -> None:
    state = world.rebuilt()
    (tmp_path / "a").mkdir()
    served = put(state, tmp_path / "a")
    path, count = tmp_path / NAME, len(list(parts_of(state.tree)))

    class Crash(Exception):
        pass

    for crash_after in range(1, count):
        peers = Peers(served)
        answers = 0

        def crash(view: StatePartView) -> Wire:
            nonlocal answers
            answers += 1
            if answers > 1:
                raise Crash
            return view

        peers.change = crash
        with pytest.raises(Crash):
            await fetch_state(peers, world.ledger, 1, path, 0)
        assert peers.asked[0][2] == crash_after - 1, "nothing is taken twice"
        assert not path.exists()
        # A record that a crash tore is asked for again.
        partial = path.with_name(NAME + PARTIAL_SUFFIX)
        partial.write_bytes(partial.read_bytes() + b"\0\0\0\0\0\0\1\0torn")
    peers = Peers(served)
    assert await fetch_state(peers, world.ledger, 1, path, 0) == 4
    assert len(peers.asked) == 1 and path.read_bytes() == kept_file(state)


async def test_a_state_of_no_use_is_not_taken(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world, 1)
    early = world.rebuilt()
    (tmp_path / "a").mkdir()
    peers = Peers(put(early, tmp_path / "a"))
    traded(world, 2)
    following = world.ledger.batch(early.batch + 1)
    assert following is not None
    path = tmp_path / NAME
    with pytest.raises(Rejected) as refused:
        await fetch_state(peers, world.ledger, following.ledger_height + 1, path, 0)
    assert refused.value.code == Code.NOT_RETAINED and not path.exists()
    assert await fetch_state(peers, world.ledger, following.ledger_height, path, 0) == early.batch
    with pytest.raises(Rejected) as refused:
        await fetch_state(peers, ExitWorld().ledger, 1, path, 0)
    assert refused.value.code == Code.NOT_READY
    with pytest.raises(RemoteFault):
        await fetch_state(Peers(KeptStates(tmp_path / "b")), world.ledger, 1, path, 0)


async def test_a_peer_that_has_moved_on_is_followed(world: ExitWorld, tmp_path: Path) -> None:
    made = ExitWorld()
    traded(made, 1)
    (tmp_path / "a").mkdir()
    peers = Peers(put(made.rebuilt(), tmp_path / "a"))
    traded(made, 1)
    newer = made.rebuilt()

    def move_on(view: StatePartView) -> Wire:
        if view.part == 1 and view.batch < newer.batch:
            put(newer, tmp_path / "a")
        return view

    peers.change = move_on
    assert await fetch_state(peers, made.ledger, 1, tmp_path / NAME, 0) == newer.batch
    assert (tmp_path / NAME).read_bytes() == kept_file(newer)
    assert {batch for _, batch, _ in peers.asked} == {0, newer.batch - 1, newer.batch}


def test_parts_are_served_of_the_state_that_is_kept(world: ExitWorld, tmp_path: Path) -> None:
    states = KeptStates(tmp_path / NAME)
    assert states.batch() == 0 and states.stored_bytes() == 0
    states = put(world.rebuilt(), tmp_path)
    view = states.part(StatePartRequest(7, 4, 1))
    assert (view.request_id, view.batch, view.part) == (7, 4, 1)
    assert states.stored_bytes() == (tmp_path / NAME).stat().st_size
    for batch, part in ((3, 0), (4, view.parts), (4, -1)):
        with pytest.raises(Rejected) as refused:
            states.part(StatePartRequest(1, batch, part))
        assert refused.value.code == Code.NOT_FOUND
    (tmp_path / NAME).write_bytes(b"\xff" * 40)
    with pytest.raises(Rejected):
        states.batch()
