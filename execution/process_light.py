"""A light client with its network: asks validators for epochs and proofs, believes none of them.

Whoever follows the base layer without executing it goes through this: the inbox of sequencers and
execution nodes, the prover's settled batches. The newest checkpoint is kept in a file, so that a
restart long after genesis still begins from members that can be trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from consensus.light import LightClient
from consensus.light_proofs import ProvenLeaves
from execution.inbox import VerifiedInbox
from net.clock import now_ms
from protocol.chain import CommitCertificate, Header, decode_header
from protocol.codec import Wire, encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.ledger_leaves import CURRENT_EPOCH_KEY
from protocol.light import (
    CHECKPOINT_FILE_BYTES,
    Checkpoint,
    checkpoint_from_json,
    checkpoint_to_json,
    genesis_checkpoint,
)
from protocol.messages import EpochRequest, EpochView, InboxView, ProofRequest, ProofView
from protocol.tree_proof import decode_tree_proof
from store.files import write_atomic

CHECKPOINT_NAME = "checkpoint.json"
"""File of the newest checkpoint in a process's data directory."""

NEWEST_SUFFIX = ".newest"
"""Suffix of the file beside it that holds the newest verified header."""

NEWEST_MS = 10_000
"""It is written again when the ledger has moved on by so much."""

REFRESHES = 16
"""A kept checkpoint is renewed so often within one trusting period."""

A = TypeVar("A")

_log = structlog.get_logger()


class Asks(Protocol):
    """Where questions go, such as `net.upstream.Upstream`."""

    async def ask(self, kind: type[A], make: Callable[[int], Wire], timeout_ms: int = ..., /) -> A:
        """One request and its answer."""

    async def drop(self) -> None:
        """Ask another one next time."""


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return now_ms()


def load_checkpoint(chain: Chain, path: Path | None, *, kept: bool = False) -> Checkpoint:
    """The checkpoint in a file, or that of genesis where there is none.

    `kept`: the file is one that we keep for ourselves, to be deleted where it is damaged. Raises
    `ConfigError` that names the file.
    """
    if path is None or not path.exists():
        return genesis_checkpoint(chain)
    try:
        with path.open("rb") as file:
            raw = file.read(CHECKPOINT_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    try:
        if len(raw) > CHECKPOINT_FILE_BYTES:
            raise ConfigError("the file is too large to be a checkpoint")
        checkpoint = checkpoint_from_json(raw)
    except ConfigError as error:
        advice = "delete it" if kept else "get another one from a source that you trust"
        raise ConfigError(f"the checkpoint file {path} is damaged; {advice} ({error})") from None
    if checkpoint.chain_id != chain.chain_id:
        advice = "; delete it" if kept else ""
        raise ConfigError(f"the checkpoint in {path} is of another chain{advice}")
    return checkpoint


def load_newest(chain: Chain, path: Path) -> Header | None:
    """The header in a file that we keep for ourselves, None where there is none.

    Raises `ConfigError` that names the file.
    """
    try:
        header = decode_header(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the newest header {path}: {error.strerror}") from None
    except Rejected as error:
        raise ConfigError(f"the newest header {path} is damaged; delete it ({error})") from None
    if header.chain_id != chain.chain_id:
        raise ConfigError(f"the newest header in {path} is of another chain; delete it")
    return header


class LightFollower:
    """Verifies what validators answer, following the member sets as they change.

    `checkpoint`: file that is begun from, and kept up to date unless `keep` is False; None: always
    from genesis. Beside it the newest header is kept, so that validators which lost their data and
    began anew are noticed after a restart, too: whatever verifies raises `SafetyViolation` then.
    """

    def __init__(
        self,
        chain: Chain,
        upstream: Asks,
        checkpoint: Path | None = None,
        clock: Callable[[], int] = wall_clock_ms,
        *,
        keep: bool = True,
    ) -> None:
        """Raises `ConfigError` where the checkpoint is unusable or no longer to be trusted."""
        self._upstream = upstream
        self._path = checkpoint
        self._writes = keep and checkpoint is not None
        self._clock = clock
        self._trusting_ms = chain.genesis.staking.trusting_ms
        begin = load_checkpoint(chain, checkpoint, kept=keep)
        try:
            self.client = LightClient(begin, trusting_ms=self._trusting_ms, now_ms=clock())
        except Rejected as error:
            raise self._untrusted(error) from None
        newest = None
        if checkpoint is not None:
            self._newest_path = checkpoint.with_suffix(NEWEST_SUFFIX)
            newest = load_newest(chain, self._newest_path)
        if newest is not None:
            self.client.remember(newest)
        self._newest_stored_ms = 0 if newest is None else newest.time_ms
        self._stored = (begin.epoch, begin.time_ms)
        self._confirmed = begin.epoch
        # Questions of several tasks must not follow the same change of members twice.
        self._turn = asyncio.Lock()

    def _untrusted(self, error: Rejected) -> ConfigError:
        where = f" and put it at {self._path}" if self._path is not None else ""
        return ConfigError(
            f"{error.text}; whoever follows the chain can write one with: "
            f"trilemma light --checkpoint-out FILE{where}; "
            "where the whole chain rested for that long, add --trust"
        )

    async def verify(self, header: Header, certificate: CommitCertificate) -> None:
        """Check that a block is final, following the epochs up to its own first.

        Raises `Rejected`, what asking raises, or `ConfigError` where the members that we know are
        not to be trusted any more.
        """
        async with self._turn:
            await self._follow_to(header.epoch)
            try:
                self.client.verify_header(header, certificate, self._clock())
            except Rejected as error:
                raise self._fault(error) from None
            await self._keep()

    async def leaves(self, keys: Sequence[bytes]) -> ProvenLeaves:
        """Ledger leaves as one validator proves them under its newest root; raises as `verify`."""
        keys = list(dict.fromkeys((*keys, CURRENT_EPOCH_KEY)))
        view = await self._upstream.ask(
            ProofView, lambda request_id: ProofRequest(request_id, keys)
        )
        proof = decode_tree_proof(view.proof)
        async with self._turn:
            await self._follow_to(view.header.epoch)
            try:
                proven = self.client.prove(
                    view.header, view.certificate, proof, keys, self._clock()
                )
            except Rejected as error:
                raise self._fault(error) from None
            if proven.header.epoch == self.client.epoch:
                self.client.confirm_origin(proven)
                self._confirmed = self.client.epoch
            await self._keep()
        return proven

    async def extend(self, inbox: VerifiedInbox) -> Header:
        """Ask for what is new of an inbox, in as many parts as it takes; the header it is of.

        Raises as `verify`, and `ConfigError` where the ledger has forgotten what its holder needs.
        """
        complete = False
        while not complete:
            try:
                view = await self._upstream.ask(InboxView, inbox.request)
            except RemoteFault as fault:
                if fault.code != Code.NOT_RETAINED:
                    raise
                leaves = await self.leaves([inbox.forgotten_key])
                inbox.begin_behind(leaves.raw(inbox.forgotten_key))
                continue
            await self.verify(view.header, view.certificate)
            complete = inbox.take(view)
        return view.header

    async def stay_fresh(self) -> None:
        """Look at the chain often enough, for ever, that trust in its members never runs out.

        Whoever asks only when there is something to do must run this beside it. Raises
        `ConfigError` where trust ran out all the same.
        """
        while True:
            await asyncio.sleep(self._trusting_ms / REFRESHES / 1000)
            if self.client.members.ends_ms is None:
                continue
            try:
                await self.leaves([CURRENT_EPOCH_KEY])
            except (ConnectionError, TimeoutError, EOFError, RemoteFault, Rejected) as error:
                _log.info("members of the base layer are not renewed", error=str(error))
                await self._upstream.drop()

    async def _follow_to(self, epoch: int) -> None:
        """Follow the member sets up to an epoch; each step is proven, so a lie ends it."""
        while self.client.epoch < epoch:
            number = self.client.epoch + 1
            view = await self._upstream.ask(EpochView, partial(EpochRequest, number=number))
            proof = decode_tree_proof(view.proof)
            try:
                self.client.advance(view.header, view.certificate, proof, self._clock())
            except Rejected as error:
                raise self._fault(error) from None
            await self._keep()

    def _fault(self, error: Rejected) -> Rejected | ConfigError:
        """Members that are too old are for our operator to mend, everything else is a peer's lie;
        old members of a past epoch are of no further use and no reason to stop."""
        fresh = self._clock() - self.client.trusted_ms <= self._trusting_ms
        if error.code != Code.UNTRUSTED_CHECKPOINT or fresh:
            return error
        return self._untrusted(error)

    async def _keep(self) -> None:
        """Store the newest header now and then, and the checkpoint when its epoch or a good part of
        its trust is new.

        Which block an epoch starts from only its own members prove; before that none is stored.
        """
        if not self._writes or self._path is None:
            return
        newest = self.client.newest
        if newest is not None and newest.time_ms >= self._newest_stored_ms + NEWEST_MS:
            self._newest_stored_ms = newest.time_ms
            await asyncio.to_thread(write_atomic, self._newest_path, encode(newest))
        if self.client.members.ends_ms is None or self.client.epoch != self._confirmed:
            return
        epoch, time_ms = self._stored
        newer_ms = self.client.trusted_ms - time_ms
        if self.client.epoch == epoch and newer_ms * REFRESHES < self._trusting_ms:
            return
        checkpoint = self.client.checkpoint()
        self._stored = (checkpoint.epoch, checkpoint.time_ms)
        await asyncio.to_thread(write_atomic, self._path, checkpoint_to_json(checkpoint))
