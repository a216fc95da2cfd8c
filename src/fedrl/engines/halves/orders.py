"""Orders that a server sends with its broadcast, and verdicts on the updates it receives."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation


class Order(NamedTuple):
    """Order of a server to one agent.

    Attributes:
        version: Version of the broadcast that comes with it.
        cohort: Number of agents in the cohort.
        steps: Local steps to take.
        share: p_k, the share of the agent among all agents: `fedrl.federation.shares`.
    """

    version: int
    cohort: int
    steps: int
    share: float


class Verdict(Enum):
    """Fate of an update: merged, rejected by the server, or dropped (it never arrived)."""

    MERGED = "merged"
    REJECTED = "rejected"
    DROPPED = "dropped"


def check_setting(federation: Federation, setting: PyTree) -> None:
    """Refuse environment parameters of another structure or shape than the federation's environment has.

    Raises:
        ConfigError: The shapes differ.
    """
    needed = federation.learner.environment.params
    found, wanted = (_shapes(tree) for tree in (setting, needed))
    if found != wanted:
        raise ConfigError(
            f"setting has {found}, and {federation.learner.environment!r} takes {wanted}. A half needs the parameters "
            "of one environment, not of a fleet or of another environment. Give environment.params, with other values "
            "if you like."
        )


def _shapes(tree: PyTree) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), np.shape(leaf)) for path, leaf in leaves]
    return ", ".join(f"{name or type(tree).__name__} {shape}" for name, shape in named) or "nothing"
