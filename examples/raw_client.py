"""The wire protocol without this project's code: only msgpack, cryptography and sockets.

Says hello, proves a signer, signs a batch with an order and its cancellation, submits it, reads the
receipt and the results. Everything a client in another language needs is on this page.

    python examples/raw_client.py --testnet .trilemma/testnet
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# Tags of messages: requests below 64, answers and pushes from 64 on.
ERROR, HELLO, AUTHENTICATE, SUBMIT, SUBSCRIBE_EVENTS, ACCOUNT, BOOK = 0, 1, 2, 4, 10, 12, 13
WELCOME, ACCEPTED, ORDERED, EVENTS, BOOK_VIEW = 64, 67, 68, 70, 73
ORDER, CANCEL_CLIENT, BATCH_EXECUTED = 1, 4, 1
STATUSES = ("done", "resting", "filled", "cancelled")
ED25519, WIRE_VERSION = 1, 1


def domain_hash(domain: bytes, *parts: bytes) -> bytes:
    """SHA-256 over the length of the domain in one byte, the domain, and the parts."""
    return sha256(bytes([len(domain)]) + domain + b"".join(parts)).digest()


class Session:
    """A connection: frames are a 4-byte big-endian length and one MessagePack array."""

    def __init__(self, address: str, chain_id: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._file = self._socket.makefile("rb")
        self._last_id = 0
        # Welcome: tag, id, version, chain id, shard, role, name, clock in ms, challenge
        welcome = self.ask(HELLO, WIRE_VERSION, chain_id, "raw-client")
        self.challenge: bytes = welcome[8]

    def send(self, tag: int, *fields: Any) -> int:
        """Send a request; returns its id."""
        self._last_id += 1
        frame = msgpack.packb([tag, self._last_id, *fields], use_bin_type=True)
        self._socket.sendall(len(frame).to_bytes(4, "big") + frame)
        return self._last_id

    def read(self) -> list[Any]:
        """The next message; an error frame [0, id, code, text] ends the program."""
        length = int.from_bytes(self._file.read(4), "big")
        message: list[Any] = msgpack.unpackb(self._file.read(length), raw=False)
        if message[0] == ERROR:
            raise SystemExit(f"refused with code {message[2]}: {message[3]}")
        return message

    def ask(self, tag: int, *fields: Any) -> list[Any]:
        """Send a request and read its answer."""
        self.send(tag, *fields)
        return self.read()


def read_options() -> tuple[Path, str]:
    """The testnet's directory, and the trader whose key signs."""
    parser = argparse.ArgumentParser(description=__doc__)
    place = os.environ.get("TRILEMMA_TESTNET", ".trilemma/testnet")
    parser.add_argument("--testnet", type=Path, default=place, help="testnet directory")
    parser.add_argument("--trader", default="trader-02", help="whose key signs")
    options = parser.parse_args()
    if not (options.testnet / "testnet.json").exists():
        raise SystemExit(f"there is no testnet in {options.testnet}; make one with: trilemma up")
    return options.testnet, options.trader


def main() -> None:
    """Read the command line and run."""
    directory, trader = read_options()
    genesis_bytes = (directory / "genesis.json").read_bytes()
    shard = json.loads(genesis_bytes)["shard"]
    processes = json.loads((directory / "testnet.json").read_bytes())["processes"]
    address = {entry["role"]: entry["public"] for entry in processes}
    seed = bytes.fromhex((directory / "keys" / f"{trader}.key").read_text())
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    chain_id = domain_hash(b"trilemma/chain", genesis_bytes)

    # Ask execution who we are and where the market stands, then listen from there on.
    execution = Session(address["execution"], chain_id)
    account = execution.ask(ACCOUNT, 0, sha256(public).digest()[:20])[2]
    # BookView: tag, id, market, height, next_seq, mark, bids, asks, checksum
    book = execution.ask(BOOK, 0, 1)
    next_seq, mark_ticks = book[4], book[5]
    execution.send(SUBSCRIBE_EVENTS, next_seq, [account])
    print(f"account {account}; the mark of market 0 is {mark_ticks} ticks")

    # Sign: the batch's bytes, bound to chain and shard.
    nonce_ms = time.time_ns() // 1_000_000
    market, buy, good_till_cancelled, client_id, flags, expires_ms = 0, 0, 0, nonce_ms, 0, 0
    price_ticks, size_lots = mark_ticks * 9 // 10, 1
    order = [
        ORDER, market, buy, price_ticks, size_lots, good_till_cancelled, client_id, flags,
        expires_ms,
    ]  # fmt: skip
    cancel = [CANCEL_CLIENT, market, client_id]
    payload = msgpack.packb([account, nonce_ms, 0, [order, cancel]], use_bin_type=True)
    digest = domain_hash(b"trilemma/actions", chain_id, shard.to_bytes(2, "big"), payload)
    signed = msgpack.packb([ED25519, public, payload, key.sign(digest)], use_bin_type=True)

    # Prove the signer to the session, then submit.
    sequencer = Session(address["sequencer"], chain_id)
    proof = key.sign(domain_hash(b"trilemma/session", chain_id, sequencer.challenge))
    sequencer.ask(AUTHENTICATE, ED25519, public, proof)
    accepted = sequencer.ask(SUBMIT, signed)
    # Receipt: sequencer, batch id, time, root, index, size, path, signature
    receipt = accepted[2]
    if accepted[0] != ACCEPTED or receipt[1] != domain_hash(b"trilemma/batch", signed):
        raise SystemExit("the receipt is for something else")
    print(f"accepted by sequencer {receipt[0]} at {receipt[2]} ms")
    ordered = sequencer.read()
    print(f"ordered in block {ordered[2]}")

    # BlockEvents: height, time, first_seq, next_seq, seqs, events
    while True:
        message = execution.read()
        for event in msgpack.unpackb(message[2], raw=False)[5]:
            # BatchExecuted: tag, account, signer, nonce, code, results, duplicate
            if event[0] == BATCH_EXECUTED and (event[2], event[3]) == (public, nonce_ms):
                if event[4]:
                    raise SystemExit(f"the batch is refused with code {event[4]}")
                for code, status, order_id, filled, remaining in event[5]:
                    said = STATUSES[status] if code == 0 else f"refused with code {code}"
                    print(
                        f"executed: order {order_id} {said}, filled {filled} lots, "
                        f"remaining {remaining}"
                    )
                return


if __name__ == "__main__":
    main()
