"""Order books: price-time priority, and nothing about money."""

from __future__ import annotations

from matching.book import Book, Gate, Level, Resting, Side

__all__ = ["Book", "Gate", "Level", "Resting", "Side"]
