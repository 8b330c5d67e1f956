"""The validator process: links to the other validators, public port, disk, and the machines."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import structlog

from net.clock import now_ms
from net.logs import set_log_place
from net.runner import run_process, until_stopped
from net.service import PublicService, StatusValues
from node.peer import TransactionGossip
from node.process_clients import LedgerClients
from node.process_health import ValidatorHealth
from node.process_keeper import STATE_NAME, keep_in_child
from node.process_machines import build_machines, genesis_state_root
from node.process_peers import PeerLinks, ledger_neighbours
from node.process_signatures import AheadVerifier
from node.process_states import KeptStates
from node.rounds import Round
from node.snapshots import SyncedSnapshot
from node.store import ValidatorStore
from protocol.errors import ConfigError, Rejected
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages_states import StatePartRequest
from store.config import ProcessConfig
from store.ownership import may_sign

__all__ = ["ValidatorProcess", "genesis_state_root", "main"]

KEEP_S = 20.0
KEEP_MAX_S = 600.0
KEEP_TIMES = 9
"""After a state was kept, so many times as long passes as that took, within these bounds: it takes
a tenth of a core, or what it needs to keep up."""

_log = structlog.get_logger()


class ValidatorProcess:
    """Runs one validator."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        if config.role != "node":
            raise ConfigError(f"this is the configuration of a {config.role}, not of a node")
        if not config.peer_listen or len(config.peers) != len(chain.genesis.validators):
            raise ConfigError("a validator needs peer_listen, and all validators as peers")
        self._config, self._chain, self._key = config, chain, key
        self._store = ValidatorStore(config.data, chain)
        self._states = KeptStates(config.data / STATE_NAME)
        self._signer = key if may_sign(config) else None
        self._machines = build_machines(config, chain, self._signer, self._store)
        self._ahead = AheadVerifier(chain)
        self._ahead.serve(self._machines.ledger)
        self._wake = asyncio.Event()
        self._stopping = False
        self._rounds = 0
        self._note_durable()
        self._note_kept()
        self._peers = PeerLinks(config, chain, key, self._on_gossip, self._wake.set)
        self._follow_validators()
        self._clients = LedgerClients(
            self._machines, self._peers.send, self._wake.set, now_ms, self._ahead.submit
        )
        self._service = PublicService(chain, "node", config.name, self._status)
        self._clients.register(self._service)
        self._service.takes_large = self._clients.takes_large
        self._service.on(StatePartRequest, lambda _, request: self._states.part(request))
        self._committed = self._store.outcomes_stored()
        self._health = ValidatorHealth(self._service.metrics.histogram("ledger_commit_seconds"))
        self._service.trouble, self._service.note = self._trouble, self._way_out
        set_log_place(self._place)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`; a round that has begun is finished and synced."""
        rounds: asyncio.Task[None] | None = None
        keeper = asyncio.ensure_future(self._keep_states())
        try:
            await self._peers.start()
            port = await self._service.open(self._config)
            rounds = asyncio.ensure_future(self._run_rounds())
            _log.info("validator ready", height=self._machines.ledger.height, port=port)
            if self._signer is None:
                _log.warning("restored from a backup: it follows and serves, and signs nothing")
            fatal = self._service.fatal
            others = [] if fatal is None else [fatal]
            await until_stopped(stop, rounds, self._peers.mesh.failure, *others)
        finally:
            self.stop_rounds()
            keeper.cancel()
            await asyncio.wait([keeper])
            if rounds is not None:
                await asyncio.wait([rounds])
            await self._service.stop()
            await self._peers.close()
            self._ahead.close()
            self._store.close()
        rounds.result()
        _log.info("validator stopped", height=self._machines.ledger.height)

    # --- rounds

    def stop_rounds(self) -> None:
        """The round under way is the last."""
        self._stopping = True
        self._peers.stop_waiting()
        self._wake.set()

    async def _run_rounds(self) -> None:
        while not self._stopping:
            await self._wait_for_round()
            done = self._machines.validator.run(self._peers.take(), now_ms())
            self._clients.begin(done)
            if done.batch:
                await asyncio.to_thread(self._store.write, done.batch)
            self._publish(done)
            if done.snapshot is not None:
                await self._start_anew(done.snapshot)
            self._rounds += 1

    async def _wait_for_round(self) -> None:
        """Return when a message waits or the machine has something due."""
        self._wake.clear()
        if self._peers.waiting or self._stopping:
            return
        delay_ms = self._machines.validator.next_deadline_ms() - now_ms()
        if delay_ms > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay_ms / 1000)
        else:
            await asyncio.sleep(0)  # rounds that follow at once must not shut out the links

    def _publish(self, done: Round) -> None:
        """Everything of the round is durable: send its messages, answer its submissions."""
        if done.epoch_began is not None:
            members = done.epoch_began
            _log.info("epoch began", epoch=members.epoch, members=len(members))
        if done.peers_changed:
            self._follow_validators()
        self._note_durable()
        self._health.note(self._machines.validator, done.executed, now_ms())
        self._peers.send(done.messages)
        self._committed += sum(len(block.outcome.results) for block in done.executed)
        self._clients.publish(done)

    def _note_durable(self) -> None:
        """What the status tells of the ledger is on disk."""
        self._height, self._root = self._machines.ledger.height, self._machines.ledger.root

    async def _start_anew(self, snapshot: SyncedSnapshot) -> None:
        """Put a snapshot in the place of what we have, and go on from there."""
        await asyncio.to_thread(self._store.install_snapshot, snapshot)
        self._machines = build_machines(self._config, self._chain, self._signer, self._store)
        self._ahead.serve(self._machines.ledger)
        self._note_durable()
        self._note_kept()
        self._health.start_anew()
        self._clients.start_anew(self._machines)
        self._follow_validators()
        _log.info("ledger taken from a snapshot", height=snapshot.height)

    async def _keep_states(self) -> None:
        """Where old blocks are to go, or are gone, keep the state that they lead to; see
        `process_keeper`."""
        config, loop = self._config, asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            needed = config.retain_blocks > 0 or self._store.retained_from() > 1
            if needed and self._machines.ledger.final().batch > self._machines.validator.kept_batch:
                try:
                    await keep_in_child(config.data, config.genesis, config.validators)
                except ConfigError as error:
                    _log.warning("state not kept, old batches stay", error=str(error))
                self._note_kept()
            took_s = loop.time() - began_s
            await asyncio.sleep(min(KEEP_MAX_S, max(KEEP_S, KEEP_TIMES * took_s)))

    def _note_kept(self) -> None:
        """Blocks may go behind the state that is on disk, and behind no other."""
        try:
            self._machines.validator.kept_batch = self._states.batch()
        except Rejected as error:
            _log.error("the kept state is damaged, and is made anew", error=error.text)

    def _follow_validators(self) -> None:
        self._peers.follow(ledger_neighbours(self._machines.ledger))

    def _on_gossip(self, message: TransactionGossip) -> None:
        # What the pool refuses, or has, is worth no work of the thread: a liar would keep it busy.
        for raw in self._machines.validator.gossip(message, now_ms()):
            self._ahead.submit(raw)
        self._wake.set()

    # --- status

    def _status(self) -> StatusValues:
        ledger, validator = self._machines.ledger, self._machines.validator
        mempool, replica = validator.app.mempool, validator.replica
        shard, final = ledger.shard_leaf(), ledger.final()
        ledger_bytes, state_bytes = self._store.size_bytes(), self._states.stored_bytes()
        values: StatusValues = {
            "height": self._height,
            "view": replica.view,
            "epoch": validator.members.epoch,
            "members": len(validator.members),
            "validating": "yes" if validator.is_member else "no",
            "time_ms": self._machines.queries.tip_time_ms,
            "ledger_root": self._root.hex(),
            "conserved": "yes" if ledger.conserved else "no",
            "committed_transactions": self._committed,
            "mempool": len(mempool),
            "mempool_bytes": mempool.total_bytes,
            "waiting_submissions": len(self._clients.desk),
            "gossip_refused": 0,
            "peers": len(self._peers.mesh.connected),
            "certificate_end_s": self._peers.certificate_end_s,
            "inbox_entries": ledger.inbox().count,
            "inbox_cursor": shard.inbox_cursor,
            "batches_settled": shard.batch,
            "last_batch": shard.batch,
            "last_ordered_block": shard.last_block,
            "final_batch": final.batch,
            "final_ordered_block": final.last_block,
            "open_disputes": ledger.disputes.count,
            "removed_batches": ledger.counters.removed_batches,
            "frozen": "yes" if ledger.frozen else "no",
            "bridge_funds_uusd": shard.funds_uusd,
            "underfunded_payouts": ledger.counters.underfunded_payouts,
            "store_bytes": ledger_bytes + state_bytes,
            "ledger_bytes": ledger_bytes,
            "state_bytes": state_bytes,
            "kept_batch": validator.kept_batch,
            "blocks_from": self._store.retained_from(),
            "rounds": self._rounds,
            "snapshot_failure": validator.snapshot_failure,
        }
        values.update(sorted(validator.counters.items()))
        for name, count in sorted(replica.counters.items()):
            values[f"consensus_{name}"] = count
        for name, count in sorted(self._peers.mesh.rejected.items()):
            values[f"peer_{name}"] = count
        return values

    def _trouble(self) -> str:
        peers = self._peers.mesh.connected
        return self._health.trouble(self._machines.validator, peers, now_ms())

    def _way_out(self) -> str:
        """A frozen shard is still served: its users need the way out."""
        frozen = self._machines.ledger.frozen
        return "the shard is frozen: claims and refunds are the way out" if frozen else ""

    def _place(self) -> dict[str, int]:
        machines = self._machines
        return {
            "height": self._height,
            "view": machines.validator.replica.view,
            "batch": machines.ledger.shard_leaf().batch,
        }


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    await ValidatorProcess(config, chain, key).serve(stop)


def main(config_path: Path) -> int:
    """Run the validator of a configuration file; returns the exit status."""
    return run_process(config_path, "node", _serve)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m node.process FILE", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
