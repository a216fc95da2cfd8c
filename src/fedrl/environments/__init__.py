"""Environments, one file each, and what wraps them."""

from fedrl.environments.acrobot import acrobot
from fedrl.environments.cartpole import cartpole
from fedrl.environments.fleet import fleet, held_out
from fedrl.environments.gridworld import gridworld
from fedrl.environments.heterogeneity import distances_from_mean
from fedrl.environments.lqr import lqr, lqr_optimum, lqr_policy, lqr_return
from fedrl.environments.mountain_car import mountain_car, mountain_car_continuous
from fedrl.environments.pendulum import pendulum
from fedrl.environments.planning import greedy, model_of, optimal_q, policy_return, policy_value
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
    "distances_from_mean",
    "fleet",
    "greedy",
    "gridworld",
    "held_out",
    "lqr",
    "lqr_optimum",
    "lqr_policy",
    "lqr_return",
    "model_of",
    "mountain_car",
    "mountain_car_continuous",
    "optimal_q",
    "pendulum",
    "policy_return",
    "policy_value",
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
