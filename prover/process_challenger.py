"""The challenger process: executes every settled batch anew, and disputes what is wrong."""

from __future__ import annotations

import asyncio
import gc
import shutil
from pathlib import Path

import structlog

from execution.process_inbox import InboxFollower
from execution.process_light import CHECKPOINT_NAME, LightFollower
from net.logs import set_log_place
from net.runner import run_process, until_stopped
from net.service import PublicService, StatusValues
from net.upstream import Upstream
from protocol.codec import encode
from protocol.dispute import Prove, ShowPart
from protocol.errors import ConfigError, Rejected
from protocol.genesis import Chain, Fees
from protocol.keys import Key
from protocol.messages import BalanceRequest, BalanceView, Committed, SubmitTransaction
from protocol.settlement import LedgerAction, sign_action
from prover.challenger import Challenger, FinalState, decode_final_state
from prover.contest import Challenging
from prover.process_contest import ProcessContest
from store.config import ProcessConfig, parse_address
from store.files import write_atomic
from store.segments import SegmentLog

STATE_NAME = "final-state"
"""File of the newest final state that was kept, from which a restart goes on."""

WINDOW_NAME = "window"
"""Folder with what older blocks changed whose batches are not final; begun anew at each start."""

WINDOW_FILE_BYTES = 16 * 1024 * 1024
"""A file goes when all of its blocks are final."""

INBOX_CHECKPOINT_NAME = "checkpoint-inbox.json"
KEEP_INTERVAL_S = 120
SEND_TIMEOUT_MS = 20_000
ENVELOPE_BYTES = 512
"""More than what a signed transaction has beside its action."""

FEE_TIMES = 100
"""Moves pay so many times the least fee: they are rare, and must not wait behind a flood."""

_log = structlog.get_logger()


class ChallengerProcess:
    """Runs one challenger; its bonds and fees come out of its key's ledger balance."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        self._config = config
        self._chain = chain
        self._key = key
        self._state_path = config.data / STATE_NAME
        self._window = empty_log(config.data / WINDOW_NAME)
        self._machine = Challenger(chain, key.address, self._stored(), self._window)
        self._kept = self._machine.final.batch
        validators = [parse_address(one) for one in config.validators]
        self._ledger = Upstream(validators, chain.chain_id, config.name, key)
        self._plays = False
        self._light = LightFollower(chain, self._ledger, config.data / CHECKPOINT_NAME)
        self._inbox = InboxFollower(
            chain, validators, config.name, checkpoint=config.data / INBOX_CHECKPOINT_NAME,
            needed=self._machine.final.inbox_cursor,
        )  # fmt: skip
        self._contest = ProcessContest(self._ledger, self._light.leaves, self._send)
        self._work = Challenging(self._contest, self._machine, self._inbox, self._inbox)
        self._service = PublicService(chain, "challenger", config.name, self._status)
        self._service.trouble = lambda: self._machine.lost
        self._service.note = self._note
        set_log_place(lambda: {"height": self._machine.block, "batch": self._machine.next - 1})

    def _stored(self) -> FinalState | None:
        """The state to go on from; raises `ConfigError` where the file is damaged."""
        try:
            return decode_final_state(self._state_path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, Rejected) as error:
            raise ConfigError(
                f"the state in {self._state_path} cannot be used; delete it to check from genesis "
                f"on ({error})"
            ) from None

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        port = await self._service.open(self._config)
        gc.freeze()  # the state lives on: collecting it again and again only costs time
        tasks = [
            asyncio.ensure_future(self._inbox.run()),
            asyncio.ensure_future(self._light.stay_fresh()),
            asyncio.ensure_future(self._work.run()),
            asyncio.ensure_future(self._keep()),
        ]
        _log.info("challenger ready", batch=self._machine.next, port=port)
        try:
            fatal = self._service.fatal
            await until_stopped(stop, *tasks, *([] if fatal is None else [fatal]))
        finally:
            for task in tasks:
                task.cancel()
            await self._service.stop()

    async def _keep(self) -> None:
        """Keep a final state now and then, so that a restart need not begin at genesis."""
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            if self._machine.final.batch == self._kept or self._machine.lost:
                continue
            async with self._contest.busy:
                state = self._machine.final_state()
            await asyncio.to_thread(write_atomic, self._state_path, encode(state))
            self._kept = state.final.batch

    async def _send(self, action: LedgerAction) -> Committed:
        address = self._key.address
        shows = isinstance(action, Prove | ShowPart)
        if shows and not self._plays:
            # Validators take large frames in sessions that begin while a game of ours is open.
            await self._ledger.drop()
        self._plays = shows
        balance = await self._ledger.ask(
            BalanceView, lambda request_id: BalanceRequest(request_id, address)
        )
        fee_uusd = move_fee_uusd(self._chain.genesis.fees, action)
        signed = sign_action(self._key, self._chain, balance.nonce, action, fee_uusd)
        return await self._ledger.ask(
            Committed, lambda request_id: SubmitTransaction(request_id, signed), SEND_TIMEOUT_MS
        )

    def _note(self) -> str:
        machine = self._machine
        return f"batch {machine.next} is wrong: {machine.wrong}" if machine.wrong else ""

    def _status(self) -> StatusValues:
        machine = self._machine
        return {
            "batch": machine.next - 1,
            "height": machine.block,
            "final_batch": machine.final.batch,
            "checked_batches": machine.checked_batches,
            "checked_blocks": machine.checked_blocks,
            "wrong_batches": machine.wrong_batches,
            "wrong": machine.wrong,
            "lost": machine.lost,
            "open_dispute": int(machine.game is not None),
            "last": self._contest.last,
            "store_bytes": self._window.stored_bytes,
        }


def empty_log(directory: Path) -> SegmentLog:
    """A log without records, whatever an earlier run left there; that is made again from the base
    layer. Raises what `SegmentLog` raises.

    It needs no close, which would only sync it, maybe while a thread still writes.
    """
    shutil.rmtree(directory, ignore_errors=True)
    return SegmentLog(directory, WINDOW_FILE_BYTES)


def move_fee_uusd(fees: Fees, action: LedgerAction) -> int:
    """What a move pays for its place, which grows with its bytes as the least fee does."""
    return FEE_TIMES * fees.least_uusd(len(encode(action)) + ENVELOPE_BYTES)


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    await ChallengerProcess(config, chain, key).serve(stop)


def main(config_path: Path) -> int:
    """Run the challenger of a configuration file; returns the exit status."""
    return run_process(config_path, "challenger", _serve)
