"""Processes that follow the base layer follow its epochs, and end with a reason when trust does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_world import GENESIS_MS
from light_world import EPOCH_MS, TRUSTING_MS, LightChain

from execution.process_inbox import InboxFollower
from execution.process_light import CHECKPOINT_NAME, NEWEST_MS, NEWEST_SUFFIX, LightFollower
from protocol.chain import decode_header
from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault, SafetyViolation
from protocol.inbox import InboxLeaf, inbox_key
from protocol.ledger_leaves import (
    FinalLeaf,
    SettledBatch,
    SweptLeaf,
    batch_key,
    epoch_key,
    final_key,
    swept_key,
)
from protocol.light import checkpoint_from_json
from protocol.messages import (
    EpochRequest,
    EpochView,
    InboxRequest,
    InboxView,
    ProofRequest,
    ProofView,
    decode_answer,
    decode_request,
)
from protocol.settlement import (
    EMPTY_INBOX_HASH,
    BatchHeader,
    InboxDeposit,
    InboxEntry,
    extend_inbox_hash,
)
from prover.process_settled import SettledBatches

replace = msgspec.structs.replace
ENTRY = InboxDeposit(0, 16, b"\x01" * 20, 5)
ENTRIES: list[tuple[int, InboxEntry]] = [(2, ENTRY), (3, InboxDeposit(1, 16, b"\x01" * 20, 6))]
INBOX = {inbox_key(0): encode(InboxLeaf(1, extend_inbox_hash(EMPTY_INBOX_HASH, 2, ENTRY)))}
BATCH = BatchHeader(
    b"", 0, 1, 1, 2, bytes(32), bytes(32), bytes(32), bytes(32), 0, bytes(32), 0, 0, b"", 0
)


class Validator:
    """Answers from a made chain, through the wire's encoding."""

    def __init__(self, world: LightChain) -> None:
        self.world = world
        self.height: int | None = None
        self.asked: list[type] = []
        self.dropped = 0
        self.forgotten = 0
        self.lie: Callable[[Any], Any] = lambda view: view

    async def ask(self, kind: type, make: Callable[[int], Any], timeout_ms: int = 0, /) -> Any:
        request = decode_request(encode(make(1)))
        self.asked.append(type(request))
        await asyncio.sleep(0)
        answer = decode_answer(encode(self.lie(self.answer(request))))
        assert isinstance(answer, kind)
        return answer

    def answer(self, request: object) -> Any:
        world = self.world
        if isinstance(request, EpochRequest):
            if request.number > len(world.lasts):
                raise RemoteFault(Code.WRONG_EPOCH, "not begun")
            last, certificate, proof = world.change(request.number)
            return EpochView(1, request.number, last, certificate, encode(proof))
        header = world.headers[-1 if self.height is None else self.height]
        certificate = world.certificate(header)
        if isinstance(request, ProofRequest):
            return ProofView(1, header, certificate, encode(world.proof(header, request.keys)))
        assert isinstance(request, InboxRequest)
        if request.from_index < self.forgotten:
            raise RemoteFault(Code.NOT_RETAINED, "forgotten")
        entries = ENTRIES[request.from_index :]
        inbox = encode(world.proof(header, [inbox_key(0)]))
        return InboxView(1, entries, header, certificate, inbox)

    async def drop(self) -> None:
        self.dropped += 1


def grown(epoch: int) -> LightChain:
    world = LightChain(leaves=INBOX)
    world.to_epoch(epoch)
    return world


def follower(world: LightChain, path: Path | None = None) -> tuple[LightFollower, Validator]:
    validator = Validator(world)
    return LightFollower(world.chain, validator, path, clock=lambda: world.now_ms), validator


async def test_a_header_of_a_later_epoch_makes_it_ask_for_each_change() -> None:
    world = grown(2)
    light, validator = follower(world)
    await light.leaves([inbox_key(0)])
    assert light.client.epoch == 2
    assert validator.asked == [ProofRequest, EpochRequest, EpochRequest]
    header = world.headers[-2]
    await light.verify(header, world.certificate(header))
    assert len(validator.asked) == 3


@pytest.mark.parametrize(("keep", "advice"), [(True, "delete it"), (False, "get another one")])
async def test_a_damaged_checkpoint_file_is_named_with_what_to_do(
    tmp_path: Path, keep: bool, advice: str
) -> None:
    path = tmp_path / CHECKPOINT_NAME
    world = grown(1)
    light, _ = follower(world, path)
    await light.leaves([inbox_key(0)])
    right = path.read_bytes()
    assert light.client.checkpoint().fingerprint().hex().encode() in right
    path.write_bytes(right.replace(b'"origin_view": ', b'"origin_view": 1'))
    with pytest.raises(ConfigError) as caught:
        LightFollower(world.chain, Validator(world), path, clock=lambda: world.now_ms, keep=keep)
    assert f"{path} is damaged; {advice}" in str(caught.value)
    path.unlink()
    LightFollower(world.chain, Validator(world), path, clock=lambda: world.now_ms, keep=keep)


async def test_the_checkpoint_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    world = grown(1)
    light, _ = follower(world, path)
    await light.leaves([inbox_key(0)])
    kept = checkpoint_from_json(path.read_bytes())
    assert kept.fingerprint() == light.client.checkpoint().fingerprint() and kept.epoch == 1

    # Long after genesis: only the kept checkpoint leads on.
    world.to_epoch(2)
    late_ms = GENESIS_MS + TRUSTING_MS + EPOCH_MS
    with pytest.raises(ConfigError, match="checkpoint-out"):
        LightFollower(world.chain, Validator(world), None, clock=lambda: late_ms)
    again = LightFollower(world.chain, Validator(world), path, clock=lambda: late_ms)
    await again.leaves([inbox_key(0)])
    assert checkpoint_from_json(path.read_bytes()).epoch == 2


async def test_a_checkpoint_is_renewed_within_its_epoch_but_not_for_every_header(
    tmp_path: Path,
) -> None:
    path = tmp_path / CHECKPOINT_NAME
    world = LightChain(epoch_ms=TRUSTING_MS)
    validator = Validator(world)
    light = LightFollower(world.chain, validator, path, clock=lambda: world.now_ms)
    written = []
    for _ in range(100):
        header = world.block()
        await light.verify(header, world.certificate(header))
        if path.exists():
            written.append(checkpoint_from_json(path.read_bytes()).time_ms)
    assert len(set(written)) == 2


async def test_a_checkpoint_of_another_chain_or_none_of_a_checkpoint(tmp_path: Path) -> None:
    world = grown(1)
    path = tmp_path / CHECKPOINT_NAME
    light, _ = follower(world, path)
    await light.leaves([inbox_key(0)])
    other = LightChain(epoch_ms=EPOCH_MS + 1)
    with pytest.raises(ConfigError, match="another chain"):
        follower(other, path)
    for raw in (b"{", b" " * (2 << 20)):
        path.write_bytes(raw)
        with pytest.raises(ConfigError):
            follower(world, path)


async def test_validators_that_began_anew_are_noticed_after_a_restart_too(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    newest = path.with_suffix(NEWEST_SUFFIX)
    world = LightChain(epoch_ms=TRUSTING_MS)

    async def follow_on(light: LightFollower) -> None:
        end_ms = world.now_ms + NEWEST_MS
        while world.now_ms < end_ms:
            header = world.block()
            await light.verify(header, world.certificate(header))

    light, _ = follower(world, path)
    await follow_on(light)
    await follow_on(light)
    kept = decode_header(newest.read_bytes())
    assert kept in world.headers[2:] and world.headers[-1].time_ms - kept.time_ms <= NEWEST_MS
    anew = replace(world.headers[kept.height - 1], time_ms=world.now_ms)
    certificate = world.certificate(anew)
    for one in (light, follower(world, path)[0]):
        with pytest.raises(SafetyViolation, match="two ledgers"):
            await one.verify(anew, certificate)
        old = world.headers[2]
        await one.verify(old, world.certificate(old))
    assert decode_header(newest.read_bytes()) == kept
    # Nothing is written where the file is another's.
    reader = LightFollower(
        world.chain, Validator(world), path, clock=lambda: world.now_ms, keep=False
    )
    await follow_on(reader)
    assert decode_header(newest.read_bytes()) == kept


async def test_a_kept_header_that_is_unusable_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    newest = path.with_suffix(NEWEST_SUFFIX)
    world = grown(0)
    newest.write_bytes(b"\xc1")
    with pytest.raises(ConfigError, match="newest is damaged; delete it"):
        follower(world, path)
    newest.write_bytes(encode(replace(world.headers[1], chain_id=bytes(32))))
    with pytest.raises(ConfigError, match="another chain; delete it"):
        follower(world, path)


async def test_a_lie_of_one_validator_changes_nothing() -> None:
    world = grown(2)
    light, validator = follower(world)

    def other_epoch(view: object) -> object:
        if isinstance(view, EpochView):
            last, certificate, proof = world.change(2)
            return EpochView(1, view.number, last, certificate, encode(proof))
        return view

    validator.lie = other_epoch
    with pytest.raises(Rejected) as caught:
        await light.leaves([inbox_key(0)])
    assert caught.value.code == Code.WRONG_EPOCH and light.client.epoch == 0
    validator.lie = lambda view: (
        replace(view, header=replace(view.header, epoch=9)) if isinstance(view, ProofView) else view
    )
    with pytest.raises(RemoteFault):
        await light.leaves([inbox_key(0)])
    assert light.client.epoch == 2, "what was proven on the way stays"
    validator.lie = lambda view: view
    await light.leaves([inbox_key(0)])


async def eventually(check: Callable[[], bool]) -> None:
    """Return once `check` holds; the caller bounds the wait."""
    for _ in range(100_000):
        if check():
            return
        await asyncio.sleep(0.001)


async def test_members_are_renewed_while_there_is_nothing_to_ask(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    world = grown(1)
    light, validator = follower(world, path)
    light._trusting_ms = 16  # every millisecond; the client itself trusts as long as ever
    renewing = asyncio.ensure_future(light.stay_fresh())
    async with asyncio.timeout(20):
        await eventually(lambda: light.client.epoch == 1)
        validator.lie = lambda view: replace(view, proof=b"\xc1")
        await eventually(lambda: validator.dropped > 0)
        validator.lie = lambda view: view
        world.to_epoch(2)
        await eventually(
            lambda: path.exists() and checkpoint_from_json(path.read_bytes()).epoch == 2
        )
    renewing.cancel()


async def test_questions_at_the_same_time_follow_a_change_once() -> None:
    world = grown(2)
    light, validator = follower(world)
    keys = [inbox_key(0)]
    await asyncio.gather(light.leaves(keys), light.leaves(keys), light.leaves(keys))
    assert validator.asked.count(EpochRequest) == 2


async def test_members_that_grew_old_end_the_process() -> None:
    world = grown(1)
    now = [world.now_ms]
    light = LightFollower(world.chain, Validator(world), None, clock=lambda: now[0])
    await light.leaves([inbox_key(0)])
    now[0] += TRUSTING_MS + EPOCH_MS
    with pytest.raises(ConfigError, match="trilemma light"):
        await light.leaves([inbox_key(0)])


async def test_the_inbox_is_followed_over_epochs() -> None:
    world = grown(0)
    news: list[tuple[int, int]] = []
    inbox, validator = inbox_of(world, lambda *told: news.append(told))
    await inbox._fetch()
    assert (inbox.count, inbox.epoch) == (1, 0)
    world.to_epoch(2)
    await inbox._fetch()
    assert inbox.epoch == 2 and inbox.entries(0, 1) == [ENTRY]
    assert news[-1] == (world.headers[-1].app_height, 1)
    assert inbox.covered_height == world.headers[-1].app_height

    validator.lie = lambda view: replace(
        view, certificate=world.certificate(view.header, signers=[1])
    )
    with pytest.raises(Rejected) as caught:
        await inbox._fetch()
    assert caught.value.code == Code.BAD_CERTIFICATE


def swept_world() -> LightChain:
    """A chain whose ledger has forgotten the first of two inbox entries."""
    first = extend_inbox_hash(EMPTY_INBOX_HASH, *ENTRIES[0])
    both = extend_inbox_hash(first, *ENTRIES[1])
    world = LightChain(
        leaves={
            inbox_key(0): encode(InboxLeaf(2, both)),
            swept_key(0): encode(SweptLeaf(1, 1, 1, first)),
        }
    )
    world.to_epoch(1)
    return world


async def test_the_inbox_begins_behind_entries_that_are_forgotten() -> None:
    for needed in (None, 1, 2):
        inbox, validator = inbox_of(swept_world(), None, needed=needed)
        validator.forgotten = 1
        await inbox._fetch()
        assert validator.asked[:2] == [InboxRequest, ProofRequest]
        assert (inbox.count, inbox.entries(1, 2)) == (2, [ENTRIES[1][1]])
        asked = len(validator.asked)
        await inbox._fetch()
        assert validator.asked[asked:] == [InboxRequest]


async def test_the_inbox_ends_where_what_is_needed_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox, validator = inbox_of(swept_world(), None)
    validator.forgotten = 1
    monkeypatch.setattr(inbox, "_follow", inbox._fetch)
    with pytest.raises(ConfigError, match="forgotten inbox entries 0 to 0"):
        await asyncio.wait_for(inbox.run(), 5)


async def test_a_validator_that_forgets_more_than_the_ledger_is_left() -> None:
    world = grown(1)
    inbox, validator = inbox_of(world, None, needed=None)
    validator.forgotten = 1
    with pytest.raises(Rejected, match="withheld"):
        await inbox._fetch()
    validator.forgotten = 0
    await inbox._fetch()
    assert inbox.entries(0, 1) == [ENTRY]


async def test_the_inbox_ends_when_its_validators_are_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = grown(1)
    late_ms = world.now_ms + 2 * TRUSTING_MS
    now = [world.now_ms]
    inbox, _ = inbox_of(world, None, lambda: now[0])

    async def fetch_only() -> None:
        await inbox._fetch()

    monkeypatch.setattr(inbox, "_follow", fetch_only)
    now[0] = late_ms
    with pytest.raises(ConfigError, match="trusted for"):
        await asyncio.wait_for(inbox.run(), 5)


def inbox_of(
    world: LightChain,
    on_news: Callable[[int, int], None] | None,
    clock: Callable[[], int] | None = None,
    needed: int | None = 0,
) -> tuple[InboxFollower, Validator]:
    """A follower whose questions go to a made chain."""
    now = clock or (lambda: world.now_ms)
    inbox = InboxFollower(world.chain, [], "test", on_news, clock=now, needed=needed)
    upstream: Any = Validator(world)
    inbox._upstream = inbox._light._upstream = upstream
    return inbox, upstream


async def test_the_prover_believes_only_proven_batches() -> None:
    world = grown(1)
    settled = {batch_key(0, 1): encode(SettledBatch(BATCH, 7, GENESIS_MS))}
    validator = Validator(world)
    batches = SettledBatches(world.chain, validator, clock=lambda: world.now_ms)
    assert await batches.header(1) is None
    validator.lie = lambda view: (
        replace(view, header=replace(view.header, app_height=1))
        if isinstance(view, ProofView)
        else view
    )
    with pytest.raises(Rejected):
        await batches.header(1)
    validator.lie = lambda view: view
    world.block(settled)
    assert await batches.header(1) is None, "no certified header names the root after it yet"
    for _ in range(3):
        world.block()
    assert await batches.header(1) == BATCH


async def test_the_prover_hears_nobody_who_lags() -> None:
    """What a lagging validator does not know yet would look as if it had been removed."""
    final = FinalLeaf(0, 0, bytes(32), bytes(32), 0, 0, 0)
    world = grown(1)
    validator = Validator(world)
    batches = SettledBatches(world.chain, validator, clock=lambda: world.now_ms)
    with pytest.raises(Rejected, match="no final batch"):
        await batches.standing([1])
    world.block(
        {
            batch_key(0, 1): encode(SettledBatch(BATCH, 7, GENESIS_MS)),
            final_key(0): encode(final),
        }
    )
    for _ in range(3):
        world.block()
    standing = await batches.standing([1, 2])
    assert standing.final == final and standing.batches == {1: BATCH, 2: None}
    again = SettledBatches(
        world.chain, validator, clock=lambda: world.now_ms, least_height=standing.height + 1
    )
    with pytest.raises(Rejected, match="lags"):
        await again.standing([1])
    world.block()
    assert (await again.standing([1])).height == standing.height + 1


async def test_a_false_start_of_an_epoch_is_not_kept(tmp_path: Path) -> None:
    """A block above the old members' last one is certified too; the new ones tell which it was."""
    path = tmp_path / CHECKPOINT_NAME
    world = grown(1)
    light, validator = follower(world, path)
    last = world.lasts[0]
    above = world.header_on(last, last.app_height)

    def false_start(view: object) -> object:
        if isinstance(view, EpochView):
            proof = encode(world.proof(above, [epoch_key(1)]))
            return EpochView(1, view.number, above, world.certificate(above), proof)
        return view

    validator.lie = false_start
    with pytest.raises(Rejected, match="another block"):
        await light.leaves([inbox_key(0)])
    assert not path.exists()
