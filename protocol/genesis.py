"""The genesis file: everything that all processes of a chain must agree on before they start.

It is JSON for people; keys and certificates are hex. The chain id is a hash of the file's bytes.
Limits keep every product of the engine and of proofs inside its range.
"""

from __future__ import annotations

import msgspec

from protocol.chain import Member
from protocol.dispute import STEPS_PER_BLOCK, WITNESS_LEAVES
from protocol.errors import ConfigError
from protocol.keys import ADDRESS_BYTES, domain_hash
from protocol.markets import CASH_LIMIT as CASH_LIMIT
from protocol.markets import CASH_MOVE_LIMIT as CASH_MOVE_LIMIT
from protocol.markets import DAY_MS as DAY_MS
from protocol.markets import NOTIONAL_LIMIT as NOTIONAL_LIMIT
from protocol.markets import PPM as PPM
from protocol.markets import PRICE_LIMIT as PRICE_LIMIT
from protocol.markets import SIZE_LIMIT as SIZE_LIMIT
from protocol.markets import VALUE_LIMIT as VALUE_LIMIT
from protocol.markets import FeeTier as FeeTier
from protocol.markets import MarginTier as MarginTier
from protocol.markets import MarketConfig as MarketConfig
from protocol.markets import check_market
from protocol.windows import SettlementRules as SettlementRules
from protocol.windows import check_settlement

MARKETS_MAX = 1 << 14
SHARDS_MAX = 1 << 16
ORDERED_PAYLOAD_BYTES = (32 * 1024, 1_536 * 1024)
"""Least and most of the sequencers' `max_payload_bytes`: a block must hold any signed batch of a
client, and its data must fit one batch of settlement."""
ACCOUNT_LEAVES = 5
"""The account itself, dead-man's switch, distress, volume, and the order that trades."""
MARKET_LEAVES = 2
"""A market and its prices, without votes and reports."""
NO_BOUND_US = 1 << 62
MAX_VALIDATORS = 100
"""Most members of an epoch: with certificates and addresses they fit one leaf of the ledger."""
MAX_CERTIFICATE_BYTES = 512
MAX_PEER_ADDRESS_BYTES = 64


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A validator or sequencer: signing key, weight and TLS certificate (DER), in hex.

    A validator's stake is micro-dollars that it has bonded, part of the ledger's supply."""

    name: str
    public_key: str
    stake: int
    certificate: str

    def member(self) -> Member:
        """The identity as a consensus member."""
        return Member(bytes.fromhex(self.public_key), self.stake)


class GenesisAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address with money at genesis: on the ledger, and already on its way into the shard."""

    address: str
    balance_uusd: int
    deposit_uusd: int


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pace of a consensus chain, in milliseconds; see `consensus` for what each one does."""

    block_interval_ms: int
    empty_interval_ms: int
    idle_interval_ms: int
    timeout_ms: int
    timeout_max_ms: int
    max_payload_bytes: int


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the sequencers order, so that execution keeps pace with the log.

    Of the time since the block before, counted up to `burst_ms`, a block may fill `busy_ppm` with
    work (0: no bound); a batch is `batch_us` of work and each of its actions `action_us`. One batch
    always fits, and so do oracle prices.
    """

    busy_ppm: int = 0
    batch_us: int = 82
    action_us: int = 8
    burst_ms: int = 1_000

    def work_us(self, actions: int) -> int:
        """Work of a batch with so many actions, in microseconds."""
        return self.batch_us + actions * self.action_us

    def allowed_us(self, since_ms: int) -> int:
        """Work for which a block may ask that comes `since_ms` after the block before."""
        if not self.busy_ppm:
            return NO_BOUND_US
        return max(0, min(since_ms, self.burst_ms)) * self.busy_ppm // 1_000


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds that everybody enforces alike. `reduce_only_orders`: resting ones of an account in a
    market, since each fill of the account may have to shrink them. `positions_per_account`: markets
    in which an account holds a position or orders. `refusals_per_action`: makers that an action may
    meet of whose orders all count, as their margin forbids a fill or their protection ends them."""

    orders_per_account: int = 2_000
    fills_per_action: int = 500
    fills_per_block: int = 50_000
    agents_per_account: int = 32
    reduce_only_orders: int = 32
    positions_per_account: int = 64
    inbox_per_block: int = 256
    subaccounts: int = 16
    triggers_per_account: int = 100
    triggers_per_market: int = 100_000
    twaps_per_account: int = 10
    triggers_per_block: int = 1_000
    expiries_per_block: int = 1_000
    liquidation_items_per_block: int = 500
    deleverage_counterparties: int = 100
    refusals_per_action: int = 64

    @property
    def refusal_fills(self) -> int:
        """As many of an action's fills as a maker counts for of whose orders all count."""
        return -(-self.fills_per_action // self.refusals_per_action)


class Liquidation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How positions of accounts below maintenance are closed.

    Of a position above `partial_notional_uusd`, `partial_ppm` goes first and the rest
    `partial_wait_ms` later. The backstop closes `unwind_ppm` of each position every `unwind_ms`,
    within `unwind_slippage_ppm` of the mark.
    """

    partial_notional_uusd: int = 100_000_000_000
    partial_ppm: int = 200_000
    partial_wait_ms: int = 30_000
    unwind_ms: int = 10_000
    unwind_ppm: int = 100_000
    unwind_slippage_ppm: int = 10_000


class Reopening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Markets reopen in stages when no block came for `gap_ms` (0: never): cancel-only until prices
    have been fresh for `cancel_only_ms`, then post-only for `post_only_ms`."""

    gap_ms: int = 0
    cancel_only_ms: int = 5_000
    post_only_ms: int = 10_000


class Staking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules of the validator set. Times are ledger time in milliseconds, stakes micro-dollars.

    An epoch ends with the first block whose time reaches `epoch_ms` after the last end; 0 is one
    epoch for ever, in which nobody bonds or unbonds. `unbonding_ms`, counted from the end of the
    epoch in which the stake was last in force, outlasts `evidence_ms` (how old an offence may be)
    and `trusting_ms` (how old a light client's checkpoint may be). `slash_ppm` of the stake of a
    member that signed against itself is burnt, and it is jailed for `jail_ms`.
    """

    epoch_ms: int = 0
    min_stake_uusd: int = 1
    max_validators: int = MAX_VALIDATORS
    unbonding_ms: int = 14 * DAY_MS
    evidence_ms: int = 7 * DAY_MS
    trusting_ms: int = 7 * DAY_MS
    slash_ppm: int = 50_000
    jail_ms: int = DAY_MS


class Fees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Least fee of a ledger transaction, in micro-dollars: for each, and for each KiB begun."""

    base_uusd: int = 0
    per_kib_uusd: int = 0

    def least_uusd(self, size_bytes: int) -> int:
        """Least fee of an encoded signed transaction of this size, rounded up."""
        return self.base_uusd + -(-size_bytes // 1024) * self.per_kib_uusd


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chain: identities, markets, money at genesis, pace and limits.

    `oracle_stakes` weigh the `oracles` (empty: all alike). `guardians` vote market modes. A
    `testnet` may be broken on purpose. `cancels_first`: cancels and post-only orders of a block
    come before liquidations and everything that can take. The funds start with `insurance_uusd` and
    `backstop_uusd`.
    """

    name: str
    time_ms: int
    shard: int
    validators: list[Identity]
    sequencers: list[Identity]
    provers: list[str]
    oracles: list[str]
    markets: list[MarketConfig]
    accounts: list[GenesisAccount]
    ledger_pace: Pace
    sequencer_pace: Pace
    limits: Limits = msgspec.field(default_factory=Limits)
    capacity: Capacity = msgspec.field(default_factory=Capacity)
    staking: Staking = msgspec.field(default_factory=Staking)
    fees: Fees = msgspec.field(default_factory=Fees)
    oracle_stakes: list[int] = []
    guardians: list[str] = []
    testnet: bool = False
    cancels_first: bool = False
    insurance_uusd: int = 0
    backstop_uusd: int = 0
    liquidation: Liquidation = msgspec.field(default_factory=Liquidation)
    reopening: Reopening = msgspec.field(default_factory=Reopening)
    settlement: SettlementRules = msgspec.field(default_factory=SettlementRules)

    def market(self, symbol_or_number: str) -> MarketConfig:
        """The market of this symbol or number; raises `ConfigError` naming the known ones."""
        for config in self.markets:
            if symbol_or_number in (config.symbol, str(config.market)):
                return config
        known = ", ".join(config.symbol for config in self.markets)
        raise ConfigError(f"there is no market {symbol_or_number!r}; there are {known}")


class Chain(msgspec.Struct, frozen=True):
    """A parsed genesis with its ids: of the base layer, and of the sequencers' log."""

    genesis: Genesis
    chain_id: bytes
    log_id: bytes


def parse_genesis(raw: bytes) -> Chain:
    """Parse and check a genesis file; raises `ConfigError` with what is wrong."""
    try:
        genesis = msgspec.json.decode(raw, type=Genesis)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the genesis file is malformed: {error}") from None
    _check_identities(genesis)
    _check_bounds(genesis)
    for number, market in enumerate(genesis.markets):
        check_market(number, market)
    for account in genesis.accounts:
        if len(_hex("account address", account.address)) != ADDRESS_BYTES:
            raise ConfigError(f"genesis: an address has {ADDRESS_BYTES} bytes: {account.address}")
        if min(account.balance_uusd, account.deposit_uusd) < 0:
            raise ConfigError(f"genesis: negative money for {account.address}")
    chain_id = domain_hash(b"trilemma/chain", raw)
    return Chain(genesis, chain_id, domain_hash(b"trilemma/log", chain_id))


def _hex(what: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"genesis: {what} is not hex: {text!r}") from None


def _check_identities(genesis: Genesis) -> None:
    for role, identities in (
        ("validators", genesis.validators),
        ("sequencers", genesis.sequencers),
    ):
        if not identities:
            raise ConfigError(f"genesis: there are no {role}")
        for identity in identities:
            if len(_hex("public key", identity.public_key)) != 32 or identity.stake <= 0:
                raise ConfigError(f"genesis: {identity.name} needs a 32-byte key and stake > 0")
            _hex("certificate", identity.certificate)
        if len({identity.public_key for identity in identities}) != len(identities):
            raise ConfigError(f"genesis: two {role} share a key")
    for what, keys in (("provers", genesis.provers), ("oracles", genesis.oracles)):
        for key in keys:
            if len(_hex("public key", key)) != 32:
                raise ConfigError(f"genesis: a key of {what} does not have 32 bytes")
        if len(set(keys)) != len(keys):
            raise ConfigError(f"genesis: two {what} share a key")


def _check_bounds(genesis: Genesis) -> None:
    if not 1 <= len(genesis.markets) <= MARKETS_MAX:
        raise ConfigError(f"genesis: there must be 1 to {MARKETS_MAX} markets")
    if not 0 <= genesis.shard < SHARDS_MAX:
        raise ConfigError(f"genesis: the shard must be 0 to {SHARDS_MAX - 1}")
    for name in Limits.__struct_fields__:
        if getattr(genesis.limits, name) < 1:
            raise ConfigError(f"genesis: the limit {name} must be above 0")
    _check_staking(genesis.staking, genesis.fees)
    capacity = genesis.capacity
    if not 0 <= capacity.busy_ppm <= 64 * PPM or min(capacity.batch_us, capacity.action_us) < 0:
        raise ConfigError("genesis: the numbers of capacity must not be negative")
    if capacity.burst_ms < 1:
        raise ConfigError("genesis: capacity.burst_ms must be above 0")
    _check_trading(genesis)
    check_settlement(genesis.settlement)
    _check_steps(genesis)
    _check_validators(genesis.validators, genesis.staking)
    least, most = ORDERED_PAYLOAD_BYTES
    if not least <= genesis.sequencer_pace.max_payload_bytes <= most:
        raise ConfigError(f"genesis: max_payload_bytes of the sequencers must be {least} to {most}")


def action_leaves(genesis: Genesis) -> int:
    """Most leaves of the state that show what an action does: its own account with all that rests
    and waits, and of each maker the account, agents, positions, settings, profits, and reduce-only
    orders that shrink; of makers who may not trade also all that rests and waits, but these are
    fewer. See docs/adr/0031-witnesses-in-parts.md."""
    limits, markets = genesis.limits, len(genesis.markets)
    account = (
        ACCOUNT_LEAVES + limits.agents_per_account + min(limits.positions_per_account, markets)
        + 2 * markets + limits.reduce_only_orders
    )  # fmt: skip
    waits = limits.orders_per_account + limits.triggers_per_account + limits.twaps_per_account
    frame = markets * (MARKET_LEAVES + len(genesis.oracles) + len(genesis.guardians))
    refused = -(-limits.fills_per_action // limits.refusal_fills)
    makers = max(limits.fills_per_action * account, refused * (account + waits))
    return frame + waits + account + makers


def _check_steps(genesis: Genesis) -> None:
    """Where batches can be disputed: what an action does can be shown, each step has a place."""
    if not genesis.settlement.window_ms:
        return
    limits, leaves = genesis.limits, action_leaves(genesis)
    # Slices, triggers, and accounts whose triggers reduce nothing; expiries, and closed markets.
    steps = 3 * limits.triggers_per_block + 2 * limits.expiries_per_block
    if steps > STEPS_PER_BLOCK // 8:
        raise ConfigError(
            f"genesis: {steps} steps of a block may be about what waits or expires, a dispute has "
            f"room for {STEPS_PER_BLOCK // 8}: lower limits.triggers_per_block or "
            "expiries_per_block"
        )
    if leaves > WITNESS_LEAVES:
        raise ConfigError(
            f"genesis: an action may look at {leaves} leaves of the state, a dispute shows "
            f"{WITNESS_LEAVES} at most: lower limits.fills_per_action, refusals_per_action or "
            "orders_per_account"
        )


def _check_staking(staking: Staking, fees: Fees) -> None:
    if staking.epoch_ms < 0 or not 1 <= staking.max_validators <= MAX_VALIDATORS:
        raise ConfigError(
            f"genesis: epoch_ms must not be negative, max_validators 1 to {MAX_VALIDATORS}"
        )
    if staking.unbonding_ms <= max(staking.evidence_ms, staking.trusting_ms):
        raise ConfigError("genesis: unbonding_ms must exceed evidence_ms and trusting_ms")
    if min(staking.evidence_ms, staking.trusting_ms, staking.min_stake_uusd) < 1:
        raise ConfigError("genesis: evidence_ms, trusting_ms and min_stake_uusd must be above 0")
    if not 0 <= staking.slash_ppm <= PPM or staking.jail_ms < 0:
        raise ConfigError("genesis: slash_ppm must be 0 to 1000000, jail_ms not negative")
    if not (0 <= fees.base_uusd < CASH_MOVE_LIMIT and 0 <= fees.per_kib_uusd < CASH_MOVE_LIMIT):
        raise ConfigError("genesis: fees are out of range")


def _check_validators(validators: list[Identity], staking: Staking) -> None:
    if len(validators) > staking.max_validators:
        raise ConfigError("genesis: there are more validators than max_validators")
    for identity in validators:
        if identity.stake < staking.min_stake_uusd:
            raise ConfigError(f"genesis: the stake of {identity.name} is below min_stake_uusd")
        if len(identity.certificate) > 2 * MAX_CERTIFICATE_BYTES:
            raise ConfigError(
                f"genesis: the certificate of {identity.name} exceeds {MAX_CERTIFICATE_BYTES} bytes"
            )


def _check_trading(genesis: Genesis) -> None:
    """Committee, guardians, funds and the pace of liquidation."""
    stakes, rules = genesis.oracle_stakes, genesis.liquidation
    if stakes and (len(stakes) != len(genesis.oracles) or min(stakes) <= 0):
        raise ConfigError("genesis: oracle_stakes must give one number above 0 for each oracle")
    if sum(stakes) >= CASH_LIMIT:
        raise ConfigError(f"genesis: oracle_stakes together must be below {CASH_LIMIT}")
    for key in genesis.guardians:
        if len(_hex("public key", key)) != 32:
            raise ConfigError("genesis: a key of guardians does not have 32 bytes")
    if len(set(genesis.guardians)) != len(genesis.guardians):
        raise ConfigError("genesis: two guardians share a key")
    if min(genesis.insurance_uusd, genesis.backstop_uusd) < 0:
        raise ConfigError("genesis: a fund starts with negative money")
    if not (0 < rules.partial_ppm <= PPM and 0 < rules.unwind_ppm <= PPM):
        raise ConfigError("genesis: partial_ppm and unwind_ppm must be 1 to 1000000")
    if not 0 <= rules.unwind_slippage_ppm <= PPM // 2:
        raise ConfigError("genesis: unwind_slippage_ppm must be 0 to 500000")
    if min(rules.partial_notional_uusd, rules.partial_wait_ms) < 0 or rules.unwind_ms < 1:
        raise ConfigError("genesis: the times and sizes of liquidation must not be negative")
    stages = genesis.reopening
    if min(stages.gap_ms, stages.cancel_only_ms, stages.post_only_ms) < 0:
        raise ConfigError("genesis: the times of reopening must not be negative")
    if genesis.limits.subaccounts > 255:
        raise ConfigError("genesis: there can be at most 255 subaccounts")
