"""What objects really take in memory, to hold estimates against."""

from __future__ import annotations

import sys
from typing import Any


def memory_of(found: Any, seen: set[int] | None = None) -> int:
    """Bytes of an object and of all that it holds, each once; small numbers are shared by all."""
    seen = set() if seen is None else seen
    if found is None or isinstance(found, bool | type) or id(found) in seen:
        return 0
    seen.add(id(found))
    if isinstance(found, int) and -5 <= found <= 256:
        return 0
    size = (sys.getsizeof(found) + 15) // 16 * 16
    if isinstance(found, list | tuple):
        return size + sum(memory_of(one, seen) for one in found)
    names = getattr(found, "__struct_fields__", ()) or getattr(found, "__slots__", ())
    return size + sum(memory_of(getattr(found, name), seen) for name in names)
