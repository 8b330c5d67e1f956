"""Coverage-guided fuzzing of every decoder and of whatever else reads foreign bytes: `make fuzz`.

    python tests/fuzz/decoders.py [-max_total_time=60] [-seed=1] [CORPUS ...]

Needs atheris (https://github.com/google/atheris), which `make fuzz` installs beside the project and
not into it; the options are those of libFuzzer. The first byte of an input chooses what reads the
rest. It stops at the first input that is refused in another way than with `Rejected`, or that is
taken though it is not the one encoding of its value, and writes that input to a file ``crash-...``.
"""

# ruff: noqa: E402 - the path comes first, and atheris before what it watches
from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(
    include=[
        "protocol",
        "net.frames",
        "net.injection_plan",
        "net.rpc",
        "node.certificates",
        "node.kept_state",
    ]
):
    from net.frames import FrameSplitter
    from net.injection_plan import parse_plan
    from net.rpc import peek_prefix
    from node.certificates import check_certificate
    from node.kept_state import join_parts, read_kept
    from protocol.actions import ActionBatch, open_batch, sign_batch
    from protocol.batch_data import pack_blocks, unpack_blocks
    from protocol.codec import encode
    from protocol.errors import ConfigError, Rejected
    from protocol.ordering import OrderedBlock
    from protocol.tree_proof import decode_tree_proof, open_proof

from wire_values import BOMBS, Grammar, Named, decoders, encoded, type_info

from net.tls import certificate_public_key, is_usable, make_certificate
from node.rebuild import CheckedState
from protocol.keys import Key

KEY = Key(b"\x07" * 32)
Reader = Callable[[bytes], object]


def reader_of(named: Named) -> Reader:
    """A function of its own for each decoder, so that the fuzzer tells them apart."""

    def read(raw: bytes) -> None:
        value = named.decoder(raw)
        again = encode(value)
        if named.canonical and again != raw:
            raise RuntimeError(f"{named.name} took two encodings of a value")
        if encode(named.decoder(again)) != again:
            raise RuntimeError(f"{named.name} does not read what it writes")

    return atheris.instrument_func(read)


def read_proof(raw: bytes) -> None:
    """A proof, opened under a root that it is not of."""
    open_proof(b"\x02" * 32, decode_tree_proof(raw))


def read_certificate(raw: bytes) -> None:
    """What a validator bonds with; the ledger takes no other than what TLS can read."""
    check_certificate(raw, KEY.public)
    if not is_usable(raw, KEY.public):
        raise RuntimeError("the ledger took a certificate that is no use")


def read_frames(raw: bytes) -> None:
    """A stream in pieces."""
    splitter = FrameSplitter(1 << 16)
    for at in range(0, len(raw), 5):
        splitter.feed(raw[at : at + 5])


OTHERS: list[Reader] = [
    open_batch, unpack_blocks, read_kept, parse_plan, certificate_public_key, peek_prefix,
    read_proof, read_frames, read_certificate,
]  # fmt: skip
ALL = decoders()
READERS = [*map(reader_of, ALL), *map(atheris.instrument_func, OTHERS)]


def one_input(data: bytes) -> None:
    """Called by the fuzzer."""
    if not data:
        return
    with suppress(Rejected, ConfigError):
        READERS[data[0] % len(READERS)](data[1:])


def samples() -> Iterator[tuple[int, bytes]]:
    """Right inputs of every reader, and bombs, to begin with."""
    for number, named in enumerate(ALL):
        for seed in range(8):
            yield number, encoded(Grammar(Random(seed)), named.type_info)
    first = len(ALL)
    for seed in range(20):
        grammar = Grammar(Random(seed))
        batch = grammar.value(type_info(ActionBatch))
        yield first, sign_batch(KEY, b"\x01" * 32, 0, batch)
        with suppress(OverflowError, ValueError, Rejected):
            yield first + 1, pack_blocks([grammar.value(type_info(OrderedBlock))])
    state = CheckedState(b"\x01" * 32, 1, 1, [])
    yield first + 2, join_parts(state, [zlib.compress(b"\x90")])
    yield first + 3, b'{"toxics": [{"name": "a", "type": "loss", "peers": ["*"]}], "seed": 7}'
    yield first + 4, make_certificate(KEY, "somebody")
    yield first + 8, make_certificate(KEY, "somebody")
    yield first + 7, b"\x00\x00\x00\x03abc" * 4
    for number in range(first, len(READERS)):
        yield from ((number, bomb) for bomb in BOMBS)


def write_corpus(folder: Path) -> None:
    """The samples, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, (number, raw) in enumerate(samples()):
        (folder / f"{place:04d}").write_bytes(bytes([number]) + raw[:4_000])


def main() -> None:
    """Run libFuzzer; it ends the process itself."""
    arguments = [sys.argv[0], *sys.argv[1:]]
    if all(one.startswith("-") for one in sys.argv[1:]):
        corpus = ROOT / "build" / "fuzz-corpus"
        write_corpus(corpus)
        arguments.append(str(corpus))
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
