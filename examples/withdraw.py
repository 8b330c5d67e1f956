"""Deposit from the ledger, withdraw back, and see the ledger pay by proof.

Usage::

    python examples/withdraw.py --amount 250
"""

from __future__ import annotations

import argparse

from client.console import run_script, testnet_option
from client.sdk import Exchange
from client.submission import results_of
from client.units import usd_to_uusd, uusd_to_usd


async def there_and_back(directory: str, name: str, amount: str) -> None:
    """Move dollars into the exchange and out again."""
    async with Exchange.connect(directory) as exchange:
        key = exchange.key(name)
        before = (await exchange.ledger.balance(key.address)).balance_uusd
        print(f"on the ledger: {uusd_to_usd(before)} dollars")

        height = await exchange.ledger.deposit_and_wait(key, usd_to_uusd(amount))
        print(f"deposited {amount} in ledger block {height}")

        trader = await exchange.trader(key)
        withdrawal = await trader.withdraw(amount)
        number = results_of(await withdrawal.executed())[0].order_id
        print(f"withdrawal {number} is executed; the account is debited")
        await withdrawal.settled()
        proof = await exchange.ledger.withdrawal(number)
        print(f"settled in batch {proof.batch}, proven by a path of {len(proof.path)} hashes")
        paid = await exchange.ledger.pay_out(key, number)
        after = (await exchange.ledger.balance(key.address)).balance_uusd
        print(f"paid in ledger block {paid.height}; on the ledger: {uusd_to_usd(after)} dollars")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--trader", default="trader-00", help="whose key signs")
    parser.add_argument("--amount", default="250", help="dollars")
    options = parser.parse_args()
    run_script(there_and_back(options.testnet, options.trader, options.amount))


if __name__ == "__main__":
    main()
