"""Environments of other libraries, in our terms."""

from fedrl.environments.adapters.gymnasium import gymnasium
from fedrl.environments.adapters.gymnax import gymnax

__all__ = [
    "gymnasium",
    "gymnax",
]
