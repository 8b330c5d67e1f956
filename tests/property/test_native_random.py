"""What can be said of blocks without executing them is what the engine says, after every block."""

from __future__ import annotations

import os
from typing import Any

import pytest
from engine_world import BAD, ORACLES, START_MS, World, accept, signer
from rich_flow import RichFlow

from execution import leaves as lv
from execution.native import NativeState, price_changes
from protocol.actions import ApproveAgent, OraclePrice, RevokeAgent, SetMode
from protocol.errors import Code
from protocol.events import BatchExecuted
from protocol.keys import address_of
from protocol.settlement import InboxDeposit, account_number

COMMON = {
    -1, Code.OK, Code.MALFORMED, Code.BAD_SIGNATURE, Code.NOT_AUTHORISED, Code.NONCE_USED,
    Code.NONCE_EXPIRED, Code.NONCE_TOO_NEW, Code.AGENT_EXPIRED, Code.AGENT_REVOKED,
    Code.ACTION_EXPIRED, Code.UNKNOWN_ACCOUNT, Code.MIXED_BATCH,
}  # fmt: skip
"""Answers that every run must bring up; -1: a repeat."""

SEEDS = range(40, 40 + int(os.environ.get("TRILEMMA_FLOW_SEEDS", "4")))


class SignersFlow(RichFlow):
    """Batches of owners, agents and strangers, for accounts that are there or not, some of them
    forged, too late, too early, repeated, or no batches at all."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.agents = [bytes((0x50 + n,)) * 32 for n in range(24)]
        self.sent: list[bytes] = []
        self.used: dict[bytes, int] = {}
        """A nonce of each signer."""

    def batch(self, size: int) -> bytes:
        rng, world = self.rng, self.world
        draw = rng.random()
        if self.sent and draw < 0.08:
            return rng.choice(self.sent[-60:])
        if draw < 0.11:
            raw = rng.choice(self.sent) if self.sent else b"\x93"
            return raw[: rng.randrange(len(raw))] + rng.randbytes(rng.randrange(3))
        account = rng.choice(world.accounts)
        if draw < 0.25:
            master = rng.choice((account & 0xFFFF, 99))
            account = account_number(master, rng.randrange(6), rng.choice((-1, 0, 2)))
        by = signer(account & 0xFFFF)
        if draw > 0.7:
            by = rng.choice((*self.agents, signer(17), ORACLES[0]))
        actions = [self.own(account) for _ in range(size)]
        if draw < 0.5:
            agent, until = rng.choice(self.agents), world.time_ms + rng.randint(-300, 4_000)
            actions.append(rng.choice((ApproveAgent(agent, until), ApproveAgent(agent, until),
                                       RevokeAgent(agent))))  # fmt: skip
        elif draw < 0.52:
            actions.append(OraclePrice(0, 1_000))
        odd = self.oddities()
        if 0.3 < draw < 0.34 and by in self.used:
            odd["nonce"] = self.used.pop(by)
        raw = world.batch(account, *actions, by=by, **odd)
        self.used[by] = odd.get("nonce", world.nonce)
        self.sent.append(raw)
        return raw

    def oddities(self) -> dict[str, Any]:
        """Now and then a bad signature, an expiry, a nonce out of turn."""
        rng, world = self.rng, self.world
        draw, odd = rng.random(), dict[str, Any]()
        if draw < 0.06:
            odd["signature"] = BAD
        elif draw < 0.12:
            odd["expires_ms"] = world.time_ms + rng.randint(-900, 900)
        elif draw < 0.2:
            near = world.nonce - rng.randrange(90)
            odd["nonce"] = rng.choice((near, near, near, START_MS - 172_900_000, START_MS * 2, 0))
        return odd

    def prices(self) -> list[bytes]:
        raws = super().prices()
        rng, world = self.rng, self.world
        if rng.random() < 0.5:
            raws.pop(rng.randrange(len(raws)))
        by = rng.choice((*ORACLES, signer(16)))
        action = rng.choice((OraclePrice(rng.randrange(4), rng.randint(-5, 3_000)), SetMode(1, 2)))
        raws.append(world.batch(rng.choice((0, 0, 16)), action, by=by, **self.oddities()))
        return raws


def answers(judged: list[Any]) -> list[BatchExecuted]:
    """How batches are answered by what was judged of them, results apart."""
    found = []
    for opened, verdict in judged:
        code = verdict.code
        if opened.batch is None or code == Code.BAD_SIGNATURE:
            found.append(BatchExecuted(0, b"", 0, code, []))
            continue
        batch, by = opened.batch, opened.signed.signer
        repeated = verdict.kept is not None
        found.append(BatchExecuted(batch.account, by, batch.nonce_ms, code, [], repeated))
    return found


def follow(native: NativeState, world: World, raws: list[bytes], inbox: list[Any]) -> None:
    """A block in both; they must agree on all that both know."""
    events = world.block(raws, inbox).events
    changes = price_changes(native.posted(), world.last.changes)
    judged = native.apply(world.time_ms, inbox, raws, changes, accept)
    told = [e for e in events if isinstance(e, BatchExecuted)]
    plain = [BatchExecuted(e.account, e.signer, e.nonce_ms, e.code, [], e.duplicate) for e in told]
    assert answers(judged) == plain
    state = world.engine.state
    for market, prices in zip(state.markets, native.prices, strict=True):
        assert (prices.mark_ticks, prices.funding_index) == (
            market.mark_ticks, market.funding_index,
        )  # fmt: skip
        if not market.settled_ticks:
            assert prices.oracle_ticks == market.oracle_ticks


def check_leaves(native: NativeState, world: World, mirror: dict[bytes, bytes]) -> None:
    """Owners, agents, nonces and reports as the engine has them, leaf by leaf."""
    leaves, full = native.leaves(), world.engine.leaves()
    assert leaves == mirror, "the changes do not add up to the leaves"
    for kind in (lv.AGENT, lv.ORACLE):
        mine = {key: leaf for key, leaf in leaves.items() if key[:1] == kind}
        assert mine == {key: leaf for key, leaf in full.items() if key[:1] == kind}
    used = {key for key in leaves if key[:1] == lv.NONCE}
    assert used == {key for key in full if key[:1] == lv.NONCE}
    for key in used:
        assert leaves[key][1:12] == full[key][1:12], "another nonce or batch stands in a slot"
    owners = {key for key in leaves if key[:1] == lv.ACCOUNT}
    assert owners == {
        lv.account_key(number) for number, one in world.engine.state.accounts.items() if one.address
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_admissions_nonces_agents_and_prices_are_those_of_the_engine(seed: int) -> None:
    flow = SignersFlow(seed)
    world = flow.world
    native = NativeState(world.chain)
    mirror = native.leaves()
    for height, result in enumerate(world.past, 1):
        known = flow.known if height == 1 else []
        deposits = [InboxDeposit(0, n, address_of(signer(n)), 1) for n in known]
        changes = price_changes(native.posted(), result.changes)
        native.apply(START_MS + height * world.block_ms, deposits, [], changes, accept)
    saved = dict(mirror)
    codes: dict[int, int] = {}
    for number in range(450):
        raws = [flow.batch(flow.rng.randint(1, 3)) for _ in range(7)]
        if flow.rng.random() < 0.4:
            raws += flow.prices()
        flow.rng.shuffle(raws)
        follow(native, world, raws, flow.inbox())
        for key, leaf in native.take_changes().items():
            if leaf is None:
                del mirror[key]
            else:
                mirror[key] = leaf
        for event in world.of(BatchExecuted):
            code = -1 if event.duplicate else event.code
            codes[code] = codes.get(code, 0) + 1
        if number % 20 == 4:
            saved = dict(mirror)
        if number % 20 == 9:
            check_leaves(native, world, mirror)
            differ = [key for key, leaf in mirror.items() if saved.get(key) != leaf]
            gone = [key for key in saved if key not in mirror]
            native.put_back({key: saved.get(key) for key in differ + gone})
            assert native.leaves() == saved, "the way back leads elsewhere"
            assert NativeState.restore(world.chain, saved.items()).leaves() == saved
            native = NativeState.restore(world.chain, reversed(list(mirror.items())))
    print(codes)
    assert codes.keys() >= COMMON
