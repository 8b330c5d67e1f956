"""A witness: what one step of a block reads and writes of the state, proven under its root.

It is a multi-proof of leaves (`protocol.tree_proof`). Three rules make it mean something:

- the *frame* is always there: counters, clock and funds, every market with its prices and votes,
  the system accounts;
- an account is shown *whole*: its positions, settings and keys to the last one, and the leaves of
  its own that are not there, as absent;
- a signer's nonces are shown whole.

What a witness leaves out is as if it were not in the state. Who shows more leaves than the other
side, on which the step ends differently, has shown that something was left out that counts: a
better order, an account that fails sooner, a trigger that is due. So a dispute about a step is
decided by the larger witness, and whoever claims what the whole state gives can always show one
that nothing can be added to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from execution import leaves as lv
from execution.batches import VerifySignature
from execution.engine import Engine
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.keys import domain_hash, verify
from protocol.settlement import master_of
from protocol.tree_proof import MAX_PROOF_LEAVES, TreeProof
from prover.bounds import require_bounds
from prover.step_input import StepInput
from prover.tree_partial import PartialTree

FRAME = (lv.GLOBAL, lv.MARKET, lv.PRICING, lv.ORACLE, lv.VOTE)
"""Kinds of leaves of which a witness shows all."""

SYSTEM_ACCOUNTS = range(4)
_OWN = (lv.POSITION, lv.SETTINGS, lv.AGENT, lv.REALISED, lv.REALISED_NOW)
_SUMS = (lv.VOLUME, lv.REALISED, lv.REALISED_NOW)
"""Kinds that count by themselves: the end of a block adds to them without looking at accounts."""

_SINGLE = (lv.ACCOUNT, lv.DEAD_MAN, lv.DISTRESS, lv.VOLUME)


class Witness(Wire, frozen=True):
    """Leaves of a state. `accounts` are those shown whole, in ascending order; leaves of others
    may stand in the proof because of where they are in the tree, and count for nothing."""

    accounts: list[int]
    proof: TreeProof


decode_witness: Decoder[Witness] = Decoder(Witness)


def execute(
    chain: Chain,
    root: bytes,
    witness: bytes,
    step: StepInput,
    verify_signature: VerifySignature = verify,
) -> bytes:
    """State root (32 bytes) after a step, executed on a witness of the state under `root`.

    Raises `Rejected` (bad_witness) where the witness is not of that root, breaks a rule of
    witnesses, or does not cover what the step touches.
    """
    return outcome(chain, root, witness, step, verify_signature)[0]


def outcome(
    chain: Chain,
    root: bytes,
    witness: bytes,
    step: StepInput,
    verify_signature: VerifySignature = verify,
) -> tuple[bytes, dict[bytes, bytes | None]]:
    """The state root after a step as `execute`, and the leaves that it changes."""
    try:
        shown = decode_witness(witness)
        tree = PartialTree(root, shown.proof)
        signers = step.scope(chain).signers
        _require_whole(tree, shown.accounts, signers)
        leaves = _counting(shown, signers)
        require_bounds(leaves)
        engine = Engine.restore(chain, leaves, verify_signature)
        changes = step.run(engine)
        return tree.update(changes), changes
    except Rejected as error:
        raise error if error.code == Code.BAD_WITNESS else _bad(error.text) from None
    except Exception as error:  # whatever breaks on it is the fault of who shows it
        raise _bad(f"the block cannot be executed on it: {error!r}") from None


# -- the larger witness


def shown_hash(witness: bytes) -> bytes:
    """What names all that a witness shows, however its proof is written (32 bytes); raises
    `Rejected` for what is no witness."""
    shown = decode_witness(witness)
    return _hash(shown.accounts, shown.proof.leaves)


def _hash(accounts: Sequence[int], leaves: Sequence[tuple[bytes, bytes]]) -> bytes:
    return domain_hash(b"trilemma/shown", encode([accounts, leaves]))


class Added(NamedTuple):
    """What a witness shows beyond another one: accounts, and places among its own leaves."""

    accounts: list[int]
    leaves: list[int]


NOTHING = Added([], [])


def added(witness: bytes, before: bytes) -> Added:
    """What a witness shows beyond another one of the same root, all of which it shows too."""
    mine, theirs = decode_witness(witness), decode_witness(before)
    accounts, leaves = set(theirs.accounts), set(theirs.proof.leaves)
    return Added(
        [one for one in mine.accounts if one not in accounts],
        [place for place, one in enumerate(mine.proof.leaves) if one not in leaves],
    )


def require_larger(
    witness: bytes, beyond: Added, before: bytes, most_leaves: int = MAX_PROOF_LEAVES
) -> bytes:
    """`shown_hash` of a witness that shows all of one with the `shown_hash` before, and `beyond` as
    well; the first one (before: empty) anything.

    Raises `Rejected` (bad_witness) where it does not, shows nothing more, or more than
    `most_leaves`.
    """
    try:
        mine = decode_witness(witness)
    except Rejected as error:
        raise _bad(error.text) from None
    every = mine.proof.leaves
    if len(every) > most_leaves:
        raise _bad(f"it shows {len(every)} leaves, {most_leaves} are the most")
    if before:
        more, places = set(beyond.accounts), set(beyond.leaves)
        accounts = [one for one in mine.accounts if one not in more]
        leaves = [one for place, one in enumerate(every) if place not in places]
        if _hash(accounts, leaves) != before:
            raise _bad("it does not show all that the other side has shown")
        if len(accounts) + len(leaves) == len(mine.accounts) + len(every):
            raise _bad("it shows nothing that the other side has not shown")
    return _hash(mine.accounts, every)


def leaf_count(witness: bytes) -> int:
    """Leaves that a witness shows."""
    return len(decode_witness(witness).proof.leaves)


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_WITNESS, f"the witness is refused: {text}")


def _require_whole(tree: PartialTree, accounts: list[int], signers: set[bytes]) -> None:
    """Raise `Rejected` unless frame, accounts and signers are shown to the last leaf."""
    for prefix in FRAME:
        _require_all(tree, prefix)
    numbers = set(accounts)
    if accounts != sorted(numbers) or not numbers.issuperset(SYSTEM_ACCOUNTS):
        raise _bad("its accounts ascend, each once, the system's among them")
    for number in accounts:
        if not 0 <= number < 1 << 64 or master_of(number) not in numbers:
            raise _bad(f"there is no account {number}, or its master is missing")
        for prefix in account_prefixes(number):
            _require_all(tree, prefix)
        for key in account_keys(number):
            tree.get(key)
    for signer in signers:
        _require_all(tree, lv.NONCE + signer)


def _counting(shown: Witness, signers: set[bytes]) -> list[tuple[bytes, bytes]]:
    """The leaves that count: of the frame, of the accounts shown, of the block's signers."""
    accounts = set(shown.accounts)
    found = []
    for key, value in shown.proof.leaves:
        kind = key[:1]
        if kind == lv.NONCE:
            counts = key[1:33] in signers
        else:
            counts = (
                kind in FRAME or kind in _SUMS or not accounts.isdisjoint(accounts_of(key, value))
            )
        if counts:
            found.append((key, value))
    return found


def _require_all(tree: PartialTree, prefix: bytes) -> None:
    tree.first(prefix, _ALL)


_ALL = 1 << 30


# -- what an account is made of


def account_prefixes(number: int) -> list[bytes]:
    """Prefixes of the keys that are an account's own."""
    return [lv.account_key(number).replace(lv.ACCOUNT, kind, 1) for kind in _OWN]


def account_keys(number: int) -> list[bytes]:
    """The single leaves of an account, there or not."""
    return [lv.account_key(number).replace(lv.ACCOUNT, kind, 1) for kind in _SINGLE]


ITEMS: tuple[tuple[bytes, Callable[[bytes], Any]], ...] = (
    (lv.ORDER, lv.decode_order),
    (lv.TRIGGER, lv.decode_trigger),
    (lv.TWAP, lv.decode_twap),
)
"""Leaves that are about an account without standing under its number."""

_DECODE = dict(ITEMS)


def accounts_of(key: bytes, value: bytes | None) -> list[int]:
    """The accounts that a leaf is about."""
    kind = key[:1]
    if kind in (*_SINGLE, *_OWN):
        return [int.from_bytes(key[1:9], "big")]
    decode = _DECODE.get(kind)
    return [] if decode is None or value is None else [decode(value).account]
