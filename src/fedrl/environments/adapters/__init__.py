"""Adapters for environments of other libraries."""

from fedrl.environments.adapters.gymnasium import gymnasium
from fedrl.environments.adapters.gymnasium_world import gymnasium_world
from fedrl.environments.adapters.gymnax import gymnax
from fedrl.environments.adapters.pettingzoo import pettingzoo

__all__ = [
    "gymnasium",
    "gymnasium_world",
    "gymnax",
    "pettingzoo",
]
