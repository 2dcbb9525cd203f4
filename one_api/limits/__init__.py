"""Limits per key: the arithmetic, and where the counts are kept."""
