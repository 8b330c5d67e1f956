"""The machines of a validator, built from what its store holds."""

from __future__ import annotations

from dataclasses import dataclass

from execution.engine import Engine
from node.app import LedgerApplication
from node.ledger import Ledger
from node.machine import Validator
from node.queries import LedgerQueries
from node.rounds import replica_config
from node.snapshots import SnapshotSource
from node.store import ValidatorStore
from protocol.genesis import Chain
from protocol.keys import Key
from prover.tree import StateTree
from store.config import ProcessConfig


@dataclass(frozen=True, slots=True)
class Machines:
    """Ledger, replica and queries over one store; another set of them follows a snapshot."""

    store: ValidatorStore
    ledger: Ledger
    validator: Validator
    queries: LedgerQueries


def genesis_state_root(chain: Chain) -> bytes:
    """Root of the shard's state before its first block (32 bytes)."""
    return StateTree(Engine(chain).leaves().items()).root


def build_machines(
    process: ProcessConfig, chain: Chain, key: Key | None, store: ValidatorStore
) -> Machines:
    """Machines that go on where the store ends; without a key they sign nothing.

    Raises `ConfigError` for the store of another chain, `SafetyViolation` for a damaged one.
    """
    config = replica_config(chain.genesis.ledger_pace)
    ledger = store.load_ledger(genesis_state_root(chain))
    app = LedgerApplication(ledger, config.max_payload_bytes)
    validator = Validator(
        chain, key, app, store.genesis_root(), store.recovered(),
        config=config, stored=store.block, retained_from=store.retained_from,
        retain_blocks=process.retain_blocks,
        snapshots=SnapshotSource(store, store.snapshot_base(), process.snapshot_interval),
    )  # fmt: skip
    return Machines(store, ledger, validator, LedgerQueries(ledger, store))
