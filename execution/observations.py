"""What the oracles of a committee have told of a market, as the state keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from execution import leaves as lv
from margin.market import Market
from margin.oracle import Median, Observation, committee_median, least_members
from protocol.actions import OraclePrice
from protocol.errors import Code
from protocol.genesis import Genesis
from protocol.markets import PPM


def stakes_of(genesis: Genesis) -> list[int]:
    """Stake of each oracle; equal ones where genesis gives none."""
    return genesis.oracle_stakes or [1] * len(genesis.oracles)


def report_code(
    markets: Sequence[Market],
    prices: Sequence[Mapping[int, lv.OracleLeaf]],
    oracle: int,
    nonce_ms: int,
    action: OraclePrice,
) -> Code:
    """Whether a member's (its index in genesis) price counts; `prices`: the latest of each member,
    by market. How much is open in the market has no say, so that anybody can follow."""
    number = action.market
    if not 0 <= number < len(markets):
        return Code.UNKNOWN_MARKET
    if not 0 < action.price_ticks < markets[number].price_limit:
        return Code.BAD_PRICE
    if not 0 <= action.confidence_ppm <= PPM:
        return Code.BAD_CONFIDENCE
    kept = prices[number].get(oracle)
    return Code.STALE_ORACLE if kept is not None and nonce_ms < kept.nonce_ms else Code.OK


def median_of(
    market: Market, prices: Mapping[int, lv.OracleLeaf], stakes: Sequence[int], time_ms: int
) -> Median:
    """The committee's median for a market at a block time, by the latest price of each member."""
    config = market.config
    return committee_median(
        [
            Observation(
                leaf.price_ticks,
                leaf.confidence_ppm,
                min(leaf.nonce_ms, leaf.time_ms),
                stakes[oracle],
            )
            for oracle, leaf in prices.items()
        ],
        sum(stakes),
        least_members(len(stakes)),
        time_ms,
        config.oracle_age_ms,
        config.oracle_confidence_ppm,
    )
