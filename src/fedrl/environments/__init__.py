"""Environments, one file each, and what wraps them."""

from fedrl.environments.cartpole import cartpole
from fedrl.environments.gridworld import gridworld
from fedrl.environments.random_mdp import random_mdp, random_mdps
from fedrl.environments.tabular import TabularParams, tabular
from fedrl.environments.time_limit import time_limit
from fedrl.environments.windy_cliff import windy_cliff, windy_cliffs

__all__ = [
    "TabularParams",
    "cartpole",
    "gridworld",
    "random_mdp",
    "random_mdps",
    "tabular",
    "time_limit",
    "windy_cliff",
    "windy_cliffs",
]
