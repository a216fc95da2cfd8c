"""Environments, one file each, and what wraps them."""

from fedrl.environments.acrobot import acrobot
from fedrl.environments.cartpole import cartpole
from fedrl.environments.fleet import fleet, held_out
from fedrl.environments.gridworld import gridworld
from fedrl.environments.lqr import lqr
from fedrl.environments.mountain_car import mountain_car, mountain_car_continuous
from fedrl.environments.pendulum import pendulum
from fedrl.environments.probes import (
    probe_action,
    probe_constant,
    probe_discount,
    probe_match,
    probe_observation,
    probe_target,
    probe_truncation,
)
from fedrl.environments.random_mdp import random_mdp, random_mdps
from fedrl.environments.tabular import TabularParams, tabular
from fedrl.environments.time_limit import time_limit
from fedrl.environments.windy_cliff import windy_cliff, windy_cliffs

__all__ = [
    "TabularParams",
    "acrobot",
    "cartpole",
    "fleet",
    "gridworld",
    "held_out",
    "lqr",
    "mountain_car",
    "mountain_car_continuous",
    "pendulum",
    "probe_action",
    "probe_constant",
    "probe_discount",
    "probe_match",
    "probe_observation",
    "probe_target",
    "probe_truncation",
    "random_mdp",
    "random_mdps",
    "tabular",
    "time_limit",
    "windy_cliff",
    "windy_cliffs",
]
