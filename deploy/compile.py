"""Compile the modules that pyproject.toml lists under ``tool.trilemma.compiled`` with mypyc.

    python deploy/compile.py [--if-changed] [--into FOLDER] [--modules NAME,NAME]

Into this environment, or into a folder for `compiled_finder.install`. The sources stay what they
are and run interpreted wherever they were not compiled; TRILEMMA_COMPILE=0 turns it off.
Exit status: 0 compiled, 1 the compiler failed or nothing can be written, 3 there is no compiler
or it is turned off.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FINDER = ROOT / "deploy" / "compiled_finder.py"
PACKAGE = "trilemma_compiled"
SWITCH = "TRILEMMA_COMPILE"
COMPILED, FAILED, CANNOT = 0, 1, 3

BUILD = """\
import sys
from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext
out, work, *paths = sys.argv[1:]
options = ["--config-file=", "--follow-imports=silent", "--cache-dir=" + work + "/mypy"]
extensions = mypycify(options + paths, opt_level="3", debug_level="0", target_dir=work)
command = build_ext(Distribution({"name": "compiled", "ext_modules": extensions}))
command.build_lib, command.build_temp = out, work
command.ensure_finalized()
command.run()
"""
"""Run in a process of its own: the type checker ends its process where it finds an error."""


def listed_modules() -> list[str]:
    """The modules that pyproject.toml wants compiled."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules: list[str] = project["tool"]["trilemma"]["compiled"]
    return modules


def source_of(module: str) -> Path | None:
    """The file of a module of this project, relative to its root."""
    path = Path(*module.split("."))
    for name in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / name).is_file():
            return name
    return None


def closure(modules: list[str]) -> dict[str, str]:
    """SHA-256 of the modules and of all modules of the project that they import.

    The latter count, because the compiler relies on their types and copies their constants.
    """
    digests: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = source_of(module)
        if path is None or path.as_posix() in digests:
            continue
        content = (ROOT / path).read_bytes()
        digests[path.as_posix()] = hashlib.sha256(content).hexdigest()
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return dict(sorted(digests.items()))


def obstacle() -> str:
    """Why nothing can be compiled here; empty where it can be tried."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    if importlib.util.find_spec("mypyc") is None:
        return "mypyc is not installed"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}); install one and run: make compile"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "the headers of Python (Python.h) are missing; install them and run: make compile"
    return ""


def build(modules: list[str], sources: dict[str, str], folder: Path) -> str:
    """Compile into `folder` and write its manifest; returns what went wrong, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(json.dumps([sys.version, modules, sources]).encode()).hexdigest()[:16]
    with tempfile.TemporaryDirectory() as work:
        out = Path(work, "out")
        paths = [str(source_of(module)) for module in modules]
        command = [sys.executable, "-c", BUILD, str(out), work, *paths]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            (folder / "log").write_text(done.stdout + done.stderr)
            return f"the compiler failed, see {folder / 'log'}"
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(out, folder / name)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = [path.relative_to(folder) for path in sorted((folder / name).rglob(f"*{suffix}"))]
    files = {".".join(path.parts[1:]).removesuffix(suffix): path.as_posix() for path in built}
    if closure(modules) != sources:
        return "a source changed meanwhile; run: make compile"
    write_manifest(folder, modules, sources, modules=files)
    return check_import(modules, folder)


def write_manifest(folder: Path, compiled: list[str], sources: dict[str, str], **more: Any) -> None:
    """Replace the manifest at once, and drop builds that neither it nor the last one names."""
    manifest = {"python": sys.version, "compiled": compiled, "sources": sources, "modules": {}}
    manifest |= more
    path = folder / "manifest.json"
    last = path.read_text() if path.exists() else ""
    fresh = json.dumps(manifest, indent=1)
    path.with_suffix(".new").write_text(fresh)
    path.with_suffix(".new").replace(path)
    for build in folder.iterdir():
        if build.is_dir() and len(build.name) == 16 and build.name not in last + fresh:
            shutil.rmtree(build, ignore_errors=True)


def check_import(modules: list[str], folder: Path) -> str:
    """Import what was compiled in a process of its own; returns what went wrong, or nothing."""
    code = (
        f"import sys, importlib; sys.path[:0] = [{str(ROOT)!r}, {str(FINDER.parent)!r}]\n"
        f"import compiled_finder; compiled_finder.install({str(folder)!r})\n"
        f"for name in {modules!r}:\n"
        "    file = importlib.import_module(name).__file__\n"
        "    assert not file.endswith('.py'), file + ' is not compiled'"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    (folder / "log").write_text(done.stderr)
    return f"what was compiled cannot be imported, see {folder / 'log'}"


def settled(folder: Path, modules: list[str], sources: dict[str, str]) -> dict[str, Any] | None:
    """The manifest of an earlier run on the same sources and Python, if there is one."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    same = (sys.version, modules, sources)
    found = (manifest.get("python"), manifest.get("compiled"), manifest.get("sources"))
    return manifest if found == same else None


def enable(folder: Path) -> None:
    """Have Python in this environment look into `folder` when it starts; writes only what differs,
    as the environment may be read-only by now."""
    folder.mkdir(parents=True, exist_ok=True)
    start = f"import {PACKAGE}; {PACKAGE}.at_start()\n"
    wanted = {folder / "__init__.py": FINDER.read_text(), folder.parent / f"{PACKAGE}.pth": start}
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").replace(path)


def main() -> int:
    """Compile what changed and say what now runs; see the exit status above."""
    try:
        return compile_changed()
    except OSError as error:
        path = error.filename2 or error.filename or "what was compiled"
        print(f"cannot write {path}: {error.strerror or error}", file=sys.stderr)
        return FAILED


def compile_changed() -> int:
    """What `main` does; raises `OSError`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--if-changed", action="store_true", help="say nothing where nothing did")
    parser.add_argument("--into", type=Path, help="a folder in place of this environment")
    parser.add_argument("--modules", help="names in place of those in pyproject.toml")
    options = parser.parse_args()
    modules = options.modules.split(",") if options.modules else listed_modules()
    environment = Path(sysconfig.get_path("purelib")) / PACKAGE
    folder = options.into or environment
    sources = closure(modules)
    earlier = settled(folder, modules, sources)
    done = earlier is not None and bool(earlier["modules"])
    if options.if_changed and (earlier is not None or os.environ.get(SWITCH) == "0"):
        return COMPILED if done else CANNOT
    start = time.monotonic()
    reason, status = obstacle(), CANNOT
    if not reason and not done:
        print("compiling the inner loops (about a minute)", flush=True)
        reason, status = build(modules, sources, folder), FAILED
    if reason:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, modules, sources)
        print(f"interpreted: {', '.join(modules)} ({reason})")
        return status
    if folder == environment:
        enable(folder)
    spent = "as before" if done else f"{time.monotonic() - start:.1f} s"
    print(f"compiled: {', '.join(modules)} ({spent})")
    return COMPILED


if __name__ == "__main__":
    sys.exit(main())
