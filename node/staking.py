"""The validator set: stakes, epochs, evidence and its punishment, as rules over ledger leaves.

A stake is money that its validator can lose until it has it back. Three clocks run so that this
holds: stake on its way out starts waiting when the epoch in which it was last in force has ended;
evidence of an epoch is taken until `evidence_ms` after the boundary that ended it; and
`unbonding_ms` is longer. Both times are counted in the ledger's own time, in which a standstill of
the chain is but one step, so that nobody gets free by waiting until nobody can report it.
"""

from __future__ import annotations

import msgspec

from consensus.evidence import verify_evidence
from consensus.members import MemberSet
from node.certificates import check_certificate
from node.envelopes import OpenedTransaction
from node.ledger_state import LedgerState
from protocol.chain import Header, Member
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.evidence import Evidence, evidence_id
from protocol.genesis import CASH_MOVE_LIMIT, MAX_PEER_ADDRESS_BYTES, PPM, Staking
from protocol.keys import address_of
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    CurrentEpoch,
    EpochLeaf,
    EpochMember,
    Unbonding,
    ValidatorLeaf,
    epoch_key,
    offence_key,
)
from protocol.settlement import Bond, LedgerAction, Unbond, Unjail
from store.config import parse_address

MAX_VALIDATOR_RECORDS = 1_000
"""Most validators that the ledger keeps, members of the set or not."""

MAX_UNBONDING = 16
"""Most entries of one validator's stake on its way out; those of one epoch are one entry."""


def check_staking(rules: Staking, opened: OpenedTransaction) -> None:
    """Raise `Rejected` where a validator's transaction can never take effect, in no state."""
    action = opened.action
    if not isinstance(action, Bond | Unbond | Unjail):
        return
    if rules.epoch_ms == 0:
        raise Rejected(Code.NOT_AUTHORISED, "the validator set of this chain is fixed")
    if isinstance(action, Unjail):
        return
    if not 0 <= action.amount_uusd < CASH_MOVE_LIMIT:
        raise Rejected(Code.BAD_AMOUNT, f"an amount is 0 to {CASH_MOVE_LIMIT - 1} uusd")
    if isinstance(action, Bond):
        check_certificate(action.certificate, opened.signer)
        if not action.address.isascii() or len(action.address) > MAX_PEER_ADDRESS_BYTES:
            raise Rejected(Code.WRONG_TYPE, f"an address has {MAX_PEER_ADDRESS_BYTES} characters")
        try:
            parse_address(action.address)
        except ConfigError as error:
            raise Rejected(Code.WRONG_TYPE, str(error)) from None


class StakingRules:
    """Validators and epochs of a ledger. Every check stands before the first write."""

    def __init__(self, state: LedgerState) -> None:
        self._state = state
        self._rules = state.chain.genesis.staking
        self._sets: dict[int, MemberSet] = {}

    # --- validators' transactions

    def execute(self, opened: OpenedTransaction, action: LedgerAction) -> None:
        """Execute a validator's transaction, whose fee is paid; raises `Rejected`."""
        check_staking(self._rules, opened)
        if isinstance(action, Bond):
            self._bond(opened, action)
        elif isinstance(action, Unbond):
            self._unbond(opened.address, action.amount_uusd)
        else:
            self._unjail(opened.address)

    def _bond(self, opened: OpenedTransaction, action: Bond) -> None:
        state = self._state
        balance_uusd = state.account(opened.address).balance_uusd
        if action.amount_uusd > balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {balance_uusd} uusd, the stake to add {action.amount_uusd} uusd",
            )
        record = state.validator(opened.address)
        if record is None:
            if state.validator_count >= MAX_VALIDATOR_RECORDS:
                raise Rejected(Code.BUSY, f"the ledger keeps {MAX_VALIDATOR_RECORDS} validators")
            record = ValidatorLeaf(opened.signer, 0, b"", "", 0, [])
        stake_uusd = record.stake_uusd + action.amount_uusd
        if stake_uusd < self._rules.min_stake_uusd:
            raise Rejected(
                Code.BAD_STAKE,
                f"a stake is {self._rules.min_stake_uusd} uusd at least, not {stake_uusd} uusd",
            )
        state.credit(opened.address, -action.amount_uusd)
        self._keep(
            msgspec.structs.replace(
                self._pay_matured(record),
                stake_uusd=stake_uusd,
                certificate=action.certificate,
                address=action.address,
            )
        )

    def _unbond(self, address: bytes, amount_uusd: int) -> None:
        record = self._require_validator(address)
        left_uusd = record.stake_uusd - amount_uusd
        if left_uusd < 0 or (amount_uusd and 0 < left_uusd < self._rules.min_stake_uusd):
            raise Rejected(
                Code.BAD_STAKE,
                f"of a stake of {record.stake_uusd} uusd leave all of it or so much that "
                f"{self._rules.min_stake_uusd} uusd stay, not {amount_uusd} uusd",
            )
        staying = [one for one in record.unbonding if not self._is_free(one)]
        if amount_uusd:
            if staying and staying[-1].free_ms == 0:
                amount_uusd += staying.pop().amount_uusd
            if len(staying) >= MAX_UNBONDING:
                raise Rejected(Code.BUSY, f"{MAX_UNBONDING} sums are on their way out already")
            staying.append(Unbonding(amount_uusd, 0))
        self._pay_matured(record)
        self._keep(msgspec.structs.replace(record, stake_uusd=left_uusd, unbonding=staying))

    def _unjail(self, address: bytes) -> None:
        record = self._require_validator(address)
        if record.jailed_until_ms == 0:
            raise Rejected(Code.NOT_AUTHORISED, "the validator is not jailed")
        left_ms = record.jailed_until_ms - self._state.system().window_ms
        if left_ms > 0:
            raise Rejected(Code.JAILED, f"the jail lasts another {left_ms} ms of the ledger's time")
        self._keep(msgspec.structs.replace(record, jailed_until_ms=0))

    def _require_validator(self, address: bytes) -> ValidatorLeaf:
        record = self._state.validator(address)
        if record is None:
            raise Rejected(Code.NOT_A_VALIDATOR, "the sender has no stake")
        return record

    # --- records

    def _is_free(self, entry: Unbonding) -> bool:
        return 0 < entry.free_ms <= self._state.system().window_ms

    def _pay_matured(self, record: ValidatorLeaf) -> ValidatorLeaf:
        """Pay out what has waited long enough; the record without it, not written yet."""
        free_uusd = sum(one.amount_uusd for one in record.unbonding if self._is_free(one))
        if not free_uusd:
            return record
        self._state.credit(address_of(record.public_key), free_uusd)
        waiting = [one for one in record.unbonding if not self._is_free(one)]
        return msgspec.structs.replace(record, unbonding=waiting)

    def _keep(self, record: ValidatorLeaf) -> None:
        """Write a record; an empty one is forgotten when no jail hangs on it."""
        jailed = record.jailed_until_ms > self._state.system().window_ms
        if record.stake_uusd or record.unbonding or jailed:
            self._state.write_validator(record)
        else:
            self._state.forget_validator(address_of(record.public_key))

    # --- evidence

    def check_report(self, evidence: Evidence) -> ValidatorLeaf:
        """The validator to punish; what costs little is looked at first.

        Raises `Rejected` (wrong_epoch, evidence_known, evidence_expired, bad_evidence).
        """
        state = self._state
        if not 0 <= evidence.epoch <= state.current_epoch().number:
            raise Rejected(Code.WRONG_EPOCH, f"epoch {evidence.epoch} has not begun")
        if state.read(offence_key(evidence_id(state.chain.chain_id, evidence))) is not None:
            raise Rejected(Code.EVIDENCE_KNOWN, "this offence has been punished")
        following = state.epoch_leaf(evidence.epoch + 1)
        if following is not None:
            age_ms = state.system().window_ms - following.decided_ms
            if age_ms > self._rules.evidence_ms:
                raise Rejected(Code.EVIDENCE_EXPIRED, f"the epoch ended {age_ms} ms ago")
        members = self._member_set(evidence.epoch)
        if evidence.member not in members:
            raise Rejected(Code.BAD_EVIDENCE, f"the epoch has no member {evidence.member}")
        record = state.validator(address_of(members.keys[evidence.member]))
        if record is None or (record.jailed_until_ms and not self._slashed_uusd(record)):
            raise Rejected(Code.EVIDENCE_KNOWN, "nothing is left to punish")
        verify_evidence(members, evidence)
        return record

    def punish(self, evidence: Evidence, record: ValidatorLeaf, height: int) -> None:
        """Slash and jail the validator that `check_report` gave, at this ledger height."""
        state, rules = self._state, self._rules
        record = self._pay_matured(record)
        burnt_uusd = self._slashed_uusd(record)
        left = [(one.amount_uusd - self._slash(one.amount_uusd), one) for one in record.unbonding]
        until_ms = max(1, record.jailed_until_ms, state.system().window_ms + rules.jail_ms)
        state.write(offence_key(evidence_id(state.chain.chain_id, evidence)), height)
        state.change_system(supply_uusd=-burnt_uusd, burnt_uusd=burnt_uusd)
        self._keep(
            msgspec.structs.replace(
                record,
                stake_uusd=record.stake_uusd - self._slash(record.stake_uusd),
                unbonding=[Unbonding(amount, one.free_ms) for amount, one in left if amount],
                jailed_until_ms=until_ms,
            )
        )

    def _slash(self, amount_uusd: int) -> int:
        """The part of a sum that is burnt, rounded up."""
        return -(-amount_uusd * self._rules.slash_ppm // PPM)

    def _slashed_uusd(self, record: ValidatorLeaf) -> int:
        """What an offence costs a validator: of its stake, and of each sum that is not free yet."""
        waiting = [one.amount_uusd for one in record.unbonding if not self._is_free(one)]
        return sum(self._slash(amount) for amount in (record.stake_uusd, *waiting))

    def _member_set(self, number: int) -> MemberSet:
        members = self._sets.get(number)
        if members is None:
            leaf = self._state.epoch_leaf(number)
            if leaf is None:
                raise SafetyViolation(f"the members of epoch {number} are missing")
            members = member_set(self._state.chain.chain_id, leaf)
            if len(self._sets) >= 4:
                self._sets.clear()
            self._sets[number] = members
        return members

    # --- epochs

    def begin_block(self, header: Header, transactions: int) -> None:
        """Check a block's place; raises `SafetyViolation`, as a quorum has voted for it."""
        number = self._state.current_epoch().number
        if header.epoch != number:
            raise SafetyViolation(f"a block of epoch {header.epoch} came in epoch {number}")
        if transactions and self._state.next_epoch() is not None:
            raise SafetyViolation("a block behind its epoch's boundary carries transactions")

    def end_block(self, header: Header) -> int:
        """What the epoch asks of a block after its transactions; the epoch that begins, or 0."""
        following = self._state.next_epoch()
        if following is None:
            ends_ms = self._state.current_leaf().ends_ms
            if ends_ms and header.time_ms >= ends_ms:
                self._decide(header)
            return 0
        if header.app_height < following.boundary_height:
            return 0
        self._begin(header, following)
        return following.number

    def _decide(self, header: Header) -> None:
        """The boundary: pay what is due, and say who the next epoch's members are."""
        state = self._state
        for record in state.validators():
            paid = self._pay_matured(record)
            if paid is not record or not (record.stake_uusd or record.unbonding):
                self._keep(paid)
        leaf = state.current_leaf()
        self._share_fees(leaf.members)
        epoch_ms = self._rules.epoch_ms
        ends_ms = leaf.ends_ms + epoch_ms
        if ends_ms <= header.time_ms:
            ends_ms += ((header.time_ms - ends_ms) // epoch_ms + 1) * epoch_ms
        number = leaf.number + 1
        members = self._choose(leaf.members)
        decided_ms = state.system().window_ms
        state.write(
            epoch_key(number), EpochLeaf(number, header.height, members, ends_ms, decided_ms)
        )

    def _share_fees(self, members: list[EpochMember]) -> None:
        """Pay the pot to the epoch's members by stake, rounded down; the rest stays in it."""
        pot_uusd = self._state.system().fees_uusd
        total_uusd = sum(member.stake_uusd for member in members)
        paid_uusd = 0
        for member in members:
            share_uusd = pot_uusd * member.stake_uusd // total_uusd
            if share_uusd:
                self._state.credit(address_of(member.public_key), share_uusd)
                paid_uusd += share_uusd
        self._state.change_system(fees_uusd=-paid_uusd)

    def _choose(self, before: list[EpochMember]) -> list[EpochMember]:
        """The highest stakes that qualify; the same members where none does.

        Who stays keeps the order of the epoch before, newcomers follow by public key, so that
        members' numbers change as little as they can.
        """
        able = [
            one
            for one in self._state.validators()
            if one.stake_uusd >= self._rules.min_stake_uusd and one.jailed_until_ms == 0
        ]
        able.sort(key=lambda one: (-one.stake_uusd, one.public_key))
        chosen = {one.public_key: one for one in able[: self._rules.max_validators]}
        if not chosen:
            return before
        staying = [one.public_key for one in before if one.public_key in chosen]
        order = staying + sorted(chosen.keys() - set(staying))
        return [
            EpochMember(key, chosen[key].stake_uusd, chosen[key].certificate, chosen[key].address)
            for key in order
        ]

    def _begin(self, header: Header, following: EpochLeaf) -> None:
        """The epoch's last block: the next epoch starts from it, and stake that left is out."""
        state = self._state
        free_ms = state.system().window_ms + self._rules.unbonding_ms
        in_force = {one.public_key: one.stake_uusd for one in following.members}
        for record in state.validators():
            # Where nobody qualified, the members go on with stake that they have taken out.
            if in_force.get(record.public_key, 0) > record.stake_uusd:
                continue
            if any(one.free_ms == 0 for one in record.unbonding):
                waiting = [
                    Unbonding(one.amount_uusd, one.free_ms or free_ms) for one in record.unbonding
                ]
                self._keep(msgspec.structs.replace(record, unbonding=waiting))
        state.write(
            CURRENT_EPOCH_KEY,
            CurrentEpoch(following.number, header.height, header.view, header.block_id()),
        )


def member_set(chain_id: bytes, leaf: EpochLeaf) -> MemberSet:
    """Keys and stakes of an epoch, for whoever checks what its members signed."""
    members = [Member(one.public_key, one.stake_uusd) for one in leaf.members]
    return MemberSet(chain_id, members, leaf.number)
