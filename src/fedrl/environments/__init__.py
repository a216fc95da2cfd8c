"""Environments, one per file, fleets of them, and exact solutions of the finite ones."""

from fedrl.environments.classic.acrobot import acrobot
from fedrl.environments.classic.cartpole import cartpole
from fedrl.environments.classic.lqr import lqr, lqr_optimum, lqr_policy, lqr_return
from fedrl.environments.classic.mountain_car import mountain_car, mountain_car_continuous
from fedrl.environments.classic.pendulum import pendulum
from fedrl.environments.fleet import fleet, held_out
from fedrl.environments.heterogeneity import distances_from_mean
from fedrl.environments.probes import (
    probe_action,
    probe_choices,
    probe_constant,
    probe_discount,
    probe_match,
    probe_memory,
    probe_observation,
    probe_target,
    probe_truncation,
)
from fedrl.environments.tabular.gridworld import gridworld
from fedrl.environments.tabular.model import TabularParams, tabular
from fedrl.environments.tabular.planning import greedy, model_of, optimal_q, policy_return, policy_value
from fedrl.environments.tabular.random_mdp import random_mdp, random_mdps
from fedrl.environments.tabular.windy_cliff import windy_cliff, windy_cliffs
from fedrl.environments.time_limit import time_limit
from fedrl.environments.traffic.junction import junction
from fedrl.environments.traffic.platoon import platoon
from fedrl.environments.worlds.common_world import common_world
from fedrl.environments.worlds.foraging import foraging
from fedrl.environments.worlds.joint_actions import joint_actions
from fedrl.environments.worlds.matrix_games import (
    climbing,
    exploitability,
    matching_pennies,
    penalty,
    rock_paper_scissors,
    stag_hunt,
)
from fedrl.environments.worlds.navigation import navigation
from fedrl.environments.worlds.player_returns import player_returns
from fedrl.environments.worlds.pursuit import pursuit

__all__ = [
    "TabularParams",
    "acrobot",
    "cartpole",
    "climbing",
    "common_world",
    "distances_from_mean",
    "exploitability",
    "fleet",
    "foraging",
    "greedy",
    "gridworld",
    "held_out",
    "joint_actions",
    "junction",
    "lqr",
    "lqr_optimum",
    "lqr_policy",
    "lqr_return",
    "matching_pennies",
    "model_of",
    "mountain_car",
    "mountain_car_continuous",
    "navigation",
    "optimal_q",
    "penalty",
    "pendulum",
    "platoon",
    "player_returns",
    "policy_return",
    "policy_value",
    "probe_action",
    "probe_choices",
    "probe_constant",
    "probe_discount",
    "probe_match",
    "probe_memory",
    "probe_observation",
    "probe_target",
    "probe_truncation",
    "pursuit",
    "random_mdp",
    "random_mdps",
    "rock_paper_scissors",
    "stag_hunt",
    "tabular",
    "time_limit",
    "windy_cliff",
    "windy_cliffs",
]
