"""A validator that lies: to other validators by a behaviour of `sim.byzantine`, and to clients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from consensus import MemberSet
from node.rounds import replica_config
from protocol.codec import Wire
from protocol.messages import BalanceView, Committed, InboxView, ProofView
from protocol.settlement import InboxDeposit
from sim.actors_validator import SimValidator
from sim.byzantine_forgers import BEHAVIOURS

LIE_PPM = 300_000


class ByzantineValidator(SimValidator):
    """Runs the real machines and changes what leaves them.

    `behaviour` names one of `sim.byzantine_forgers.BEHAVIOURS`, empty for none. Inbox views are
    tampered with now and then; who follows the inbox must notice.
    """

    behaviour = ""

    def start(self) -> None:
        """As an honest one, behind a behaviour."""
        super().start()
        self.honest = False
        if self.behaviour:
            stand: Any = _Stand(self)
            self.machine.replica = BEHAVIOURS[self.behaviour](stand, self.machine.replica)

    def send(self, target: str, message: Wire) -> None:
        """Send, sometimes not the truth."""
        if isinstance(message, InboxView) and self.random.chance(LIE_PPM):
            self.history.count("inbox_lies")
            message = self._tampered(message)
        elif target == "prover" and self.random.chance(LIE_PPM):
            message = self._false(message)
        super().send(target, message)

    def _false(self, message: Wire) -> Wire:
        """What a prover must not believe: that its batch is settled, a nonce, a proof."""
        if isinstance(message, Committed | BalanceView | ProofView):
            self.history.count("prover_lies")
        if isinstance(message, Committed):
            return msgspec.structs.replace(message, code=0 if message.code else 605)
        if isinstance(message, BalanceView):
            return msgspec.structs.replace(message, nonce=message.nonce + self.random.below(3))
        if isinstance(message, ProofView):
            return msgspec.structs.replace(message, proof=message.proof[:-1] + b"\x01")
        return message

    def _tampered(self, view: InboxView) -> InboxView:
        kind = self.random.below(4)
        if kind == 0 and view.entries:
            return msgspec.structs.replace(view, entries=view.entries[:-1])
        if kind == 1:
            entry = InboxDeposit(len(view.entries), 16, self.key.address, 1 << 40)
            entries = [*view.entries, (view.header.height, entry)]
            return msgspec.structs.replace(view, entries=entries)
        if kind == 2:
            header = msgspec.structs.replace(view.header, app_height=view.header.app_height + 1)
            return msgspec.structs.replace(view, header=header)
        return msgspec.structs.replace(view, proof=view.proof[:-1] + b"\x00")


class _Stand:
    """What a behaviour wants to know of the node that it runs in."""

    def __init__(self, validator: ByzantineValidator) -> None:
        self.name = validator.name
        self.key = validator.key
        self.world = SimpleNamespace(
            kernel=validator.kernel,
            bite=self._bite,
            config=replica_config(validator.chain.genesis.ledger_pace),
            operations=[],
            checkers=SimpleNamespace(roots=_Roots(validator), blocks=validator.history.ledger),
        )
        self._validator = validator

    def _bite(self, kind: str, count: int = 1) -> None:
        self._validator.history.count(f"byzantine_{kind}", count)

    @property
    def members(self) -> MemberSet:
        """Members of the current epoch."""
        return self._validator.machine.members


class _Roots:
    """Ledger roots by height, as far as anybody has them."""

    def __init__(self, validator: ByzantineValidator) -> None:
        self._history = validator.history
        self._genesis_root = validator.genesis_root

    def get(self, height: int, default: bytes | None = None) -> bytes | None:
        """The root after a block."""
        if height == 0:
            return self._genesis_root
        known = self._history.ledger.get(height)
        return default if known is None else known[1]
