"""The order book alone on a one-symbol workload with a known checksum.

    python -m bench.book [--compare] [--workload ../shared/bench/workload.py] [--json]

The workload generator says which trades a price-time-priority matcher must make; the run fails
(exit status 1) when the book's trades differ. The book runs compiled where `make compile` did its
work; --compare compiles book and driver anew and runs them compiled and interpreted, in turns.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKLOAD = ROOT.parent / "shared" / "bench" / "workload.py"
KINDS = {"interpreted": "", "book compiled": "matching.book", "all compiled": "bench.book_flow"}
"""What --compare runs, and up to which module of it is compiled."""

START = """\
import sys
sys.path[:0] = [{root!r}, {deploy!r}]
if {folder!r}:
    import compiled_finder
    compiled_finder.install({folder!r})
from bench.book import main
sys.exit(main())
"""


def operations_of(options: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """The operations of the workload, the expected result."""
    spec = importlib.util.spec_from_file_location("workload", options.workload)
    if spec is None or spec.loader is None or not options.workload.exists():
        sys.exit(f"there is no workload generator at {options.workload}; name it by --workload")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operations = list(module.generate(options.ops, options.prefill, options.seed))
    _, expected = operations.pop()
    return operations, expected


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the workload several times; the best time counts."""
    from bench import book_flow
    from matching import COMPILED, Book

    operations, expected = operations_of(options)
    prefill = book_flow.Flow(operations[: options.prefill])
    timed = book_flow.Flow(operations[options.prefill :])
    del operations
    gc.collect()
    gc.freeze()  # as the processes do when they have started
    best = 0
    correct = True
    for _ in range(options.runs):
        book, gate = Book(0), book_flow.Trades()
        book_flow.run(prefill, book, gate)
        start = time.perf_counter_ns()
        book_flow.run(timed, book, gate)
        elapsed = time.perf_counter_ns() - start
        best = min(best, elapsed) if best else elapsed
        book.check()
        correct = (
            correct
            and len(gate.trades) == expected["trades"]
            and gate.checksum() == expected["trade_checksum_u64"]
            and len(book.orders) == expected["final_live_orders"]
        )
    return {
        "book": "compiled" if COMPILED else "interpreted",
        "driver": "interpreted" if hasattr(book_flow.run, "__code__") else "compiled",
        "us_per_operation": round(best / options.ops / 1_000, 3),
        "operations_per_s": options.ops * 1_000_000_000 // best,
        "operations": options.ops,
        "trades": expected["trades"],
        "checksum_matches": correct,
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Each kind in a process of its own, in turns; the best of each, and ratios."""
    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        modules: list[str] = []
        for kind, module in KINDS.items():
            modules += [module] if module else []
            folder = str(Path(scratch, kind.replace(" ", "-")))
            command = [sys.executable, str(ROOT / "deploy" / "compile.py"), "--into", folder]
            command += ["--modules", ",".join(modules)]
            if module and subprocess.run(command, stdout=sys.stderr, check=False).returncode:
                sys.exit("there is nothing to compare with")
        for _ in range(options.rounds):
            for kind, module in KINDS.items():
                folder = str(Path(scratch, kind.replace(" ", "-"))) if module else ""
                figures = in_process(options, folder)
                if kind not in best or figures["operations_per_s"] > best[kind]["operations_per_s"]:
                    best[kind] = figures
    base = best["interpreted"]["operations_per_s"]
    for figures in best.values():
        figures["ratio"] = round(figures["operations_per_s"] / base, 2)
    return best


def in_process(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The figures of a run with the compiled modules of `folder`, or with none."""
    code = START.format(root=str(ROOT), deploy=str(ROOT / "deploy"), folder=folder)
    command = [sys.executable, "-c", code, "--json", "--workload", str(options.workload)]
    for name in ("ops", "prefill", "seed", "runs"):
        command += [f"--{name}", str(getattr(options, name))]
    # What is installed is not what is compared: only `folder` counts.
    environment = os.environ | {"TRILEMMA_COMPILE": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"a run failed with status {done.returncode}: {done.stdout}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def show(figures: dict[str, Any]) -> None:
    """A line per figure."""
    for name, value in figures.items():
        print(f"{name:>18}  {value}")


def main() -> int:
    """Run, compare and print; the exit status says whether the trades are the expected ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", type=Path, default=WORKLOAD)
    parser.add_argument("--ops", type=int, default=500_000)
    parser.add_argument("--prefill", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20240601)
    parser.add_argument("--runs", type=int, default=5, help="of which the best counts")
    parser.add_argument("--compare", action="store_true", help="compiled with interpreted")
    parser.add_argument("--rounds", type=int, default=3, help="of --compare")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.compare:
        compared = compare(options)
        if options.json:
            print(json.dumps(compared))
        else:
            for kind, figures in compared.items():
                print(kind)
                show(figures)
        return 0
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)
    return 0 if figures["checksum_matches"] else 1


if __name__ == "__main__":
    sys.exit(main())
