"""Genesis rules of settlement: when a batch is final, what a lie costs, and the way out.

All times are window time: the ledger's own time, in which a standstill of the chain is one step.
Amounts are micro-dollars.
"""

from __future__ import annotations

import msgspec

from protocol.errors import ConfigError
from protocol.markets import CASH_MOVE_LIMIT, DAY_MS, PPM

OPTIMISTIC = "optimistic"
"""A batch is final when its window has passed without a successful dispute."""

OPEN_BATCHES_MAX = 1 << 16
"""Most settled batches of a shard that are not final, so that removing them all fits one block."""

SECTIONS_MAX = 64
"""Most parts into which a move of a dispute cuts a segment."""


class SettlementRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Windows, bonds, forced actions and exits.

    `window_ms`: how long a settled batch can be disputed (0: it is final at once).
    `prover_bond_uusd` is locked with each batch until it is final, `challenger_bond_uusd` with each
    dispute. `clock_ms`: what each side of a dispute may take for all its moves together.
    `sections`: the parts into which a move cuts a segment. `forced_ms`: a shard that leaves an
    inbox entry waiting for longer freezes (0: never); so does one without a batch for `outage_ms`
    (0: never) while something waits. `claim_ms`: how long claims on a frozen shard register.
    `forced_fee_uusd`: what a forced action costs above the fee for its bytes. `exit_hour_ppm` and
    `exit_day_ppm`: how much of what the bridge holds may be paid out within an hour and a day.
    `keep_batches`: newest final batches that the ledger's state remembers (0: all); older ones
    go once their withdrawals are paid. `native_checks`: whether validators follow the signers,
    nonces and prices of every batch, the last of which its prover then posts.
    """

    mode: str = OPTIMISTIC
    window_ms: int = 0
    prover_bond_uusd: int = 0
    challenger_bond_uusd: int = 0
    clock_ms: int = 60_000
    sections: int = 16
    forced_ms: int = 0
    outage_ms: int = 0
    claim_ms: int = DAY_MS
    forced_fee_uusd: int = 0
    exit_hour_ppm: int = PPM
    exit_day_ppm: int = PPM
    keep_batches: int = 0
    native_checks: bool = False


def check_settlement(rules: SettlementRules) -> None:
    """Raise `ConfigError` naming the first rule that is out of range."""
    if rules.mode != OPTIMISTIC:
        raise ConfigError(f"genesis: settlement.mode must be {OPTIMISTIC}, not {rules.mode!r}")
    for name in ("window_ms", "forced_ms", "outage_ms", "keep_batches"):
        if getattr(rules, name) < 0:
            raise ConfigError(f"genesis: settlement.{name} must not be negative")
    for name in ("clock_ms", "claim_ms"):
        if getattr(rules, name) < 1:
            raise ConfigError(f"genesis: settlement.{name} must be above 0")
    for name in ("prover_bond_uusd", "challenger_bond_uusd", "forced_fee_uusd"):
        if not 0 <= getattr(rules, name) < CASH_MOVE_LIMIT:
            raise ConfigError(f"genesis: settlement.{name} must be 0 to {CASH_MOVE_LIMIT - 1}")
    if not 2 <= rules.sections <= SECTIONS_MAX:
        raise ConfigError(f"genesis: settlement.sections must be 2 to {SECTIONS_MAX}")
    disputed_ms = rules.window_ms + 2 * rules.clock_ms if rules.window_ms else 0
    for name in ("forced_ms", "outage_ms"):
        if 0 < getattr(rules, name) <= disputed_ms:
            raise ConfigError(
                f"genesis: settlement.{name} must be above window_ms + 2 x clock_ms, "
                f"{disputed_ms}: else a lie that is removed late freezes the shard"
            )
    if not 0 < rules.exit_hour_ppm <= rules.exit_day_ppm <= PPM:
        raise ConfigError(
            "genesis: settlement.exit_hour_ppm and exit_day_ppm must be 1 to 1000000, "
            "the hour's not above the day's"
        )
