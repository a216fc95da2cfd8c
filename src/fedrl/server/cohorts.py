"""Draw the cohort of each server in a round, and say to agents how large it is.

key of the board, round, server --> NumPy's generator --> Selection.choose --> the agents of a round
noise root, server, round --------> SecretDraws -------->
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrl.core.keys import Root
from fedrl.core.types import PyTree
from fedrl.server.decisions import Selection
from fedrl.server.schedules import Schedule
from fedrl.server.secret_draws import SecretDraws

SELECTION = 2
"""A number in the seed of a generator of a server in a tree: `fedrl.server.scheduler.UPLOAD_BUDGET` is another one."""


def chosen(
    selection: Selection, group: np.ndarray, key: Sequence[int], number: int, state: PyTree, noise: Root | None
) -> np.ndarray:
    """Return the agents that each server selects among its own.

    Args:
        selection: Who is selected.
        group: `[agents]`, the server of each agent.
        key: The seed of generators, which all parties know.
        number: The number of the round.
        state: The state of the selection.
        noise: The noise root, for Poisson sampling.

    Raises:
        ConfigError: The selection samples from a noise root, and there is none.
    """
    found = []
    for g in np.unique(group):
        # A single server has no number in its seed, so it selects the same cohorts as without a tree.
        mine = [] if (group == group[0]).all() else [SELECTION, g]
        rng: Any = np.random.default_rng([*key, number, *mine])
        if selection.sampling is not None:
            # The cohort must stay a secret of the server, and the key of the board is known to all parties.
            rng = SecretDraws(noise, int(g), number)
        found.append(np.asarray(selection.choose(rng, np.flatnonzero(group == g), number, state), int))
    return np.concatenate(found)


def sizes_told(
    selection: Selection | None, schedule: Schedule, group: np.ndarray, ids: np.ndarray, row: np.ndarray, served: bool
) -> np.ndarray:
    """Return the cohort size in the jobs of agents, int32 `[ids]`.

    Under a fixed buffer it is that size; else, where agents start together, the number with the same broadcast; under
    redispatch without a buffer, all agents. Under Poisson sampling it is the mean size, at least 1, since agents would
    learn from the actual one whether others take part.

    Args:
        selection: Who is selected.
        schedule: When servers merge.
        group: `[agents]`, the server of each agent.
        ids: The agents.
        row: `[ids]`, the broadcast that each receives.
        served: Whether there is a server.
    """
    sizes = np.bincount(row)[row] if not schedule.redispatch else np.full(len(ids), len(group))
    if schedule.buffer_size is not None:
        sizes = np.full(len(ids), schedule.buffer_size)
    elif selection is not None and selection.sampling is not None:
        sizes = np.maximum(np.rint(np.bincount(group)[group[ids]] * selection.sampling), 1)
    elif not served:
        sizes = np.full(len(ids), len(ids))
    return sizes.astype(np.int32)
