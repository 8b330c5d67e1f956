"""Where an export or an audit reads the base layer: a validator's public port, or its directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from node.genesis import genesis_ledger
from node.ledger import Ledger
from node.queries import LedgerQueries
from node.store import DATABASE_NAME, ValidatorStore
from protocol.codec import Wire
from protocol.errors import Code, ConfigError, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import (
    BlocksFrom,
    BlocksView,
    EpochRequest,
    EpochView,
    HeaderRequest,
    HeaderView,
)
from store.files import lock_directory

BLOCKS_AT_ONCE = 256

A = TypeVar("A", bound=Wire)


class Source(Protocol):
    """Answers questions as `client.channel.Channel` does."""

    @property
    def places(self) -> int:
        """How many there are to ask."""

    async def ask(self, answer: type[A], request: Callable[..., Wire], *fields: object) -> A:
        """Ask one; raises `RemoteFault` where it refuses."""

    async def move_on(self) -> None:
        """Ask the next one from now on."""


class StoredLedger:
    """A validator's database as a source."""

    places = 1

    def __init__(self, queries: LedgerQueries) -> None:
        self._answers: dict[type[Any], Callable[[Any], Wire]] = {
            HeaderRequest: queries.header,
            BlocksFrom: queries.blocks,
            EpochRequest: queries.epoch,
        }

    async def ask(self, answer: type[A], request: Callable[..., Wire], *fields: object) -> A:
        """Answer from the database; raises `RemoteFault`."""
        asked = request(1, *fields)
        try:
            told = self._answers[type(asked)](asked)
        except Rejected as error:
            raise RemoteFault(error.code, error.text) from None
        if not isinstance(told, answer):
            raise RemoteFault(0, f"a {type(told).__name__} came, not a {answer.__name__}")
        return told

    async def move_on(self) -> None:
        """There is nobody else to ask."""


@contextmanager
def stored_ledger(directory: Path, chain: Chain, state_root: bytes) -> Iterator[StoredLedger]:
    """The base layer in the data directory of a validator that does not run.

    `state_root`: of the shard at genesis. Raises `ConfigError` where there is none, where its
    process runs, or where it is of another chain.
    """
    if not (directory / DATABASE_NAME).is_file():
        raise ConfigError(f"{directory} is no validator's data directory: no {DATABASE_NAME} in it")
    with lock_directory(directory):
        store = ValidatorStore(directory, chain)
        try:
            ledger: Ledger = store.load_ledger(state_root)
            if store.genesis_root() != genesis_ledger(chain, state_root).root:
                raise ConfigError(f"the database in {directory} is of another version")
            yield StoredLedger(LedgerQueries(ledger, store))
        finally:
            store.close()


async def newest_height(source: Source) -> int:
    """Height of the newest ledger block; 0 before the first."""
    try:
        return (await source.ask(HeaderView, HeaderRequest, 0)).header.height
    except RemoteFault as fault:
        if fault.code == Code.NOT_READY:
            return 0
        raise


_ABSENT = frozenset((Code.NOT_RETAINED, Code.NOT_FOUND))
"""Refusals of a validator that has pruned a block, or has not got it yet."""

_KEPT_FROM = re.compile(r"keeps blocks from (\d{1,19}) on", re.ASCII)


async def blocks_from(source: Source, first: int, limit: int = BLOCKS_AT_ONCE) -> BlocksView:
    """Blocks from a height on, of the first validator that has them."""
    pruned: list[str] = []
    for _ in range(source.places):
        try:
            return await source.ask(BlocksView, BlocksFrom, first, limit)
        except RemoteFault as fault:
            if fault.code not in _ABSENT:
                raise
            last = fault
            pruned += [fault.text] if fault.code == Code.NOT_RETAINED else []
            await source.move_on()
    if not pruned:
        raise last
    kept = [int(found[1]) for text in pruned if (found := _KEPT_FROM.search(text)) is not None]
    lowest = f"; the lowest block that one of them keeps is {min(kept)}" if kept else ""
    raise RemoteFault(
        Code.NOT_RETAINED,
        f"no validator that answers keeps ledger block {first}{lowest}. An audit from genesis "
        "needs a validator with retain_blocks = 0",
    )


async def proven_blocks(
    source: Source, above: int, newest: int, limit: int = BLOCKS_AT_ONCE
) -> Any:
    """Yield (blocks, certificate of the last) from a height on, up to at least `newest`."""
    waiting: list[Any] = []
    height = above
    while height < newest:
        view = await blocks_from(source, height + len(waiting) + 1, limit)
        waiting += view.blocks
        if waiting[-1].header.height < view.certificate.height:
            continue  # committed together with later blocks, which are proven first
        yield waiting, view.certificate
        height = waiting[-1].header.height
        waiting = []


async def epoch_change(source: Source, number: int) -> EpochView:
    """How an epoch began."""
    return await source.ask(EpochView, EpochRequest, number)
