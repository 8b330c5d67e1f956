"""An execution node that tells of more cash than there is: in answers, and in its diffs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from execution import leaves as lv
from execution.process import ExecutionProcess
from net.service import ClientSession, StatusValues
from protocol.codec import Wire, encode
from protocol.events import BlockDiff, decode_block_diff
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages_trading import AccountRequest, DiffPush, SubscribeDiffs
from store.config import ProcessConfig

TOO_MUCH_UUSD = 1_000_000


class LyingSession:
    """A session whose diffs are changed on the way out."""

    def __init__(self, session: ClientSession, change: Callable[[Wire], Wire]) -> None:
        self._session = session
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def send(self, message: Wire) -> None:
        """Send what was made of it."""
        self._session.send(self._change(message))


class LyingExecution(ExecutionProcess):
    """Executes as it ought to, and tells something else."""

    def __init__(self, config: ProcessConfig, chain: Chain) -> None:
        super().__init__(config, chain)
        self._lies = 0
        honest = self._queries.answers[AccountRequest]
        self._service.on(AccountRequest, lambda _, request: self._richer(honest(request)))

    async def _subscribe_diffs(
        self, session: ClientSession, request: SubscribeDiffs
    ) -> Wire | None:
        lying: Any = LyingSession(session, self._false)
        return await super()._subscribe_diffs(lying, request)

    def _richer(self, view: Any) -> Any:
        self._lies += 1
        return replace(view, cash_uusd=view.cash_uusd + TOO_MUCH_UUSD)

    def _false(self, message: Wire) -> Wire:
        if not isinstance(message, DiffPush):
            return message
        diff = decode_block_diff(message.diff)
        told = false_diff(diff)
        if told is diff:
            return message
        self._lies += 1
        return replace(message, diff=encode(told))

    def _status(self) -> StatusValues:
        return {**super()._status(), "byzantine": self._config.byzantine, "lies_told": self._lies}


def false_diff(diff: BlockDiff) -> BlockDiff:
    """The diff with more cash in the first account that it changes, the same one without any."""
    for place, (key, value) in enumerate(diff.changes):
        if key[:1] == lv.account_key(0)[:1] and value is not None:
            leaf = lv.decode_account(value)
            more = encode(replace(leaf, cash_uusd=leaf.cash_uusd + TOO_MUCH_UUSD))
            changes = [*diff.changes[:place], (key, more), *diff.changes[place + 1 :]]
            return replace(diff, changes=changes)
    return diff


def make(config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> LyingExecution:
    """An execution node that lies."""
    del key, names
    return LyingExecution(config, chain)
