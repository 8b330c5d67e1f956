"""Faults inside this process: its sessions by the peer's name, and the plan that they suffer.

A peer's name decides only which faults it meets. Members of the own chain have theirs from
genesis by their key; whoever connects to the public port says its own; and servers that are dialled
say theirs when they greet. Sessions without a fault keep their direct way to the socket.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from net.clock import now_ms
from net.faults import LinkFaults
from net.injection_plan import CLIENTS, EVERY_PROCESS, NOTHING, PPM, Plan, Toxic
from protocol.errors import ConfigError
from protocol.genesis import Chain
from store.config import ProcessConfig
from store.faults import disk

if TYPE_CHECKING:
    from net.session import Session

UNLISTED = re.compile(r"(execution|prover|challenger)-[0-9]{1,4}")
"""Names that testnets give to processes of roles that genesis does not list."""

ADDRESSES_MAX = 1_024
NAMES_MAX = 1_024

RESET = "reset_by_fault"
"""Why a session was closed that a fault has reset."""


class _Joined:
    """A session that stands."""

    __slots__ = ("is_process", "name", "reliable", "serial", "session", "timer")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.serial = 0
        self.name = ""
        self.is_process = False
        # Links of members may lose frames, and their machines know; other sessions are streams.
        self.reliable = True
        self.timer: asyncio.TimerHandle | None = None

    @property
    def label(self) -> str:
        """Under which name its counters stand."""
        return (self.name or "unnamed") if self.is_process else CLIENTS


class Injection:
    """The faults of one process. `enabled` says whether any may be ordered."""

    def __init__(self) -> None:
        self.enabled = False
        self.plan: Plan = NOTHING
        self._process = ""
        self._names: dict[str, None] = {}
        self._name_of_key: dict[bytes, str] = {}
        self._name_at: dict[tuple[str, int], str] = {}
        self._joined: dict[Session, _Joined] = {}
        self._serial: Counter[str] = Counter()
        self._bit: dict[str, Counter[str]] = {}
        self._reset_at: dict[str, float] = {}

    def enable(self, config: ProcessConfig, chain: Chain) -> None:
        """Take orders where the configuration says so, and only on a testnet."""
        self._process = config.name
        genesis = chain.genesis
        self._name_of_key = {
            bytes.fromhex(member.public_key): member.name
            for member in [*genesis.validators, *genesis.sequencers]
        }
        names = [*self._name_of_key.values(), config.name, *(peer.name for peer in config.peers)]
        self._names.update(dict.fromkeys(names))
        self.enabled = config.faults and genesis.testnet

    # --- the sessions tell

    def joined(self, session: Session) -> None:
        """A connection stands."""
        if session not in self._joined:
            self._joined[session] = _Joined(session)

    def left(self, session: Session) -> None:
        """A connection is gone."""
        one = self._joined.pop(session, None)
        if one is not None and one.timer is not None:
            one.timer.cancel()

    def dialled(self, session: Session, address: tuple[str, int]) -> None:
        """The session leads to the server at this address, which may have told its name before."""
        self._name(session, self._name_at.get(address, ""), is_process=True)

    def welcomed(self, session: Session, address: tuple[str, int], name: str) -> None:
        """The server at this address has said its name."""
        if len(self._name_at) < ADDRESSES_MAX:
            self._name_at[address] = name
        self._learn(name)
        self._name(session, name, is_process=True)

    def greeted(self, session: Session, name: str) -> None:
        """Whoever connected has said its name; one that no process has is a client's."""
        self._name(session, name or CLIENTS, is_process=self._known(name))

    def member(self, session: Session, public_key: bytes) -> None:
        """The session is with the member of this key; its certificate names one of no genesis."""
        name = self._name_of_key.get(public_key, "") or _subject(session) or public_key.hex()[:16]
        self._learn(name)
        self.joined(session)
        self._joined[session].reliable = False
        self._name(session, name, is_process=True)

    def _learn(self, name: str) -> None:
        if len(self._names) < NAMES_MAX:
            self._names[name] = None

    def _known(self, name: str) -> bool:
        return name in self._names or UNLISTED.fullmatch(name) is not None

    def _name(self, session: Session, name: str, *, is_process: bool) -> None:
        self.joined(session)
        one = self._joined[session]
        if (one.name, one.is_process) != (name, is_process):
            one.name, one.is_process, one.serial = name, is_process, 0
            if self.plan.toxics:
                self._attach(one)

    # --- orders

    def apply(self, plan: Plan) -> None:
        """Suffer this plan and no other; raises `ConfigError` where it names unknown peers."""
        for toxic in plan.toxics:
            self._check_peers(toxic)
        now = asyncio.get_running_loop().time() if plan.toxics else 0.0
        before = {toxic.name: toxic for toxic in self.plan.toxics}
        self._reset_at = {
            toxic.name: self._reset_at[toxic.name]
            if before.get(toxic.name) == toxic
            else now + toxic.attributes.get("timeout_ms", 0) / 1000
            for toxic in plan.toxics
            if toxic.type == "reset_peer"
        }
        self.plan = plan
        now_ms.skew_ms = plan.skew_ms
        disk.order(plan.sync_delay_ms, full=plan.disk_full, read_only=plan.disk_read_only)
        for one in list(self._joined.values()):
            self._attach(one, stood=True)

    def _check_peers(self, toxic: Toxic) -> None:
        for peer in toxic.peers:
            if peer not in (EVERY_PROCESS, CLIENTS) and not self._known(peer):
                known = ", ".join(sorted(self._names))
                raise ConfigError(
                    f"the toxic {toxic.name!r} names {peer!r}, which {self._process} does not "
                    f"know; it knows {known}, processes named execution-N, prover-N and "
                    f"challenger-N, '{EVERY_PROCESS}' (every process) and '{CLIENTS}'"
                )

    def _attach(self, one: _Joined, *, stood: bool = False) -> None:
        """Give a session the toxics that are meant for it."""
        if one.timer is not None:
            one.timer.cancel()
            one.timer = None
        if not one.serial and self.plan.toxics:
            self._serial[one.label] += 1
            one.serial = self._serial[one.label]
        toxics = [toxic for toxic in self.plan.toxics if self._hits(toxic, one)]
        resets = [self._reset_at[each.name] for each in toxics if each.type == "reset_peer"]
        bit = self._bit.setdefault(one.label, Counter()) if toxics else Counter[str]()
        faults = _combined(toxics, f"{self.plan.seed}/{one.label}/{one.serial}", bit)
        faults.reliable = one.reliable
        one.session.set_faults(None if faults.none else faults)
        if not resets:
            return
        loop, due = asyncio.get_running_loop(), min(resets)
        refused = not stood and due <= loop.time()
        what = "refused_connections" if refused else "reset_connections"
        one.timer = loop.call_at(due, self._reset, one.session, bit, what)

    def _reset(self, session: Session, bit: Counter[str], what: str) -> None:
        if session.open:
            bit[what] += 1
            session.reset(RESET)

    def _hits(self, toxic: Toxic, one: _Joined) -> bool:
        if one.is_process:
            meant = EVERY_PROCESS in toxic.peers or (one.name != "" and one.name in toxic.peers)
        else:
            meant = one.name != "" and CLIENTS in toxic.peers
        if not meant or toxic.toxicity_ppm >= PPM:
            return meant
        draw = Random(f"{self.plan.seed}/{toxic.name}/{one.label}/{one.serial}").randrange(PPM)
        return draw < toxic.toxicity_ppm

    # --- what hit

    def state(self) -> dict[str, Any]:
        """The plan, what of it hit since the process began, and the connections by peer."""
        sessions = Counter(one.label for one in self._joined.values() if one.name or one.is_process)
        return {
            "process": self._process,
            "plan": msgspec.to_builtins(self.plan),
            "bit": {
                "peers": {name: dict(sorted(bit.items())) for name, bit in _sorted(self._bit)},
                "disk": {
                    "delayed_syncs": disk.delayed_syncs,
                    "refused_writes": disk.refused_writes,
                },
                "clock_off_ms": now_ms.off_ms(),
            },
            "sessions": dict(sorted(sessions.items())),
        }


def _subject(session: Session) -> str:
    """The common name in the peer's certificate."""
    tls = session.transport.get_extra_info("ssl_object")
    subject = () if tls is None else tls.getpeercert().get("subject", ())
    return next((str(text) for part in subject for key, text in part if key == "commonName"), "")


def _sorted(bit: dict[str, Counter[str]]) -> Iterable[tuple[str, Counter[str]]]:
    return sorted((name, counts) for name, counts in bit.items() if counts)


def _combined(toxics: list[Toxic], seed: str, bit: Counter[str]) -> LinkFaults:
    """One link's faults: delays and losses add up, of two bounds the narrower one holds."""
    faults = LinkFaults(seed=seed, bit=bit)
    for toxic in toxics:
        number = toxic.attributes
        if toxic.type == "latency":
            faults.delay_ms += number["latency_ms"]
            faults.jitter_ms += number.get("jitter_ms", 0)
        elif toxic.type == "loss":
            faults.loss_ppm = min(PPM, faults.loss_ppm + number["loss_ppm"])
        elif toxic.type == "timeout":
            faults.stalled = True
        elif toxic.type == "bandwidth":
            faults.rate_kib_s = _narrower(faults.rate_kib_s, number["rate_kib_s"])
        elif toxic.type == "slicer":
            faults.slice_bytes = _narrower(faults.slice_bytes, number["bytes"])
        elif toxic.type == "limit_data":
            faults.limit_bytes = _narrower(faults.limit_bytes, number["bytes"])
    return faults


def _narrower(one: int, other: int) -> int:
    return min(one, other) if one else other


injection = Injection()
"""The faults of this process."""
