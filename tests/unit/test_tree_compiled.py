"""The compiled state tree gives the roots and the proofs of the interpreted one.

This file is also what both processes run: `python FILE SEED` prints what comes out.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("protocol.tree_node", "protocol.tree_walk", "prover.tree_update")
START = """\
import runpy, sys
folder, *arguments = sys.argv[1:]
sys.path[:0] = {path!r}
if folder:
    import compiled_finder
    compiled_finder.install(folder)
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
"""
PATH = [str(ROOT), str(ROOT / "tests"), str(ROOT / "deploy")]


def report(seed: int) -> dict[str, Any]:
    """Random batches, and everything that can be asked of a tree after each of them."""
    from tree_world import KINDS, apply_to_model, random_changes

    from protocol.codec import encode
    from prover import tree_update
    from prover.tree import StateTree
    from prover.tree_partial import PartialTree

    found = []
    for number in range(120):
        rng = random.Random(seed + number)
        make, tree, model = KINDS[number % len(KINDS)], StateTree(), dict[bytes, bytes]()
        digest = hashlib.sha256()
        for _ in range(8):
            changes = random_changes(rng, model, make)
            keys = [*changes, *(make(rng) for _ in range(5))]
            witness = tree.prove(keys)
            partial = PartialTree(tree.root, witness)
            apply_to_model(model, changes)
            undo: dict[bytes, bytes | None] = {}
            root = tree.update(changes, undo)
            if partial.update(changes) != root or dict(tree.iterate()) != model:
                raise AssertionError(f"seed {seed + number}")
            proofs = [witness, tree.prove_first(keys[0][:3], 4), tree.prove_range(keys[1], 5)]
            digest.update(encode([root, sorted(undo.items()), *proofs]))
        found.append(digest.hexdigest()[:16])
    file = str(tree_update.__file__)
    return {"compiled": not file.endswith(".py"), "found": found}


def child(folder: str, seed: int, **variables: str) -> Any:
    """What a process of its own reports, with the compiled modules of `folder`, if any."""
    done = subprocess.run(
        [sys.executable, "-c", START.format(path=PATH), folder, __file__, str(seed)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_compiled_tree_agrees_with_the_interpreted_one(tmp_path: Path) -> None:
    if os.environ.get("TRILEMMA_COMPILE") == "0":
        pytest.skip("compiling is turned off: TRILEMMA_COMPILE=0")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    interpreted = child("", seed, TRILEMMA_COMPILE="0")
    compiled = child("", seed)
    if not compiled["compiled"]:  # this environment's are of other sources, or there are none
        compiled = child(compiled_into(tmp_path), seed, TRILEMMA_COMPILE="0")
    assert (interpreted["compiled"], compiled["compiled"]) == (False, True)
    assert interpreted["found"] == compiled["found"]


def compiled_into(folder: Path) -> str:
    """The folder, with the modules compiled there."""
    command = [sys.executable, str(ROOT / "deploy" / "compile.py"), "--into", str(folder)]
    done = subprocess.run(
        [*command, "--modules", ",".join(MODULES)], capture_output=True, text=True, check=False
    )
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return str(folder)


if __name__ == "__main__":
    print(json.dumps(report(int(sys.argv[1]))))
