"""Who may act: signatures, accounts, agents, expiry and nonces; oracle prices; the inbox."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_world import BAD, DOLLAR, ORACLES, START_MS, World, make_chain, market, signer

from execution import Engine
from execution.leaves import nonce_key, oracle_key
from protocol.actions import (
    BUY,
    GTC,
    NONCE_FUTURE_MS,
    NONCE_PAST_MS,
    SELL,
    ActionBatch,
    ApproveAgent,
    Cancel,
    OraclePrice,
    Order,
    RevokeAgent,
    SignedBatch,
    Transfer,
    Withdraw,
    sign_batch,
)
from protocol.codec import encode
from protocol.errors import Code, SafetyViolation
from protocol.events import AgentChanged, BatchExecuted, MarkChanged
from protocol.genesis import Limits
from protocol.keys import Key
from protocol.settlement import InboxDeposit, account_number

A, B = 16, 17
AGENT = b"\xaa" * 32
OTHER = b"\xbb" * 32
BID = Order(0, BUY, 900, 10, GTC)


def test_what_cannot_be_decoded_is_answered_without_a_signer() -> None:
    world = World()
    tagged = encode(SignedBatch(1, signer(A), b"\x93\x01\x02\x03", b"\x01" * 64))
    empty = encode(SignedBatch(1, signer(A), encode(ActionBatch(A, 1, 0, [])), b"\x01" * 64))
    scheme = encode(SignedBatch(2, signer(A), b"", b"\x01" * 64))
    short = encode(SignedBatch(1, b"short", b"", b"\x01" * 64))
    expected = [
        (b"", Code.MALFORMED), (b"\xc1", Code.MALFORMED), (b"\x01", Code.WRONG_TYPE),
        (tagged, Code.WRONG_TYPE), (empty, Code.TOO_MANY_ACTIONS),
        (scheme, Code.SCHEME_UNKNOWN), (short, Code.WRONG_TYPE),
    ]  # fmt: skip
    result = world.block([raw for raw, _ in expected])
    assert result.events == [BatchExecuted(0, b"", 0, code, []) for _, code in expected]
    assert result.actions == 0
    assert list(result.changes) == [b"g\x00"]


def test_a_bad_signature_names_nobody_and_uses_no_nonce() -> None:
    world = World()
    assert world.send(world.batch(A, BID, nonce=START_MS, signature=BAD)) == BatchExecuted(
        0, b"", 0, Code.BAD_SIGNATURE, []
    )
    assert world.send(world.batch(A, BID, nonce=START_MS)).code == 0


def test_real_signatures_are_bound_to_chain_and_shard() -> None:
    chain = make_chain([market(0)])
    key = Key(bytes(32))
    engine = Engine(chain)
    deposit = InboxDeposit(0, A, key.address, 100 * DOLLAR)
    batch = ActionBatch(A, START_MS, 0, [BID])
    raws = [
        sign_batch(key, chain.chain_id, 3, batch),
        sign_batch(key, chain.chain_id, 4, ActionBatch(A, START_MS + 1, 0, [BID])),
        sign_batch(key, b"\x00" * 32, 3, ActionBatch(A, START_MS + 2, 0, [BID])),
    ]
    events = engine.apply(1, START_MS + 1, b"", [deposit], 1, raws).events
    codes = [event.code for event in events if isinstance(event, BatchExecuted)]
    assert codes == [0, Code.BAD_SIGNATURE, Code.BAD_SIGNATURE]


def test_only_owner_and_approved_agents_act_for_an_account() -> None:
    world = World()
    assert world.send(world.batch(99, BID)).code == Code.UNKNOWN_ACCOUNT
    assert world.send(world.batch(0, BID)).code == Code.UNKNOWN_ACCOUNT
    assert world.send(world.batch(A, BID, by=signer(B))).code == Code.NOT_AUTHORISED
    assert world.send(world.batch(A, BID, by=AGENT)).code == Code.NOT_AUTHORISED
    assert world.one(A, ApproveAgent(AGENT, START_MS + 1_000)).code == 0
    assert world.of(AgentChanged) == [AgentChanged(A, AGENT, START_MS + 1_000)]
    answer = world.send(
        world.batch(
            A,
            BID,
            Withdraw(1, b"x" * 20),
            ApproveAgent(OTHER, START_MS * 2),
            RevokeAgent(AGENT),
            by=AGENT,
        )
    )
    refused = [Code.NOT_AUTHORISED] * 3
    assert answer.code == 0
    assert [result.code for result in answer.results] == [0, *refused]
    assert world.send(world.batch(B, BID, by=AGENT)).code == Code.NOT_AUTHORISED


def test_agents_are_the_business_of_the_master_account_alone() -> None:
    world = World()
    own = account_number(A, 1)
    world.one(A, Transfer(own, DOLLAR))
    approve, revoke = ApproveAgent(AGENT, START_MS * 2), RevokeAgent(AGENT)
    for action in (approve, revoke):
        answer = world.send(world.batch(own, action, by=signer(A)))
        assert [result.code for result in answer.results] == [Code.NOT_AUTHORISED]
    assert world.one(A, approve).code == 0
    assert world.send(world.batch(own, BID, by=AGENT)).code == 0


def test_a_batch_for_a_sub_account_that_is_not_there_is_admitted_and_uses_its_nonce() -> None:
    world = World()
    missing = world.batch(account_number(A, 9), BID, Cancel(0, 1), by=signer(A), nonce=START_MS)
    answer = world.send(missing)
    assert answer.code == 0
    assert [result.code for result in answer.results] == [Code.UNKNOWN_ACCOUNT] * 2
    assert world.send(missing).duplicate
    assert world.send(world.batch(A, BID, nonce=START_MS)).code == Code.NONCE_USED


def test_agents_expire_may_be_renewed_and_never_return_once_revoked() -> None:
    world = World()
    world.one(A, ApproveAgent(AGENT, world.time_ms + 30))
    assert world.send(world.batch(A, BID, by=AGENT)).code == 0
    assert world.send(world.batch(A, BID, by=AGENT)).code == 0
    assert world.send(world.batch(A, BID, by=AGENT)).code == Code.AGENT_EXPIRED
    assert world.one(A, ApproveAgent(AGENT, world.time_ms)).code == Code.AGENT_EXPIRED
    assert world.one(A, ApproveAgent(AGENT, world.time_ms + 1_000)).code == 0
    assert world.send(world.batch(A, BID, by=AGENT)).code == 0
    assert world.one(A, RevokeAgent(AGENT)).code == 0
    assert world.of(AgentChanged) == [AgentChanged(A, AGENT, 0)]
    assert world.send(world.batch(A, BID, by=AGENT)).code == Code.AGENT_REVOKED
    assert world.one(A, ApproveAgent(AGENT, START_MS * 2)).code == Code.AGENT_REVOKED
    assert world.one(A, RevokeAgent(AGENT)).code == Code.AGENT_REVOKED
    assert world.one(A, RevokeAgent(OTHER)).code == Code.UNKNOWN_SIGNER
    assert world.one(A, ApproveAgent(b"short", START_MS * 2)).code == Code.WRONG_TYPE
    again = world.restore()
    assert again.leaves() == world.engine.leaves()


def test_live_agents_are_limited_and_expired_ones_give_way() -> None:
    world = World(limits=Limits(agents_per_account=2))
    soon = world.time_ms + 25
    ends = (soon, START_MS * 2, START_MS * 2, START_MS * 2)
    keys = [bytes((n,)) * 32 for n in range(1, 5)]
    approve = [ApproveAgent(key, end) for key, end in zip(keys, ends, strict=True)]
    codes = [r.code for r in world.act(A, *approve[:3])]
    assert codes == [0, 0, Code.TOO_MANY_AGENTS]
    codes = [r.code for r in world.act(A, RevokeAgent(keys[1]), approve[2], approve[3])]
    assert codes == [0, 0, Code.TOO_MANY_AGENTS]
    world.block([])
    assert world.one(A, approve[3]).code == 0
    assert world.last.changes[b"k" + A.to_bytes(8, "big") + keys[0]] is None
    assert world.send(world.batch(A, BID, by=keys[0])).code == Code.NOT_AUTHORISED
    assert world.one(A, approve[1]).code == Code.AGENT_REVOKED


def test_revoked_agents_are_kept_up_to_their_own_limit() -> None:
    world = World(limits=Limits(agents_per_account=1))
    for number in range(1, 9):
        key = bytes((number,)) * 32
        assert world.act(A, ApproveAgent(key, START_MS * 2), RevokeAgent(key))[1].code == 0
    assert world.one(A, ApproveAgent(b"\x77" * 32, START_MS * 2)).code == Code.TOO_MANY_AGENTS


def test_an_approval_undone_in_its_own_block_changes_no_leaf() -> None:
    world = World()
    world.one(A, ApproveAgent(AGENT, START_MS + 500))
    key = b"k" + A.to_bytes(8, "big") + AGENT
    assert key in world.last.changes
    world.act(A, ApproveAgent(AGENT, START_MS + 900), ApproveAgent(AGENT, START_MS + 500))
    assert key not in world.last.changes


def test_an_expired_batch_is_refused_without_using_its_nonce() -> None:
    world = World()
    at = world.time_ms + 10
    assert world.send(world.batch(A, BID, nonce=at, expires_ms=at - 1)).code == Code.ACTION_EXPIRED
    assert world.send(world.batch(A, BID, nonce=at, expires_ms=-1)).code == Code.ACTION_EXPIRED
    at = world.time_ms + 10
    assert world.send(world.batch(A, BID, nonce=at, expires_ms=at)).code == 0


def test_a_repeat_gets_its_first_results_and_is_not_executed_again() -> None:
    world = World()
    raw = world.batch(A, BID, Cancel(0, 99), expires_ms=world.time_ms + 10)
    first = world.send(raw)
    assert first.code == 0 and not first.duplicate
    resting = world.engine.orders_of(A)
    for _ in range(2):
        again = world.send(raw)
        assert again.duplicate and again.results == first.results
        assert (again.account, again.signer, again.nonce_ms) == (A, signer(A), first.nonce_ms)
    assert world.engine.orders_of(A) == resting
    assert world.last.actions == 0
    kept = world.engine.kept_result(signer(A), first.nonce_ms)
    assert kept == again
    assert world.engine.kept_result(signer(B), first.nonce_ms) is None
    assert world.restore().kept_result(signer(A), first.nonce_ms) == kept


def test_a_repeat_inside_one_block_is_not_executed_again() -> None:
    world = World()
    raw = world.batch(A, BID)
    events = [e for e in world.block([raw, raw]).events if isinstance(e, BatchExecuted)]
    assert [event.duplicate for event in events] == [False, True]
    assert len(world.engine.orders_of(A)) == 1


def test_a_batch_of_rejected_actions_uses_its_nonce() -> None:
    world = World()
    raw = world.batch(A, Cancel(0, 99), nonce=START_MS)
    assert [r.code for r in world.send(raw).results] == [Code.UNKNOWN_ORDER]
    assert world.send(world.batch(A, BID, nonce=START_MS)).code == Code.NONCE_USED


def test_nonces_must_lie_inside_the_window() -> None:
    world = World()

    def code(offset: int) -> int:
        return world.send(world.batch(A, Cancel(0, 1), nonce=world.time_ms + 10 + offset)).code

    assert code(-NONCE_PAST_MS) == Code.NONCE_EXPIRED
    assert code(NONCE_FUTURE_MS) == Code.NONCE_TOO_NEW
    assert code(-NONCE_PAST_MS + 1) == 0
    assert code(NONCE_FUTURE_MS - 1) == 0
    assert world.send(world.batch(A, BID, nonce=-1)).code == Code.NONCE_EXPIRED
    assert world.send(world.batch(A, BID, nonce=(1 << 64) - 1)).code == Code.NONCE_TOO_NEW


def test_the_hundred_highest_nonces_are_kept_and_the_lowest_gives_way() -> None:
    world = World()
    nonces = [START_MS + 10 * n for n in range(100)]
    raws = {n: world.batch(A, Cancel(0, 1), nonce=n) for n in nonces}
    world.block(list(raws.values()))
    assert world.send(world.batch(A, BID, nonce=START_MS - 1)).code == Code.NONCE_EXPIRED
    assert world.send(raws[nonces[0]]).duplicate
    assert world.send(world.batch(A, Cancel(0, 1), nonce=START_MS + 5)).code == 0
    assert world.last.changes.keys() == {b"g\x00", nonce_key(signer(A), 0)}
    assert world.send(raws[nonces[0]]).code == Code.NONCE_EXPIRED
    assert world.send(raws[nonces[1]]).duplicate
    assert world.engine.kept_result(signer(A), nonces[0]) is None
    assert world.restore().leaves() == world.engine.leaves()
    slots = [key for key in world.mirror if key.startswith(b"n" + signer(A))]
    assert len(slots) == 100


def test_nonces_belong_to_the_signer_not_to_the_account() -> None:
    world = World()
    world.one(A, ApproveAgent(AGENT, START_MS * 2))
    at = START_MS + 500
    assert world.send(world.batch(A, BID, nonce=at)).code == 0
    assert world.send(world.batch(A, BID, nonce=at, by=AGENT)).code == 0
    assert world.send(world.batch(B, BID, nonce=at)).code == 0


def test_the_mark_follows_the_committees_median_once_a_majority_reported() -> None:
    world = World()
    first, second, third = ORACLES
    world.block([world.batch(0, OraclePrice(0, 1_200), by=first)])
    assert world.of(MarkChanged) == []
    world.block([world.batch(0, OraclePrice(0, 1_100), by=second)])
    assert world.of(MarkChanged) == [MarkChanged(0, 1_100)]
    world.block([world.batch(0, OraclePrice(0, 1_300), by=third)])
    assert world.of(MarkChanged) == [MarkChanged(0, 1_200)]
    world.block([world.batch(0, OraclePrice(0, 1_250), by=third)])
    assert world.of(MarkChanged) == []
    assert oracle_key(0, 2) in world.last.changes
    assert world.restore().leaves() == world.engine.leaves()


def test_oracle_prices_take_effect_before_the_orders_of_their_block() -> None:
    world = World(dollars=10)
    # $10 hold 100 lots at 10 %; at a mark ten times as high they hold ten.
    order = world.batch(A, Order(0, BUY, 900, 90))
    prices = [world.batch(0, OraclePrice(0, 10_000), by=oracle) for oracle in ORACLES]
    world.block([order, *prices])
    assert [type(e) for e in world.events[:4]] == [BatchExecuted] * 3 + [MarkChanged]
    last = world.events[-1]
    assert isinstance(last, BatchExecuted)
    assert last.results[0].code == Code.INSUFFICIENT_MARGIN


def test_bad_oracle_batches() -> None:
    world = World()
    oracle = ORACLES[0]
    price = OraclePrice(0, 1_100)
    assert world.send(world.batch(A, price)).code == Code.NOT_AUTHORISED
    assert world.send(world.batch(0, price, by=AGENT)).code == Code.NOT_AUTHORISED
    assert world.send(world.batch(A, price, by=oracle)).code == Code.NOT_AUTHORISED
    assert world.send(world.batch(A, price, BID)).code == Code.MIXED_BATCH
    assert world.send(world.batch(0, price, BID, by=oracle)).code == Code.MIXED_BATCH
    answer = world.send(
        world.batch(
            0,
            OraclePrice(2, 1),
            OraclePrice(-1, 1),
            OraclePrice(0, 0),
            OraclePrice(0, -5),
            OraclePrice(0, 1 << 31),
            price,
            by=oracle,
            nonce=START_MS + 50,
        )
    )
    unknown, bad = Code.UNKNOWN_MARKET, Code.BAD_PRICE
    assert [r.code for r in answer.results] == [unknown, unknown, bad, bad, bad, 0]
    late = world.send(world.batch(0, price, OraclePrice(1, 7), by=oracle, nonce=START_MS + 49))
    assert [r.code for r in late.results] == [Code.STALE_ORACLE, 0]
    again = world.send(world.batch(0, price, by=oracle, nonce=START_MS + 50))
    assert again.code == Code.NONCE_USED


@pytest.mark.parametrize(
    "entry",
    [
        InboxDeposit(5, A, b"x" * 20, 1),
        InboxDeposit(4, A, b"x" * 20, 1),
        InboxDeposit(4, 15, b"y" * 20, 1),
        InboxDeposit(4, 40, b"y" * 19, 1),
        InboxDeposit(4, 40, b"y" * 20, 0),
        InboxDeposit(4, 40, b"y" * 20, -1),
    ],
)
def test_an_inbox_entry_that_does_not_fit_the_state_stops_the_engine(entry: InboxDeposit) -> None:
    world = World()
    with pytest.raises(SafetyViolation):
        world.engine.apply(2, START_MS + 50, b"", [entry], 5, [])


def test_one_address_has_one_account() -> None:
    world = World()
    same = InboxDeposit(4, 40, world.engine.account_view(0, A).address, 1)
    with pytest.raises(SafetyViolation):
        world.engine.apply(2, START_MS + 50, b"", [same], 5, [])


def test_blocks_must_follow_each_other_and_the_cursor_must_agree() -> None:
    world = World()
    for height, time_ms, cursor in (
        (1, START_MS + 50, 4), (2, START_MS, 4), (2, START_MS + 50, 3), (2, START_MS + 50, 5),
    ):  # fmt: skip
        engine = world.restore()
        with pytest.raises(SafetyViolation):
            engine.apply(height, time_ms, b"", [], cursor, [])


@pytest.mark.parametrize(
    "leaf",
    [
        (b"z", b""), (b"a\x00", b""),
        (b"a" + bytes(8), b"\xc1"), (b"g\x09", b""), (b"m\x00\x07", b"\x94\x01\x00\x00\x00"),
        (b"p" + (40).to_bytes(8, "big") + b"\x00\x00", b"\x92\x01\x01"),
        (nonce_key(signer(A), 1), b"\x94\x01\xc4\x00\x10\x90"),
    ],
)  # fmt: skip
def test_leaves_that_do_not_belong_together_are_not_restored(leaf: tuple[bytes, bytes]) -> None:
    world = World()
    with pytest.raises(SafetyViolation):
        Engine.restore(world.chain, [*world.engine.leaves().items(), leaf])


def test_an_empty_block_changes_the_clock_alone() -> None:
    world = World()
    world.one(A, Order(0, SELL, 1_100, 5))
    result = world.block([])
    assert result.events == [] and result.outbox == []
    assert list(result.changes) == [b"g\x00"]
