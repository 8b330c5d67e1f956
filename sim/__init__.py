"""Deterministic simulator: the unchanged machines on a virtual clock, network and disk."""

from __future__ import annotations
