"""Give up the rotation of a validator's key, as long as the new key has no stake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from client.sdk import Exchange
from client.units import uusd_to_usd
from client.validators import validator_set
from cluster.rotate_fees import fee_uusd
from cluster.rotate_files import Journal, RotationFiles
from cluster.rotate_places import Place, command
from protocol.errors import ConfigError
from protocol.keys import Key
from protocol.settlement import Deposit


class Abandoned(msgspec.Struct, frozen=True):
    """What is left of it: `returned_uusd` went to the account of `payer`; the new key, of this
    `address` on the ledger, lies in `key`. `withdrawal`: its number, of one that is not paid yet,
    0 where there is none or it is not known."""

    validator: str
    address: str
    key: str
    payer: str
    returned_uusd: int
    withdrawal: int
    may_come: bool


async def abandon(
    exchange: Exchange, place: Place, *, payer: str, report: Callable[[str], None] = lambda _: None
) -> Abandoned:
    """End a rotation that is not done with its validator as it was; what the new key has on the
    ledger goes to the account of who paid it, and the key is kept, for what may come yet.

    Raises `ConfigError` where there is none, or where the new key has stake or is in use: that
    rotation has to be brought to its end.
    """
    files = RotationFiles(place)
    with files.lock():
        journal = files.journal()
        if journal is None:
            raise ConfigError(f"no rotation of {place.name} is under way")
        _, new = files.keys(journal)
        await _require_no_stake(exchange, place, files, journal)
        signed = journal.withdrawal
        payer = payer if signed is None else signed.payer
        returned_uusd = await _give_back(exchange, new, payer)
        # A bond that was under way when an earlier command was killed came first, or never can:
        # the deposit has taken its nonce. One without the money for it was never sent.
        await _require_no_stake(exchange, place, files, journal)
        if returned_uusd:
            report(f"{uusd_to_usd(returned_uusd)} dollars go back to the account of {payer}")
        path = await asyncio.to_thread(files.abandon, journal)
    may_come = signed is not None and not returned_uusd
    number = signed.number if signed is not None and may_come else 0
    return Abandoned(
        place.name, new.address.hex(), str(path), payer, returned_uusd, number, may_come
    )


async def _require_no_stake(
    exchange: Exchange, place: Place, files: RotationFiles, journal: Journal
) -> None:
    found = await validator_set(exchange)
    stakes = [one.stake_uusd for one in found.validators if one.public_key == journal.new]
    if not any(stakes) and not files.swapped(journal):
        return
    go_on = command(place.testnet, "validator", "rotate", place.name)
    told = f"the new key of {place.name} has its stake already; bring the rotation to its end: "
    olds = [one.stake_uusd for one in found.validators if one.public_key == journal.old]
    if not any(olds) or files.swapped(journal):
        raise ConfigError(f"{told}{go_on}")
    path = str(place.testnet.key_path(f"{place.name}-next"))
    out = command(place.testnet, "validator", "unbond", "all", "--key", path)
    raise ConfigError(f"{told}{go_on}, or take that out before you give it up: {out}")


async def _give_back(exchange: Exchange, new: Key, payer: str) -> int:
    """Have the new key deposit what it has, less the fee, for the payer; returns how much."""
    address = exchange.key(payer).address
    has_uusd = (await exchange.ledger.balance(new.address)).balance_uusd
    amount_uusd = has_uusd - fee_uusd(exchange.chain, new, Deposit(address, has_uusd))
    if amount_uusd <= 0:
        return 0
    await exchange.ledger.deposit(new, amount_uusd, address)
    return amount_uusd


def text(done: Abandoned, place: Place) -> str:
    """For people: what is left, and what to do with it."""
    lines = [f"the rotation of {done.validator} is given up; it validates with the key that it has"]
    name = done.key.rpartition("/")[2].removesuffix(".key")
    if done.may_come:
        deposit = command(place.testnet, "deposit", "AMOUNT", "--as", name)
        paid = command(place.testnet, "payout", str(done.withdrawal)) if done.withdrawal else ""
        first = f"have it paid with: {paid}; then" if paid else "once it has come"
        lines.append(
            f"a withdrawal of {done.payer} may still come to {done.address}: {first} take it into "
            f"the shard with: {deposit}"
        )
    lines.append(f"the new key lies in {done.key}; delete it once nothing can come to it any more")
    return "\n".join(lines)
