"""Values of any wire type, and byte strings that are almost encodings of one, from a `Random`.

The same grammar serves the property tests (with a `Random` that hypothesis draws from and shrinks),
the coverage-guided fuzzer and the fuzzer of whole processes.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from protocol.codec import Decoder, encode

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "cluster", "sim", "client", "node", "prover", "sequencer", "execution", "margin", "matching",
    "consensus", "net", "store", "protocol",
)  # fmt: skip

DEEPEST = 6
"""Below so many levels, lists are empty and of a union the first plain member is taken."""

EDGES = (
    0, 1, 2, 31, 32, 100, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -32, -33, -128, -129, -(2**31), -(2**63),
)  # fmt: skip

BOMBS = (
    b"", b"\xc1", b"\xc0",
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\xdc\xff\xff", b"\xde\xff\xff",
    b"\x91" * 50_000, b"\x81\x01" * 50_000, b"\xdd\x00\x00\x00\x01" * 20_000, b"\x92\x01" * 50_000,
    b"\xdc\xff\xff" * 20_000, b"\x91\xdd\x7f\xff\xff\xff", b"\xd6\xff\xff\xff\xff\xff",
    b"\xc7\x0c\xff" + b"\xff" * 12, b"\x81\x80\x01", b"\x81\x91\x80\x01", b"\xa2\xff\xff",
    b"\x91\xcb\x7f\xf8" + bytes(6), b"\x91\xca\x7f\x80\x00\x00",
)  # fmt: skip
"""Headers that promise gigabytes, nesting without end, and what MessagePack forbids or few use."""


class Named(NamedTuple):
    """A decoder of the project, by module and name."""

    name: str
    decoder: Decoder[Any]

    @property
    def type_info(self) -> inspect.Type:
        return type_info(self.decoder._decode.__self__.type)  # type: ignore[attr-defined]

    @property
    def canonical(self) -> bool:
        return self.decoder._canonical


def places() -> list[tuple[str, int, int]]:
    """Every call of `Decoder(...)` in the packages: module, line, and depth (0: of the module)."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if "Decoder(" not in text:
                continue
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(text)
            inside = {
                id(call)
                for work in ast.walk(tree)
                if isinstance(work, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for call in ast.walk(work)
            }
            found += [
                (module, node.lineno, int(id(node) in inside))
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Decoder"
            ]
    return found


@cache
def decoders() -> tuple[Named, ...]:
    """Every decoder of the packages, each once, under the module that makes it."""
    found: list[Named] = []
    for module in dict.fromkeys(module for module, _, _ in places()):
        # Only what a module makes itself: what it imports belongs to another one.
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        made = {
            target.id
            for node in tree.body
            if isinstance(node, ast.AnnAssign | ast.Assign)
            for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
            if isinstance(target, ast.Name)
        }
        for name, value in vars(importlib.import_module(module)).items():
            if name in made and isinstance(value, Decoder):
                found.append(Named(f"{module}.{name}", value))
    return tuple(found)


@cache
def type_info(type_: Any) -> inspect.Type:
    """The shape of a type, as msgspec understands it."""
    return inspect.type_info(type_)


class Grammar:
    """Makes values by their type; what is drawn comes from `random` alone."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def value(self, shape: inspect.Type, depth: int = 0) -> Any:
        """A value of this shape, within the bounds that the type declares."""
        make = getattr(self, "_" + type(shape).__name__.lower(), None)
        if make is None:
            raise LookupError(f"no values for {type(shape).__name__}: teach Grammar")
        return make(shape, depth)

    def _nonetype(self, shape: inspect.NoneType, depth: int) -> None:
        return None

    def _booltype(self, shape: inspect.BoolType, depth: int) -> bool:
        return bool(self.random.randrange(2))

    def _inttype(self, shape: inspect.IntType, depth: int) -> int:
        low = -(2**63) if shape.ge is None else shape.ge
        high = 2**64 - 1 if shape.le is None else shape.le
        if self.random.randrange(4):
            return min(high, max(low, self.random.choice(EDGES)))
        return self.random.randint(low, high)

    def _size(self, shape: Any, usual: tuple[int, ...]) -> int:
        least = shape.min_length or 0
        most = 2**20 if shape.max_length is None else shape.max_length
        return min(most, max(least, self.random.choice(usual)))

    def _bytestype(self, shape: inspect.BytesType, depth: int) -> bytes:
        size = self._size(shape, (0, 1, 20, 31, 32, 32, 32, 33, 64, 300))
        # Repeated, so that a shrinking example stays readable; equal keys are cases of their own.
        return bytes([self.random.choice((0, 1, 255, self.random.randrange(256)))]) * size

    def _strtype(self, shape: inspect.StrType, depth: int) -> str:
        size = self._size(shape, (0, 1, 5, 31, 32, 300))
        return self.random.choice(("a", "\x00", "é", "\U0001f600", "\n", "'")) * size

    def _literaltype(self, shape: inspect.LiteralType, depth: int) -> Any:
        return self.random.choice(shape.values)

    def _items(self, shape: Any, depth: int) -> list[Any]:
        usual = (0,) if depth >= DEEPEST else (0, 1, 1, 2, 3)
        size = self._size(shape, usual)
        return [self.value(shape.item_type, depth + 1) for _ in range(size)]

    _listtype = _items

    def _vartupletype(self, shape: inspect.VarTupleType, depth: int) -> tuple[Any, ...]:
        return tuple(self._items(shape, depth))

    def _tupletype(self, shape: inspect.TupleType, depth: int) -> tuple[Any, ...]:
        return tuple(self.value(item, depth + 1) for item in shape.item_types)

    def _dicttype(self, shape: inspect.DictType, depth: int) -> dict[Any, Any]:
        size = self._size(shape, (0, 1, 3))
        pairs = range(size)
        key, value = shape.key_type, shape.value_type
        return {self.value(key, depth + 1): self.value(value, depth + 1) for _ in pairs}

    def _uniontype(self, shape: inspect.UnionType, depth: int) -> Any:
        members = shape.types
        if depth >= DEEPEST:
            plain = [one for one in members if not isinstance(one, inspect.StructType)]
            members = tuple(plain) or members[:1]
        return self.value(self.random.choice(members), depth)

    def _structtype(self, shape: inspect.StructType, depth: int) -> Any:
        values = [self.value(field.type, depth + 1) for field in shape.fields]
        return shape.cls(*values)

    def _anytype(self, shape: inspect.AnyType, depth: int) -> Any:
        if depth < DEEPEST and not self.random.randrange(3):
            return [self._anytype(shape, depth + 1) for _ in range(self.random.randrange(4))]
        return self.random.choice((None, True, 0, -1, 2**63, b"", b"x" * 32, "text"))

    # --- bytes

    def mutated(self, raw: bytes) -> bytes:
        """One to three small changes of an encoding."""
        for _ in range(self.random.randint(1, 3)):
            raw = self._mutate(raw)
        return raw

    def _mutate(self, raw: bytes) -> bytes:
        random = self.random
        at = random.randrange(len(raw) + 1)
        kind = random.randrange(8)
        if kind == 0:  # cut short
            return raw[:at]
        if kind == 1:  # bytes behind the end, or within
            return raw[:at] + random.choice(BOMBS)[:64] + raw[at:]
        if kind == 2 and at < len(raw):  # one bit
            return raw[:at] + bytes([raw[at] ^ 1 << random.randrange(8)]) + raw[at + 1 :]
        if kind == 3 and at < len(raw):  # any byte
            return raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]
        if kind == 4 and at < len(raw):  # the header of another type or size
            return raw[:at] + bytes([random.choice(HEADERS)]) + raw[at + 1 :]
        if kind == 5 and at < len(raw):  # a number in more bytes than it needs
            return raw[:at] + self.padded(raw[at]) + raw[at + 1 :]
        if kind == 6:  # a part twice
            end = min(len(raw), at + random.randrange(1, 40))
            return raw[:end] + raw[at:end] + raw[end:]
        return raw[:at] + raw[at + random.randrange(1, 9) :]  # a part missing

    def padded(self, byte: int) -> bytes:
        """A longer encoding of the small value that begins with this byte (or the byte)."""
        if byte < 0x80:
            size, lead = self.random.choice(((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)))
            return bytes([lead]) + byte.to_bytes(size, "big")
        if 0x90 <= byte < 0xA0:
            return b"\xdc" + (byte - 0x90).to_bytes(2, "big")
        if 0xA0 <= byte < 0xC0:
            return b"\xd9" + bytes([byte - 0xA0])
        return bytes([byte])

    def noise(self) -> bytes:
        """Random bytes that look like MessagePack more often than not."""
        random = self.random
        if not random.randrange(4):
            return random.choice(BOMBS)
        parts = []
        for _ in range(random.randrange(1, 12)):
            if random.randrange(2):
                parts.append(bytes([random.choice(HEADERS)]))
            else:
                size = random.randrange(0, 9)
                parts.append(random.getrandbits(8 * size).to_bytes(size, "big"))
        return b"".join(parts)


HEADERS = (
    0x00, 0x01, 0x7F, 0x80, 0x81, 0x8F, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x9A, 0x9F, 0xA0,
    0xA5, 0xBF, *range(0xC0, 0xE1), 0xFF,
)  # fmt: skip


def encoded(grammar: Grammar, shape: inspect.Type) -> bytes:
    """The encoding of some value of a shape."""
    return encode(grammar.value(shape))


def decoded_again(raw: bytes) -> Any:
    """What any MessagePack reader sees in these bytes; for messages of failing tests."""
    try:
        return msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return error
