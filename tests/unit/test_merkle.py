from __future__ import annotations

import base64
import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from protocol.merkle import (
    EMPTY_LIST_ROOT,
    list_proof,
    list_proofs,
    list_root,
    verify_list_hash_proof,
    verify_list_proof,
)

VECTORS = (
    Path(__file__).parents[3] / "shared/data/crypto/rfc6962_transparency-dev_merkle_testdata.tar.gz"
)

# RFC 6962 reference list and tree heads (certificate-transparency, merkle_tree_test)
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
EIGHT_LEAVES_ROOT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(leaves: list[bytes], index: int) -> list[bytes]:
    """RFC 6962 section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if index < k:
        return [*naive_path(leaves[:k], index), naive_root(leaves[k:])]
    return [*naive_path(leaves[k:], index - k), naive_root(leaves[:k])]


def inclusion_vectors() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        pytest.skip(f"RFC 6962 test data is not at {VECTORS}")
    vectors = []
    with tarfile.open(VECTORS) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and "inclusion" in parts:
                handle = archive.extractfile(member)
                assert isinstance(handle, io.BufferedIOBase)
                vectors.append(json.load(handle))
    return vectors


def test_rfc_6962_reference_root() -> None:
    assert list_root(LEAVES).hex() == EIGHT_LEAVES_ROOT
    assert list_proofs([]) == []
    assert list_root([]) == EMPTY_LIST_ROOT == sha256(b"").digest()


def test_rfc_6962_inclusion_vectors() -> None:
    vectors = inclusion_vectors()
    verdicts = []
    for vector in vectors:
        accepted = verify_list_hash_proof(
            base64.b64decode(vector["root"] or ""),
            base64.b64decode(vector["leafHash"] or ""),
            vector["leafIdx"],
            vector["treeSize"],
            [base64.b64decode(entry) for entry in vector["proof"] or []],
        )
        assert accepted != vector["wantErr"], vector["desc"]
        verdicts.append(accepted)
    assert verdicts.count(True) >= 6
    assert verdicts.count(False) >= 80


@pytest.mark.parametrize("size", range(1, 34))
def test_roots_and_paths_match_the_rfc_definition(size: int) -> None:
    leaves = [bytes((index,)) * (index % 5) for index in range(size)]
    root = list_root(leaves)
    assert root == naive_root(leaves)
    assert list_proofs(leaves) == [naive_path(leaves, index) for index in range(size)]
    for index in range(size):
        path = list_proof(leaves, index)
        assert path == naive_path(leaves, index)
        assert verify_list_proof(root, leaves[index], index, size, path)


def test_altered_proofs_fail() -> None:
    size = 11
    leaves = [bytes((index,)) for index in range(size)]
    root = list_root(leaves)
    for index in range(size):
        path = list_proof(leaves, index)
        good = (root, leaves[index], index, size, path)
        assert verify_list_proof(*good)
        assert not verify_list_proof(root, b"other", index, size, path)
        assert not verify_list_proof(sha256(root).digest(), leaves[index], index, size, path)
        for other in range(-1, size + 1):
            if other != index:
                assert not verify_list_proof(root, leaves[index], other, size, path)
        for at in range(len(path)):
            flipped = bytes((path[at][0] ^ 1,)) + path[at][1:]
            assert not verify_list_proof(
                root, leaves[index], index, size, [*path[:at], flipped, *path[at + 1 :]]
            )
            assert not verify_list_proof(
                root, leaves[index], index, size, path[:at] + path[at + 1 :]
            )
        assert not verify_list_proof(root, leaves[index], index, size, [*path, root])
        swapped = path[::-1]
        assert swapped == path or not verify_list_proof(root, leaves[index], index, size, swapped)


def test_a_node_is_not_a_leaf() -> None:
    left, right = sha256(b"\x00a").digest(), sha256(b"\x00b").digest()
    assert not verify_list_proof(list_root([b"a", b"b"]), left + right, 0, 1, [])


def test_absent_index_is_an_error() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            list_proof([b"a", b"b", b"c"], index)
    assert not verify_list_proof(EMPTY_LIST_ROOT, b"", 0, 0, [])


def test_all_proofs_at_once_are_the_single_ones() -> None:
    for size in range(20):
        leaves = [bytes([number]) for number in range(size)]
        assert list_proofs(leaves) == [list_proof(leaves, index) for index in range(size)]
