"""Execution: the shard's state machine, composing matching and margin."""

from __future__ import annotations

from execution.batches import VerifySignature
from execution.engine import BlockResult, Engine

__all__ = ["BlockResult", "Engine", "VerifySignature"]
