"""Environments, one file each, and what wraps them."""

from fedrl.environments.cartpole import cartpole

__all__ = ["cartpole"]
