"""Secure sums: the server, or whoever adds, learns the sum of the agents' updates and no single one of them."""

from fedrl.secure.grid import ring_sum

__all__ = ["ring_sum"]
