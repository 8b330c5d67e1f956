"""Accounts, positions and margin: what an account is worth and what it may still do."""

from __future__ import annotations

from margin.account import Account, Exposure
from margin.linear import LinearPerpetual, MarginRates, Product
from margin.market import Market
from margin.outcome import Outcome
from margin.risk import Risk

__all__ = [
    "Account",
    "Exposure",
    "LinearPerpetual",
    "MarginRates",
    "Market",
    "Outcome",
    "Product",
    "Risk",
]
