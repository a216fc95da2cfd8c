"""Executor of agents that are the players of one world (`fedrl.environments.common_world`).

    begin [blocks] --> ( rollout: all agents act in the same copies of the world
                         work [blocks], each agent on the rows of its player ) x local_steps --> report [blocks]

A rollout belongs to the agents that train in a call of `train`: those that were selected, are online, and have local
steps left. The players of the others act with the parameters that their agents hold, or are out of the world. So agents
whose updates the clock brings in one batch play and learn together, and time in the world passes while somebody trains.

Where the copies of the world are is part of the simulation's state (`Team.world`), so a checkpoint continues to the
last bit, in the middle of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedrl.clocks.events import NOBODY
from fedrl.core.environment import common_of
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Keys, Stream, derived
from fedrl.core.learner import Trajectory, check_gathers
from fedrl.core.types import Params, PyTree
from fedrl.engines.common_worlds import check_seats
from fedrl.engines.executors.common_rollout import common_programs
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.host import Host
from fedrl.engines.executors.records import Agents, ExecutorPlan, Learned
from fedrl.engines.inbox import Table
from fedrl.environments.worlds.common_world import one_for_all
from fedrl.federation.federation import Federation, ServerState


class _NobodysCopies:
    """The copies of a world that belong to no agent: none of them can fail, and there is nothing to close.

    Attributes:
        failures: The agents whose environments have failed: none.
        steps_taken: The number of times that the copies were stepped.
    """

    def __init__(self) -> None:
        self.failures: dict[int, Any] = {}
        self.steps_taken = 0

    def close(self) -> None:
        """Do nothing."""


class Players(Host):
    """Executor of the agents that are the players of one world.

    Args:
        federation: Federation of the agents.
        fleet: Parameters of the world, the same for each agent, with a leading agent axis on every leaf.
        plan: Requirements of the simulation.
        size: Agents per compiled block.
        devices: Devices for training; the world is stepped on the first one.
        order: Order in which agents are placed in blocks.
        restarts: How often a round is repeated after an environment failed; unused, since a compiled world does not.

    Raises:
        ConfigError: The agents have no world in common, there are more or fewer agents than players, or they differ in
            a parameter of it.
        UnsoundError: The learner can't train on experience that was collected outside of it.
    """

    def __init__(
        self,
        federation: Federation,
        fleet: PyTree,
        plan: ExecutorPlan,
        size: int,
        devices: Sequence[jax.Device],
        order: Any = None,
        restarts: int = 0,
    ) -> None:
        super().__init__(federation, fleet, plan, size, devices, order, restarts=restarts)
        environment = federation.learner.environment
        common = common_of(environment)
        if common is None:
            raise ConfigError(
                f"{environment!r} is no common world: each agent has an environment of its own. Use Host."
            )
        check_seats(federation, self.agents)
        self._settings = one_for_all(common.world, self._fleet)
        self._programs = common_programs(federation)
        ids = np.concatenate(self.slots)
        self._place = np.flatnonzero(ids >= 0)[np.argsort(ids[ids >= 0])]

    def _opened(self, workers: int | None) -> Any:
        del workers
        check_gathers(self.federation.learner)
        return _NobodysCopies()

    def start(
        self, keys: Keys, steps: np.ndarray, policy: Params | None = None, share: np.ndarray | None = None
    ) -> tuple[ServerState, Agents]:
        """Return the initial state of a server, of all agents, and of the world."""
        server, agents = super().start(keys, steps, policy, share)
        key = derived(keys.run.tobytes(), Stream.WORLD)[0]
        world = np.array(self._programs.begin(key, self._settings))[None]
        return server, agents._replace(team=agents.team._replace(world=world))

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """Train these agents, whose updates are due, together; none trains ahead of time."""
        del fillers
        agents, learned = self._trained(keys, agents, ids, table)
        agents.team.trained[0] += 1
        return agents, learned

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray, policy: Params | None = None) -> Agents:
        """Initialise these agents again, after a restart; the world goes on."""
        return Executor.restarted(self, keys, agents, ids, policy)

    def _gather(
        self, keys: Keys, agents: Agents, ids: np.ndarray, blocks: list[tuple[int, Any]], step: int
    ) -> tuple[Trajectory, dict[str, np.ndarray]]:
        """Step the world with all agents, and return the rows of each; those beyond all agents' are zeros."""
        team, run, count = agents.team, keys.run.tobytes(), int(agents.team.trained[0])
        active = np.zeros(self.agents, bool)
        active[ids] = step < team.steps[ids]
        own = [
            derived(run, Stream.ACTING, int(team.version[k]), int(self.numbers[k]), int(team.again[k]), step)
            if active[k]
            # Who acts without a job has no version of its own whose keys are not used up.
            else derived(run, Stream.ABSENT, count, int(self.numbers[k]), step)
            for k in range(self.agents)
        ]
        held = dict(enumerate(agents.blocks)) | dict(blocks)
        params = self.run.stack(
            jax.device_put([self.run.params(held[i].learner) for i in range(len(held))], self.devices[0])
        )
        noise = derived(run, Stream.WORLD, count, step)[0]
        given = (np.concatenate(own), noise, self._place, params, self._settings, active, team.world[0])
        trajectory, sums, row = self._programs.collect(*given)
        team.world[0] = np.asarray(row)
        self.rollout.steps_taken += self.federation.learner.horizon
        beyond = self._instances
        padded = jax.tree.map(
            lambda x: np.concatenate([np.asarray(x), np.zeros((len(x), beyond, *x.shape[2:]), x.dtype)], 1), trajectory
        )
        return padded, {name: np.where(active, np.asarray(x, np.float64), 0.0) for name, x in sums.items()}
