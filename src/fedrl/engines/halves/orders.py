"""What a server asks of an agent beside its broadcast, and what it then says of the update."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation


class Order(NamedTuple):
    """What an agent is asked for.

    Attributes:
        version: Of the broadcast that goes with it.
        cohort: How many agents are asked.
        steps: Local steps.
        share: p_k, the weight of the agent among all: `fedrl.federation.shares`.
    """

    version: int
    cohort: int
    steps: int
    share: float


class Verdict(Enum):
    """What became of an update."""

    MERGED = "merged"
    REJECTED = "rejected"
    DROPPED = "dropped"


def check_setting(federation: Federation, setting: PyTree) -> None:
    """Refuse what is not the parameters of one environment of a federation.

    Raises:
        ConfigError: It says what was given, and what is needed.
    """
    needed = federation.learner.environment.params
    found, wanted = (_shapes(tree) for tree in (setting, needed))
    if found != wanted:
        raise ConfigError(
            f"setting has {found}, and {federation.learner.environment!r} takes {wanted}. A half has the parameters of "
            "one environment, not those of a fleet or of another kind. Give environment.params, altered as you like."
        )


def _shapes(tree: PyTree) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), np.shape(leaf)) for path, leaf in leaves]
    return ", ".join(f"{name or type(tree).__name__} {shape}" for name, shape in named) or "nothing"
