"""Order books: price-time priority, and nothing about money."""

from __future__ import annotations

from matching.book import Book, Gate, Level, Resting, Side

__all__ = ["COMPILED", "Book", "Gate", "Level", "Resting", "Side"]

COMPILED = not hasattr(Book.take, "__code__")
"""Whether the book runs compiled (see ``deploy/compile.py``) or interpreted: the results agree."""
