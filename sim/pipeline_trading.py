"""What must hold of trading at the end: the books of execution nodes, read from their leaves."""

from __future__ import annotations

from execution import leaves as lv
from execution.engine import Engine
from execution.receipt_proof import ReceiptProof, ReceiptTree, verify_receipt_proof
from protocol.actions import OPEN
from protocol.errors import Rejected
from protocol.events import Receipt
from protocol.genesis import Chain
from protocol.messages_market_data import ReceiptRequest
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    FEE_ACCOUNT,
    FIRST_ACCOUNT,
    INSURANCE_ACCOUNT,
    POOL_ACCOUNT,
)
from prover.tree import StateTree
from sim.actors_execution import SimExecution
from sim.actors_prover import SimProver
from sim.checkers import Violation

SYSTEM_ACCOUNTS = frozenset((FEE_ACCOUNT, POOL_ACCOUNT, INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT))
RECEIPTS_ASKED = 20
"""Receipts that each execution node is asked for, of all there are."""


def is_calm(engine: Engine) -> bool:
    """Whether all markets that have not expired are open at fresh prices, nobody waits to be sold,
    and nobody would."""
    state = engine.state
    for market in state.markets:
        if not market.settled_ticks and (market.stale or market.mode != OPEN):
            return False
    return not state.distressed.rows and not below_maintenance(engine)


def below_maintenance(engine: Engine) -> list[int]:
    """Accounts whose equity is below their maintenance margin, the backstop among them."""
    found = []
    for number in sorted(engine.state.accounts):
        if number >= FIRST_ACCOUNT or number == BACKSTOP_ACCOUNT:
            view = engine.account_view(0, number)
            if view.equity_uusd < view.maintenance_margin_uusd:
                found.append(number)
    return found


def check_books(chain: Chain, nodes: list[SimExecution]) -> None:
    """All nodes have one state; it is sound in every part, and so is the one made from its leaves;
    money and positions sum up."""
    root = b""
    for node in nodes:
        leaves = node.engine.leaves()
        found = StateTree(sorted(leaves.items())).root
        if root and found != root:
            raise Violation("root", f"{node.name} has another state than {nodes[0].name}")
        root = found
        node.engine.check()
        again = Engine.restore(chain, leaves.items())
        again.check()
        if again.leaves() != leaves:
            raise Violation("root", f"the leaves of {node.name} do not give its state again")
        check_sums(leaves)
        below = below_maintenance(again)
        if below:
            raise Violation("margin", f"accounts {below} are below maintenance, and nobody acts")


def check_sums(leaves: dict[bytes, bytes]) -> None:
    """Cash over all accounts, those of the system among them, is deposits less withdrawals; the
    positions of each market sum to zero."""
    cash_uusd, system, sizes = 0, set(), dict[int, int]()
    for key, value in leaves.items():
        if key[:1] == lv.ACCOUNT:
            number = lv.parse_account_key(key)
            cash_uusd += lv.decode_account(value).cash_uusd
            if number < FIRST_ACCOUNT:
                system.add(number)
        elif key[:1] == lv.POSITION:
            _, market = lv.parse_position_key(key)
            sizes[market] = sizes.get(market, 0) + lv.decode_position(value).size_lots
    money = lv.decode_money(leaves[lv.MONEY_KEY])
    if system != SYSTEM_ACCOUNTS:
        raise Violation("conservation", f"the accounts of the system are {sorted(system)}")
    if cash_uusd != money.deposits_uusd - money.withdrawals_uusd:
        raise Violation("conservation", "cash in the shard is not deposits less withdrawals")
    if any(sizes.values()):
        raise Violation("conservation", f"the positions of markets sum to {sizes}")


def check_liquidations(
    receipts: list[Receipt], nodes: list[SimExecution], prover: SimProver
) -> None:
    """Every receipt that was told is proven by the prover's state, and every node knows it."""
    tree = ReceiptTree()
    for number, receipt in enumerate(receipts):
        if receipt.number != number:
            raise Violation("exactly_once", f"receipt {receipt.number} where {number} is next")
        tree.append(receipt)
    leaf = dict(prover.batcher.tree.iterate()).get(lv.RECEIPTS_KEY)
    count = 0 if leaf is None else lv.decode_receipts(leaf).count
    if count != len(receipts):
        raise Violation("durability", f"{count} of {len(receipts)} receipts are settled")
    if not receipts:
        return
    root = prover.batcher.tree.root
    shown = prover.batcher.tree.prove([lv.RECEIPTS_KEY])
    try:
        for receipt in receipts:
            proof = ReceiptProof(receipt, tree.path(receipt.number, count), shown)
            verify_receipt_proof(root, proof)
        for node in nodes:
            for number in range(0, count, max(1, count // RECEIPTS_ASKED)):
                told = node.queries.receipt(ReceiptRequest(0, number, count))
                verify_receipt_proof(root, ReceiptProof(told.receipt, told.path, shown))
                if told.receipt != receipts[number]:
                    raise Violation("durability", f"{node.name} tells another receipt {number}")
    except Rejected as error:
        raise Violation("settlement", f"a receipt is not proven: {error}") from None
