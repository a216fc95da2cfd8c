"""Adapters for environments of other libraries."""

from fedrl.environments.adapters.gymnasium import gymnasium
from fedrl.environments.adapters.gymnax import gymnax

__all__ = [
    "gymnasium",
    "gymnax",
]
