"""Who is not a member of a chain, any more, yet, or of this one, is refused at its peer port.

The links are those of real processes, fed by a real ledger; strangers dial with TLS contexts that
trust the victim, so that only the victim can say no.
"""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from ledger_world import key_of
from staking_world import STAKE, STAKING, StakingWorld, certificate_of

from cluster.testnet import TestnetOptions, create_testnet
from net.member_links import MemberLinks
from net.session import Session
from net.tls import client_context, is_usable, make_certificate
from node.neighbours import Neighbour
from node.process_peers import PeerLinks, ledger_neighbours
from protocol.chain import BlocksRequest
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.keys import Key
from protocol.settlement import ReportEvidence, Unbond
from sequencer.peer import decode_peer_message as decode_sequencer_message
from sequencer.process_peers import SequencerLinks
from store.config import load_chain, load_config, load_process_key
from store.testnet import Testnet

PATIENCE_S = 20.0
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Caller:
    """Owner of a dialled session."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def on_open(self, session: Session) -> None:
        return None

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        return None

    def on_close(self, session: Session, error: Exception | None) -> None:
        self.closed.set()


def dated(key: Key, name: str, begins: datetime.datetime, ends: datetime.datetime) -> bytes:
    """A certificate like those of members, valid in another time."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, key.public.hex()),
        ]
    )
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.private.public_key()).serial_number(77)
    builder = builder.not_valid_before(begins).not_valid_after(ends)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    return builder.sign(key.private, None).public_bytes(Encoding.DER)


class Port:
    """A listening member, and whether callers are let in."""

    def __init__(self, links: MemberLinks[Any], certificate: bytes, member: Callable[[], bytes]):
        self.links = links
        self.certificate = certificate
        self._message = member

    async def dial(self, context: ssl.SSLContext) -> tuple[Session, Caller]:
        caller = Caller()
        _, session = await asyncio.get_running_loop().create_connection(
            lambda: Session(caller), "127.0.0.1", self.links.mesh.port, ssl=context,
            server_hostname="",
        )  # fmt: skip
        return session, caller

    def context(self, key: Key, certificate: bytes) -> ssl.SSLContext:
        return client_context(key, certificate, [self.certificate])

    async def takes(self, key: Key, certificate: bytes) -> bool:
        """Whether a message of this caller is handled; if not, the connection was ended."""
        heard = len(self.links.take())
        assert not heard
        session, caller = await self.dial(self.context(key, certificate))
        session.send(self._message())
        async with asyncio.timeout(PATIENCE_S):
            while not (caller.closed.is_set() or self.links.waiting):
                await asyncio.sleep(0.005)
        taken = bool(self.links.take())
        session.abort("done")
        return taken

    async def refuses(self, key: Key, certificate: bytes) -> bool:
        with suppress(ssl.SSLError, ConnectionError):
            return not await self.takes(key, certificate)
        assert not self.links.waiting
        return True


@asynccontextmanager
async def listening(links: MemberLinks[Any], own: bytes, ask: bytes) -> AsyncIterator[Port]:
    # Nothing is dialled: the others do not run, and only who calls is of interest.
    links.mesh._server.port = 0
    await links.mesh._server.start()
    yield Port(links, own, lambda: ask)
    await links.mesh._server.stop()
    links.mesh.failure.cancel()


class Validators:
    """Validator 0 of a ledger whose validators come and go."""

    def __init__(self, directory: Path) -> None:
        self.world = StakingWorld()
        testnet = create_testnet(directory / "net", TestnetOptions(validators=3, traders=1))
        config = load_config(testnet.config_path("validator-0"))
        self.links = PeerLinks(
            config, self.world.chain, key_of("validator-0"), lambda gossip: None, lambda: None
        )
        self.follow()

    def follow(self) -> None:
        # Addresses of the ledger, so that every neighbour is a peer; none is dialled.
        found = ledger_neighbours(self.world.ledger)
        for one in found:
            one.address = "127.0.0.1:9"
        self.links.follow(found)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Port]:
        tasks = [
            asyncio.ensure_future(self.links.mesh._handle(inbox))
            for inbox in self.links.mesh._inboxes.values()
        ]
        async with listening(self.links, certificate_of("validator-0"), ask_blocks()) as port:
            yield port
        for task in tasks:
            task.cancel()


def ask_blocks() -> bytes:
    return encode(BlocksRequest(b"\x01" * 32, 1, 1))


@pytest.fixture
def validators(tmp_path: Path) -> Validators:
    return Validators(tmp_path)


def member(index: int) -> tuple[Key, bytes]:
    name = f"validator-{index}"
    return key_of(name), certificate_of(name)


async def test_a_member_is_heard_and_a_stranger_is_not(tmp_path: Path) -> None:
    validators = Validators(tmp_path)
    async with validators.listening() as port:
        assert await port.takes(*member(1))
        stranger = Key(b"s" * 32)
        assert await port.refuses(stranger, make_certificate(stranger, "stranger"))
        assert await port.refuses(stranger, make_certificate(stranger, "validator-1"))
        assert await port.takes(*member(2))


async def test_a_stranger_under_the_subject_of_a_member_is_refused(tmp_path: Path) -> None:
    """OpenSSL finds trusted certificates by subject: the same subject must not be enough."""
    stranger, (key, certificate) = Key(b"s" * 32), member(1)
    subject = x509.load_der_x509_certificate(certificate).subject
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(stranger.private.public_key()).serial_number(5)
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    copied = builder.sign(stranger.private, None).public_bytes(Encoding.DER)
    assert not is_usable(copied, key.public) and not is_usable(copied, stranger.public)
    async with Validators(tmp_path).listening() as port:
        assert await port.refuses(stranger, copied)
        assert await port.takes(key, certificate)


async def test_who_shows_no_certificate_is_refused(tmp_path: Path) -> None:
    async with Validators(tmp_path).listening() as port:
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
        with suppress(ssl.SSLError, ConnectionError):
            session, caller = await port.dial(bare)
            session.send(ask_blocks())
            async with asyncio.timeout(PATIENCE_S):
                await caller.closed.wait()
        assert not port.links.waiting
        assert await port.takes(*member(1))


@pytest.mark.parametrize(
    ("begins", "ends", "taken"),
    [
        (NOW - 2 * DAY, NOW - DAY, False),
        (NOW + DAY, NOW + 2 * DAY, False),
        (NOW - DAY, NOW + DAY, True),
    ],
    ids=["expired", "not valid yet", "valid"],
)
async def test_a_members_certificate_holds_in_its_time_only(
    tmp_path: Path, begins: datetime.datetime, ends: datetime.datetime, taken: bool
) -> None:
    """Even one that the ledger names: the time is checked at each handshake."""
    key = key_of("validator-1")
    certificate = dated(key, "validator-1", begins, ends)
    validators = Validators(tmp_path)
    own, other = (Neighbour(k.public, [c], "127.0.0.1:9") for k, c in (member(0), member(2)))
    validators.links.follow([own, Neighbour(key.public, [certificate], "127.0.0.1:9"), other])
    async with validators.listening() as port:
        assert await (port.takes if taken else port.refuses)(key, certificate)
        assert await port.takes(*member(2))


async def test_a_validator_that_left_is_refused_once_its_stake_is_gone(tmp_path: Path) -> None:
    validators = Validators(tmp_path)
    world, leaving = validators.world, key_of("validator-1")
    async with validators.listening() as port:
        standing, caller = await port.dial(port.context(*member(1)))
        standing.send(ask_blocks())
        async with asyncio.timeout(PATIENCE_S):
            while not port.links.waiting:
                await asyncio.sleep(0.005)
        port.links.take()
        world.expect(Code.OK, world.sign(leaving, Unbond(STAKE)))
        world.next_epoch()
        validators.follow()
        # Its stake may still be burnt for what it did: it follows the chain without a vote.
        assert not caller.closed.is_set()
        world.wait(STAKING.unbonding_ms + 1_000)
        world.expect(Code.OK, world.sign(leaving, Unbond(0)))
        validators.follow()
        async with asyncio.timeout(PATIENCE_S):
            await caller.closed.wait()
        assert await port.refuses(*member(1))
        assert await port.takes(*member(2))


async def test_a_jailed_validator_has_no_say_and_is_gone_with_its_stake(tmp_path: Path) -> None:
    validators = Validators(tmp_path)
    world, accused = validators.world, key_of("validator-1")
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(world.double_vote(1))))
    members = world.next_epoch().members
    assert accused.public not in [one.public_key for one in members]
    left = world.record(accused).stake_uusd
    world.expect(Code.OK, world.sign(accused, Unbond(left)))
    world.next_epoch()
    world.wait(STAKING.unbonding_ms + STAKING.jail_ms)
    world.next_epoch()  # blocks behind a boundary carry nothing
    record = world.ledger.validator(accused.address)
    assert record is None or not record.stake_uusd
    if record is not None and record.unbonding:
        world.expect(Code.OK, world.sign(accused, Unbond(0)))
    validators.follow()
    async with validators.listening() as port:
        assert await port.refuses(*member(1))
        assert await port.takes(*member(2))


# --- right keys of the chain, at the wrong port


class OfTestnet:
    """A validator and a sequencer of one chain, and the keys of every role."""

    def __init__(self, directory: Path) -> None:
        options = TestnetOptions(validators=2, sequencers=2, traders=1)
        self.testnet: Testnet = create_testnet(directory / "net", options)
        self.chain = self.testnet.chain()
        genesis = self.chain.genesis
        self.certificates = {
            one.name: bytes.fromhex(one.certificate)
            for one in (*genesis.validators, *genesis.sequencers)
        }

    def identity(self, name: str) -> tuple[Key, bytes]:
        key = self.testnet.key(name)
        return key, self.certificates.get(name) or make_certificate(key, name)

    def links(self, name: str) -> tuple[MemberLinks[Any], bytes]:
        config = load_config(self.testnet.config_path(name))
        chain = load_chain(config)
        key = load_process_key(config, chain)
        if config.role == "sequencer":
            made: MemberLinks[Any] = SequencerLinks(config, chain, key, lambda: None)
            return made, ask_sequencer()
        links = PeerLinks(config, chain, key, lambda gossip: None, lambda: None)
        links.follow(
            [
                Neighbour(bytes.fromhex(one.public_key), [bytes.fromhex(one.certificate)])
                for one in chain.genesis.validators
            ]
        )
        return links, ask_blocks()


def ask_sequencer() -> bytes:
    frame = ask_blocks()
    decode_sequencer_message(frame)
    return frame


@pytest.mark.parametrize("victim", ["validator-0", "sequencer-0"])
async def test_a_right_key_of_another_role_is_refused(tmp_path: Path, victim: str) -> None:
    world = OfTestnet(tmp_path)
    links, ask = world.links(victim)
    mate = victim[:-1] + "1"
    others = [name for name in world.certificates if name[:-1] != victim[:-1]]
    assert len(others) == 2
    tasks = [
        asyncio.ensure_future(links.mesh._handle(inbox)) for inbox in links.mesh._inboxes.values()
    ]
    async with listening(links, world.certificates[victim], ask) as port:
        for name in (*others, "prover-0", "execution-0", "trader-00"):
            assert await port.refuses(*world.identity(name)), name
        assert await port.takes(*world.identity(mate))
    for task in tasks:
        task.cancel()


async def test_what_a_sequencer_that_is_none_sends_is_refused_too(tmp_path: Path) -> None:
    """Behind the handshake stands a second check, of the key that a frame came from."""
    links, ask = OfTestnet(tmp_path).links("sequencer-0")
    with pytest.raises(Rejected) as refused:
        links._read(b"\x05" * 32, ask)
    assert refused.value.code == Code.NOT_AUTHORISED
    links.mesh.failure.cancel()
