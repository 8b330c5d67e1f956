"""Exchange the key of a running validator: a new key takes over its stake's place.

The new key gets money and bonds as much as the old one has, the old one unbonds, and at the end of
the epoch the process starts again with the new key. What is done already the ledger and the files
tell, so that a rotation that was interrupted goes on where it stopped. Until the epoch ends the
process validates with its old key; from then until it has started again one validator is missing,
as in any restart, so that the others have to be a quorum.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from client.faults import NoProgress
from client.ledger import NotFinalYet
from client.sdk import Exchange
from client.submission import ActionRejected, Submission, results_of
from client.units import utc, uusd_to_usd
from client.validators import ValidatorSetView, ValidatorView, bond, unbond, validator_set
from cluster.faults_targets import DOWN
from cluster.restart import readiness
from cluster.rotate_fees import fee_uusd, fees_uusd
from cluster.rotate_files import Journal, RotationFiles, SignedWithdrawal
from cluster.rotate_places import Place, command, find_place
from cluster.rotate_quorum import next_stakes, require_quorum
from protocol.actions import Withdraw
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.keys import Key, address_of
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView
from protocol.settlement import Bond, Unbond
from store.config import load_config
from store.keyfiles import load_key
from store.testnet import Testnet

BLOCKS_SEEN = 16
"""A member that is no process of the testnet takes part where it signed one of so many blocks."""

POLL_S = 0.5
TELL_S = 60.0

Report = Callable[[str], None]


class Rotated(msgspec.Struct, frozen=True):
    """What came of it. The stake of the old key, `unbonding_uusd`, is free at `free_ms` of the
    ledger's time, 0 where that is not fixed yet; addresses are those on the ledger, in hex."""

    validator: str
    old_address: str
    new_address: str
    epoch: int
    stake_uusd: int
    peer: str
    key: str
    retired_key: str
    unbonding_uusd: int
    free_ms: int


class Rotation:
    """One rotation, of the validator of a place. `payer` is the trader whose account pays for the
    new stake, `peer` where others dial the new key (a free port where empty)."""

    def __init__(
        self, exchange: Exchange, place: Place, *, payer: str, peer: str = "",
        wait_s: float | None = None, report: Report = lambda _: None,
    ) -> None:  # fmt: skip
        self._exchange, self._name = exchange, place.name
        self._take(place)
        self._payer, self._peer = payer, peer
        self._rules = exchange.chain.genesis.staking
        # The epoch under way may be decided already, so the new key may begin one later.
        usual_ms = 2 * self._rules.epoch_ms + exchange.chain.genesis.settlement.window_ms
        wait_s = usual_ms / 1000 + 120 if wait_s is None else wait_s
        self._deadline = time.monotonic() + wait_s
        self._wait_s = wait_s
        self._report = report

    def _take(self, place: Place) -> None:
        self._place, self._testnet = place, place.testnet
        self._files = RotationFiles(place)

    async def run(self) -> Rotated:
        """Do what is left to do.

        Raises `ConfigError` or `NoProgress`, before anything is changed, where it cannot be done or
        would leave no quorum; `NoProgress` where it does not come to pass in time, `Rejected` or
        `RemoteFault` where the money is missing. It can be run again after any of them.
        """
        await asyncio.to_thread(self._check_process)
        with self._files.lock():
            journal = self._files.journal()
            if journal is None:
                journal = await self._begin()
            else:
                self._require_peer_of(journal)
                self._report(
                    f"going on with the new key {_address(journal.new)}, dialled at {journal.peer};"
                    f" to give it up instead: {self._command('--abandon')}"
                )
            old, new = self._files.keys(journal)
            await self._change_stakes(journal, old, new)
            await self._await_epoch(journal)
            retired = await asyncio.to_thread(self._swap, journal)
            await self._await_ready()
            found = await validator_set(self._exchange)
            self._files.finish()
        return self._told(journal, found, retired)

    # --- before anything is changed

    def _check_process(self) -> None:
        if not self._rules.epoch_ms:
            raise ConfigError(
                "this chain has one epoch for ever, in which validators cannot change"
            )
        config = load_config(self._testnet.config_path(self._name))
        if config.key.resolve() != self._files.key_path.resolve():
            raise ConfigError(
                f"{self._name} has its key in {config.key}, not in {self._files.key_path}; have it "
                "there first"
            )
        self._place.check()

    def _require_peer_of(self, journal: Journal) -> None:
        if self._peer not in ("", journal.peer):
            raise ConfigError(
                f"the rotation of {self._name} that is not done has its new key dialled at "
                f"{journal.peer}; go on with that, without --peer"
            )

    async def _begin(self) -> Journal:
        others = self._files.unfinished()
        if others:
            raise ConfigError(
                f"the rotation of {others[0]} is not done; first: "
                + command(self._testnet, "validator", "rotate", others[0])
                + ", or with --abandon behind it, to give that up"
            )
        if self._peer:
            await asyncio.to_thread(self._place.check_peer, self._peer)
        found = await validator_set(self._exchange)
        old = load_key(self._files.key_path)
        known = _find(found, old.public.hex())
        if known is None or known.stake_uusd < self._rules.min_stake_uusd:
            raise ConfigError(
                f"{self._name} has no stake that a new key could take over; see: "
                + command(self._testnet, "validator", "list")
            )
        self._exchange.key(self._payer)  # who pays exists
        await self._require_unbonding_fee(old, known.stake_uusd)
        await self._require_quorum(found, old.public.hex(), "", known.stake_uusd)
        peer = self._peer or await asyncio.to_thread(self._place.free_peer)
        journal = self._files.begin(peer)
        self._report(f"new key {_address(journal.new)}")
        return journal

    async def _require_unbonding_fee(self, old: Key, stake_uusd: int) -> None:
        """Raise where the old key could not pay for its unbonding, which ends the rotation."""
        needed_uusd = fee_uusd(self._exchange.chain, old, Unbond(stake_uusd))
        has_uusd = (await self._exchange.ledger.balance(old.address)).balance_uusd
        if has_uusd < needed_uusd:
            words = "withdraw", "1", "--to", old.address.hex(), "--as", self._payer
            raise ConfigError(
                f"{self._name} has {uusd_to_usd(has_uusd)} dollars on the ledger beside its stake, "
                f"and taking that out costs {uusd_to_usd(needed_uusd)}; send it some first: "
                + command(self._testnet, *words)
            )

    async def _require_quorum(
        self, found: ValidatorSetView, old: str, new: str, stake_uusd: int
    ) -> None:
        """Raise where the others would be no quorum in the next epoch."""
        entries = self._testnet.of_role("node")
        local = {load_key(self._testnet.key_path(one.name)).public.hex(): one for one in entries}
        names = {key: one.name for key, one in local.items()}
        up = await self._signed_lately(found) - local.keys()
        for key, entry in local.items():
            if not await asyncio.to_thread(readiness, self._testnet, entry.name):
                up.add(key)
        require_quorum(next_stakes(found, self._rules), names, up, old, new, stake_uusd)

    async def _signed_lately(self, found: ValidatorSetView) -> set[str]:
        """Members, by public key, whose signatures the newest blocks carry."""
        node = self._exchange.channel("node")
        height = (await node.ask(HeaderView, HeaderRequest, 0)).header.height
        view = await node.ask(BlocksView, BlocksFrom, max(1, height - BLOCKS_SEEN + 1), BLOCKS_SEEN)
        signers = {
            each.member
            for block in view.blocks
            if block.justify.epoch == found.epoch
            for each in block.justify.signatures
        }
        return {one.public_key for one in found.validators if one.index in signers}

    # --- on the ledger

    async def _change_stakes(self, journal: Journal, old: Key, new: Key) -> None:
        """Bond the new key and unbond the old one, as far as that is not done."""
        found = await validator_set(self._exchange)
        leaving, bonded = _find(found, journal.old), self._bonded(found, journal)
        if leaving is None or not leaving.stake_uusd:
            if not bonded:
                key = str(self._testnet.key_path(f"{self._name}-next"))
                words = "bond", "AMOUNT", "--key", key, "--address", journal.peer
                raise ConfigError(
                    f"the stake of {self._name} left the ledger before its new key had one; bond "
                    "it: " + command(self._testnet, "validator", *words)
                )
            return
        await self._require_quorum(found, journal.old, journal.new, leaving.stake_uusd)
        await self._require_unbonding_fee(old, leaving.stake_uusd)
        if not bonded:
            await self._fund(journal, new, leaving.stake_uusd)
            # That took as long as a batch to be final: who is up, and who has bonded, may be
            # others by now.
            found = await validator_set(self._exchange)
            await self._require_quorum(found, journal.old, journal.new, leaving.stake_uusd)
        if not self._bonded(found, journal):
            certificate = self._files.certificate(new)
            await bond(self._exchange, new, leaving.stake_uusd, journal.peer, certificate)
            self._report(f"the new key has bonded {uusd_to_usd(leaving.stake_uusd)} dollars")
        # Only now: the set is never smaller than it was.
        await unbond(self._exchange, old, 0)
        self._report("the old key has unbonded")

    def _bonded(self, found: ValidatorSetView, journal: Journal) -> bool:
        joining = _find(found, journal.new)
        return joining is not None and joining.stake_uusd >= self._rules.min_stake_uusd

    async def _fund(self, journal: Journal, new: Key, stake_uusd: int) -> None:
        """Have the payer's account pay what the new key lacks for this stake."""
        action = Bond(stake_uusd, self._files.certificate(new), journal.peer)
        lacking_uusd = await self._lacking_uusd(new, action)
        if not lacking_uusd:
            return
        signed = journal.withdrawal
        key = self._exchange.key(self._payer if signed is None else signed.payer)
        if signed is None:
            trader = await self._exchange.trader(key)
            first_seq = (await self._exchange.book(0, 1)).next_seq
            made = self._exchange.sign(key, trader.account, [Withdraw(lacking_uusd, new.address)])
            signed = SignedWithdrawal(
                self._payer, made.raw.hex(), made.nonce_ms, trader.account, first_seq
            )
            journal = self._files.keep(msgspec.structs.replace(journal, withdrawal=signed))
        self._report(f"{signed.payer} pays {uusd_to_usd(lacking_uusd)} dollars, once that is final")
        try:
            if not signed.number:
                signed = await self._withdraw(journal, signed, key)
            # The new key has it paid: the fee of that comes out of the money itself.
            await self._exchange.ledger.pay_out(new, signed.number, self._left_ms())
        except TimeoutError as late:
            why = late.why if isinstance(late, NotFinalYet) else str(late) or "no answer in time"
            raise NoProgress(
                f"the new key of {self._name} has no money yet ({why}), and no stake has moved; "
                f"go on with: {self._command()}"
            ) from None
        except RemoteFault as fault:
            # Anybody may have had it paid.
            if fault.code != Code.ALREADY_PAID:
                raise
        await self._require_paid(new, action, signed.payer)

    async def _require_paid(self, new: Key, action: Bond, payer: str) -> None:
        """Raise where the money that came is not enough: the old key's stake may have grown since
        its withdrawal was signed, and a second one might pay twice."""
        lacking_uusd = await self._lacking_uusd(new, action)
        if lacking_uusd:
            rest = uusd_to_usd(lacking_uusd)
            words = "withdraw", rest, "--to", new.address.hex(), "--as", payer
            raise ConfigError(
                f"the new key lacks {rest} dollars to bond the {uusd_to_usd(action.amount_uusd)} "
                f"of {self._name}; send it these, then run the same command again: "
                + command(self._testnet, *words)
            )

    async def _lacking_uusd(self, new: Key, action: Bond) -> int:
        """What the new key needs to bond and for fees to come; 0 where it has enough to bond."""
        chain = self._exchange.chain
        has_uusd = (await self._exchange.ledger.balance(new.address)).balance_uusd
        if has_uusd >= action.amount_uusd + fee_uusd(chain, new, action):
            return 0
        return action.amount_uusd + fees_uusd(chain, new, action) - has_uusd

    async def _withdraw(
        self, journal: Journal, signed: SignedWithdrawal, key: Key
    ) -> SignedWithdrawal:
        """Send the kept withdrawal; the same signed bytes are executed once, however often sent."""
        await self._exchange.prove(key)
        # Sent before, it may have been executed before: its result is in the events since then.
        await self._exchange.follow(signed.first_seq)
        submission = Submission(
            bytes.fromhex(signed.raw), key.public, signed.nonce_ms, signed.account, 1
        )
        await self._exchange.submit(submission)
        try:
            number = results_of(await submission.executed(self._left_ms()))[0].order_id
        except ActionRejected:
            self._files.keep(msgspec.structs.replace(journal, withdrawal=None))
            raise
        signed = msgspec.structs.replace(signed, number=number)
        self._files.keep(msgspec.structs.replace(journal, withdrawal=signed))
        return signed

    async def _await_epoch(self, journal: Journal) -> None:
        """Wait until the epoch has begun in which the new key is a member and the old is not."""
        told_s = 0.0
        while True:
            found = await validator_set(self._exchange)
            voting = {one.public_key for one in found.validators if one.voting_uusd}
            if journal.new in voting and journal.old not in voting:
                self._report(f"epoch {found.epoch} has begun, and the new key is a member of it")
                return
            if time.monotonic() > self._deadline:
                raise NoProgress(
                    f"the epoch in which the new key of {self._name} is a member did not begin "
                    f"within {self._wait_s:g} s; epoch {found.epoch} ends at {utc(found.ends_ms)}. "
                    f"Before that, go on where it stopped with: {self._command()}"
                )
            if time.monotonic() - told_s > TELL_S:
                told_s = time.monotonic()
                self._report(
                    f"waiting for the end of epoch {found.epoch} at {utc(found.ends_ms)}; until "
                    f"then {self._name} validates with its old key"
                )
            await asyncio.sleep(POLL_S)

    def _command(self, *options: str) -> str:
        """What to type to go on."""
        return command(self._testnet, "validator", "rotate", self._name, *options)

    def _left_ms(self) -> int:
        return max(1_000, int((self._deadline - time.monotonic()) * 1000))

    # --- the process

    def _swap(self, journal: Journal) -> Path:
        """Stop the process, exchange its files, start it; the file of the old key. Blocks."""
        name = self._name
        if self._files.installed(journal) and not readiness(self._testnet, name):
            return self._files.retired_path(journal)
        # A container may have been made anew since this began, hours ago.
        self._take(find_place(Testnet.load(self._testnet.directory), name))
        self._place.check()
        target = self._place.target
        if target.state(name) == DOWN:
            target.keep_down(name)
        else:
            target.stop(name)
        retired = self._files.install(journal)
        target.start(name)
        self._report(f"{name} starts with its new key")
        return retired

    async def _await_ready(self) -> None:
        """Wait until the process validates; a start takes a while, however little time is left."""
        deadline = max(self._deadline, time.monotonic() + 120)
        while trouble := await asyncio.to_thread(readiness, self._testnet, self._name):
            if time.monotonic() > deadline:
                raise NoProgress(
                    f"{self._name} has its new key, and is not ready: {trouble}. See "
                    f"{self._place.logs()}, then go on with: {self._command()}"
                )
            await asyncio.sleep(POLL_S)

    def _told(self, journal: Journal, found: ValidatorSetView, retired: Path) -> Rotated:
        left, came = _find(found, journal.old), _find(found, journal.new)
        waiting = [] if left is None else left.unbonding
        free = [one.free_ms for one in waiting]
        return Rotated(
            validator=self._name,
            old_address=_address(journal.old),
            new_address=_address(journal.new),
            epoch=found.epoch,
            stake_uusd=0 if came is None else came.stake_uusd,
            peer=journal.peer,
            key=str(self._files.key_path),
            retired_key=str(retired),
            unbonding_uusd=sum(one.amount_uusd for one in waiting),
            free_ms=max(free) if free and all(free) else 0,
        )


def _find(found: ValidatorSetView, public_key: str) -> ValidatorView | None:
    return next((one for one in found.validators if one.public_key == public_key), None)


def _address(public_key: str) -> str:
    return address_of(bytes.fromhex(public_key)).hex()
