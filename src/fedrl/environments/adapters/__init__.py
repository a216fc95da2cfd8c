"""Adapters for environments of other libraries."""

from fedrl.environments.adapters.brax import brax
from fedrl.environments.adapters.gymnasium import gymnasium
from fedrl.environments.adapters.gymnasium_world import gymnasium_world
from fedrl.environments.adapters.gymnax import gymnax
from fedrl.environments.adapters.jaxmarl import jaxmarl
from fedrl.environments.adapters.jumanji import jumanji
from fedrl.environments.adapters.pettingzoo import pettingzoo
from fedrl.environments.adapters.playground import playground

__all__ = [
    "brax",
    "gymnasium",
    "gymnasium_world",
    "gymnax",
    "jaxmarl",
    "jumanji",
    "pettingzoo",
    "playground",
]
