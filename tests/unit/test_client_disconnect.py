"""Cancel on disconnect as a client uses it: armed with every session, renewed, taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
from sequencer_world import ALICE, BOB, Shell, run, serving

import sequencer.on_disconnect as on_disconnect
from client.channel import Channel
from client.disconnect import AHEAD_MS, CancelOnDisconnect
from client.nonces import NonceSource, wall_clock_ms
from client.sdk import Exchange
from protocol.actions import ALL_MARKETS, CancelAll, batch_id, open_batch
from protocol.errors import RemoteFault


def exchange_of(shell: Shell) -> Exchange:
    host, port = shell.address
    return Exchange(shell.chain, {"sequencer": [f"{host}:{port}"]}, patience_ms=5_000)


def accounts(raws: list[bytes]) -> list[int]:
    batches = [open_batch(raw)[1] for raw in raws]
    assert all(batch.actions == [CancelAll(ALL_MARKETS)] for batch in batches)
    return [batch.account for batch in batches]


def test_a_closed_exchange_cancels_unless_it_took_the_batch_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            async with exchange_of(shell) as exchange:
                guard = await exchange.cancel_on_disconnect(ALICE, 16)
                assert guard.armed and guard.given == 1
                before = exchange.nonces(ALICE.public).take(wall_clock_ms())
                assert before <= wall_clock_ms() + 1
            (raw,) = await shell.settle(1)
            assert accounts([raw]) == [16]
            assert open_batch(raw)[1].nonce_ms > before + AHEAD_MS // 2
            async with exchange_of(shell) as exchange:
                guard = await exchange.cancel_on_disconnect(BOB, 17)
                await guard.release()
                assert not guard.armed
            assert len(await shell.settle(1)) == 1

    run(scenario())


def test_every_new_session_begins_with_a_new_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell, exchange_of(shell) as exchange:
            guard = await exchange.cancel_on_disconnect(ALICE, 16)
            for count in (1, 2):
                (session,) = shell.process._sessions.values()
                session.link.transport.abort()
                assert accounts(await shell.settle(count)) == [16] * count
                assert not guard.armed
                await exchange._channel("submit", "sequencer").session()
                assert guard.armed and guard.given == count + 1
            assert len(set(map(batch_id, shell.ordered()))) == 2

    run(scenario())


def test_the_batch_is_renewed_before_its_nonce_grows_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.disconnect.RENEW_MS", 30)

    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell, exchange_of(shell) as exchange:
            guard = await exchange.cancel_on_disconnect(ALICE, 16)
            await shell.until(lambda: guard.given >= 4)
            assert shell.process._on_disconnect.held == 1

    run(scenario())


def test_a_refusal_is_told_at_once_and_noted_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            host, port = shell.address
            channel = Channel(shell.chain, "sequencer", [f"{host}:{port}"], 2_000)
            guard = CancelOnDisconnect(shell.chain, channel, NonceSource(), ALICE, 16)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(on_disconnect, "TOTAL_BATCHES", 0)
                with pytest.raises(RemoteFault):
                    await guard.arm()
                assert not guard.armed and not channel.on_open
            await guard.arm()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(on_disconnect, "TOTAL_BATCHES", 0)
                await channel.close()
                await channel.session()
                assert not guard.armed and guard.problem is not None
            await shell.until(lambda: guard.armed)  # it is given anew before long
            await guard.stop()
            await channel.close()

    run(scenario())


def test_reserved_nonces_are_ahead_and_never_taken_again() -> None:
    source = NonceSource()
    assert source.take(1_000) == 1_000
    ahead = [source.reserve(1_000, 10), source.reserve(1_000, 10), source.reserve(1_001, 10)]
    assert ahead == [1_010, 1_011, 1_012]
    taken = [source.take(1_008) for _ in range(5)]
    assert taken == [1_008, 1_009, 1_013, 1_014, 1_015]
    assert source.reserve(1_000, 10) == 1_025
    assert source.take(1_025) == 1_026
    # Those that the clock has passed are forgotten, and not taken by a clock set back.
    assert source.reserve(2_000, 10) == 2_010
    assert source.reserve(3_000, 10) == 3_010
    assert source.take(1_500) == 2_011
