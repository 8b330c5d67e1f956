"""Imports compiled modules in place of their sources, as long as these are what was compiled.

``deploy/compile.py`` copies this file to ``trilemma_compiled/__init__.py`` beside the manifest and
the extension modules; a ``.pth`` file calls `at_start` when Python starts. A source that differs
from what was compiled, even by one byte, is imported as it is, and so are all others: compiled
modules rely on each other's layout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType
from typing import Any

SWITCH = "TRILEMMA_COMPILE"
"""Environment variable; "0" turns compiling, and compiled modules, off."""

MANIFEST = "manifest.json"
NOTHING: dict[str, Any] = {"modules": {}, "compiled": [], "sources": {}}


class CompiledFinder(MetaPathFinder):
    """Finds the modules of one folder's manifest, written by ``deploy/compile.py``.

    `modules` maps names to files of the folder; `compiled` names those that stand for a source;
    `sources` maps paths, relative to the root of the project, to SHA-256 in hex.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._manifest: dict[str, Any] | None = None
        self._current: dict[str, bool] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The compiled module, or None: then the source is imported."""
        if self._manifest is None:
            self._manifest = NOTHING  # while the imports of reading it pass through here
            self._manifest = read_manifest(self._folder)
        file = self._manifest["modules"].get(name)
        if file is None:
            return None
        if name in self._manifest["compiled"] and not self._is_current(name, path):
            return None
        location = os.path.join(self._folder, file)
        return spec_from_file_location(name, location, loader=ExtensionFileLoader(name, location))

    def _is_current(self, name: str, path: Sequence[str] | None) -> bool:
        """Whether the sources that would be imported are those that were compiled."""
        if not path:
            return False
        root = path[0]
        for _ in range(name.count(".")):
            root = os.path.dirname(root)
        if root not in self._current and self._manifest is not None:
            self._current[root] = sources_match(root, self._manifest["sources"])
        return self._current[root]


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder; without any module where it is missing or another Python's."""
    import json

    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        manifest = {}
    return manifest if manifest.get("python") == sys.version else NOTHING


def sources_match(root: str, sources: dict[str, str]) -> bool:
    """Whether the files under `root` have these hashes."""
    from hashlib import sha256

    try:
        for name, digest in sources.items():
            with open(os.path.join(root, name), "rb") as file:
                if sha256(file.read()).hexdigest() != digest:
                    return False
    except OSError:
        return False
    return True


def install(folder: str) -> None:
    """Prefer the compiled modules of this folder from now on."""
    sys.meta_path.insert(0, CompiledFinder(folder))


def at_start() -> None:
    """What the ``.pth`` file calls."""
    if os.environ.get(SWITCH) != "0":
        install(os.path.dirname(os.path.abspath(__file__)))
