"""Environments with finitely many states: their transition tables, and dynamic programming on them."""
