"""Environments that live outside compiled programs, Gymnasium's for example.

    begin [blocks] --> ( gather: one policy call and one step of all instances at a time
                         work [blocks] ) x local_steps --> report [blocks]

The instances of all agents are stepped together, in one worker process per core where that pays; their number does not
touch the result. An agent whose training fails begins new episodes, since a number that is not finite may come from its
environments.

What an environment remembers can't be saved. A run from elsewhere (a resumed one, another seed in between) goes on with
fresh episodes: the parameters are where they were, the next trajectories are others. Those of a learner that begins its
episodes anew in every iteration are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.federation import Federation, ServerState
from fedrl.core.keys import Purpose, run_key
from fedrl.core.learner import Trajectory, check_gathers
from fedrl.core.types import Key, PyTree
from fedrl.engines.executors.executor import Agents, Executor, Found, Learned, Plan, joined
from fedrl.engines.executors.host_programs import host_programs
from fedrl.engines.executors.host_rollout import HostRollout, instance_seeds, instance_settings
from fedrl.engines.executors.programs import SUMS
from fedrl.engines.inbox import Table
from fedrl.engines.records import NOBODY

RESTART, EPISODES, ANEW = 1, 2, 3
"""Set the seeds of episodes that begin after a fault, with a local step, or with an agent that begins anew, apart from
those of a run's beginning."""


class Host(Executor):
    """Agents whose environments are stepped on the host.

    One run at a time: to take up another is to begin its episodes anew.

    Args:
        federation: What agents run.
        fleet: Parameters of each agent's environment.
        plan: What the rest of the simulation needs.
        size: Agents per compiled block.
        places: Where to learn.
        order: The order in which agents are seated in blocks.
        workers: Processes that step the environments, 1 for this one; by default one per core where that pays.

    Raises:
        ConfigError: The environment is not a host environment.
        UnsoundError: The learner can't learn from experience gathered for it.
    """

    def __init__(
        self,
        federation: Federation,
        fleet: PyTree,
        plan: Plan,
        size: int,
        places: Sequence[jax.Device],
        order: Any = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(federation, fleet, plan, size, places, order)
        learner = federation.learner
        self.rollout = _opened(federation, fleet, self.agents, workers)
        self.run = host_programs(federation, plan.collects)
        self._standing: Any = None
        self._instances = learner.instances
        self.metrics = []  # known once somebody has learned

    def start(self, seed: int, steps: np.ndarray) -> tuple[ServerState, Key, Agents]:
        """Begin a run; also returns what a server begins with, and the key of the run."""
        self._standing = None
        return super().start(seed, steps)

    def close(self) -> None:
        """Close the environments."""
        self.rollout.close()

    def train(
        self, key: Key, agents: Agents, ids: np.ndarray, table: Table, company: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """These agents, whose updates are due, learn; nobody does ahead of time."""
        del company
        team, run = agents.team, self.run
        at, count = tuple(np.asarray(jax.random.key_data(key)).tolist()), int(team.trained[0])
        if self._standing != (at, count):
            self.rollout.restart(instance_seeds((*at, count), self.agents, self._instances))
        self._standing = None  # until the work is done
        present = [(i, np.isin(seat, ids)) for i, seat in enumerate(self.seats)]
        present = [(i, here) for i, here in present if here.any()]
        talk, blocks = np.bool_(table.row is not None), list(agents.blocks)
        given, olds, starts, totals = {}, {}, {}, {}
        for i, here in present:
            who, place = self._who(i), self.places[i % len(self.places)]
            given[i] = jax.device_put((key, self._heard(team, table, who), self._asked(team, who)), place)
            olds[i] = run.remember(blocks[i])
            blocks[i], starts[i], totals[i] = run.begin(*given[i], blocks[i], here, talk)
        columns: dict[int, Any] = {}
        counts: dict[str, np.ndarray] = {}
        for step in range(int(team.steps[ids].max())):
            trajectory, counted = self._gather(key, agents, ids, [(i, blocks[i]) for i, _ in present], step)
            counts = {name: counts.get(name, 0.0) + x for name, x in counted.items()}
            for i, here in present:
                rows = self._rows(i)
                own = jax.tree.map(lambda x, rows=rows: x[:, rows], trajectory)
                going = here & (step < team.steps[self._who(i)])
                blocks[i], totals[i], learned = run.work(
                    *given[i], starts[i], blocks[i], totals[i], going, np.int32(step), own
                )
                columns[i] = learned if i not in columns else jax.tree.map(jnp.add, columns[i], learned)
        reported = []
        for i, here in present:
            known: dict[str, Any] = {
                **columns[i],
                **{name: x[self._who(i)].astype(np.float32) for name, x in counts.items()},
            }
            blocks[i], *made = run.report(*given[i], starts[i], olds[i], blocks[i], totals[i], here, talk, known)
            reported.append(made)
        taken = [here for _, here in present]
        agent = np.concatenate([self.seats[i][here] for i, here in present])
        results, uploads, faults, before = zip(*reported, strict=True)
        fault = joined(faults, taken)
        if fault.any():  # what their environments have come to is not known
            broken = np.isin(np.arange(self.agents), agent[fault > 0])
            seeds = instance_seeds((*at, count, RESTART), self.agents, self._instances)
            self.rollout.restart(seeds, np.repeat(broken, self._instances))
        team.trained[0] = count + 1
        self._standing = (at, count + 1)
        metrics = joined([columns[i] for i, _ in present], taken)
        metrics |= {name: x[agent].astype(np.float32) for name, x in counts.items()}
        self.metrics = sorted(metrics)
        summed = self.plan.collects == SUMS
        found = Found(
            agent=agent,
            fault=fault,
            sums=[(each, self._who(i), here) for each, (i, here) in zip(results, present, strict=True)] * summed,
            items=() if summed else joined(results, taken),
            uploads=joined(uploads, taken),
            metrics=metrics,
            undo=[(i, self.seats[i][here], memory) for memory, (i, here) in zip(before, present, strict=True)],
        )
        return agents._replace(blocks=tuple(blocks)), self.learned(found, ids)

    def restarted(self, agents: Agents, ids: np.ndarray, seed: int) -> Agents:
        """These agents have lost all that they remembered, and so have their environments."""
        agents = super().restarted(agents, ids, seed)
        at = tuple(np.asarray(jax.random.key_data(run_key(seed, Purpose.TRAINING))).tolist())
        if self._standing != (at, int(agents.team.trained[0])):  # whoever trains next begins new episodes anyway
            return agents
        for k in ids.tolist():
            seeds = instance_seeds((*at, int(agents.team.restarts[k]), ANEW), self.agents, self._instances)
            self.rollout.restart(seeds, np.repeat(np.arange(self.agents) == k, self._instances))
        return agents

    def _who(self, i: int) -> np.ndarray:
        """Who sits in a block; an empty seat has the first agent."""
        return np.maximum(self.seats[i], 0)

    def _gather(
        self, key: Key, agents: Agents, ids: np.ndarray, blocks: list[tuple[int, Any]], step: int
    ) -> tuple[Trajectory, dict[str, np.ndarray]]:
        """One local step's experience of these agents: of each seat of these blocks, in their order."""
        team, count = agents.team, self._instances
        seated = np.concatenate([self._who(i) for i, _ in blocks])
        active = np.zeros(self.agents + 1, bool)
        active[ids] = step < team.steps[ids]
        params = self.run.stack(jax.device_put([self.run.params(block.learner) for _, block in blocks], self.places[0]))
        keys = self.run.keys(key, team.version[seated], team.again[seated], seated.astype(np.int32), np.int32(step))
        trajectory, counts = self.rollout.collect(
            lambda time, observation: self.run.act(keys, np.int32(time), params, observation),
            np.repeat(active, count),
            np.concatenate([self._rows(i) for i, _ in blocks]),
            self.federation.learner.horizon,
            self._episodes(key, team, ids, step) if self.federation.learner.episodic else None,
        )
        rows_of = {name: x.reshape(self.agents, len(params), -1) for name, x in counts.items()}
        return trajectory, {name: x[:, 0].sum(1) for name, x in rows_of.items()}  # of what agents act with

    def _rows(self, i: int) -> np.ndarray:
        """The instances of the seats of a block; those of an empty seat are beyond all agents'."""
        who = np.where(self.seats[i] < 0, self.agents, self.seats[i])
        return (who[:, None] * self._instances + np.arange(self._instances)).reshape(-1)

    def _episodes(self, key: Key, team: Any, ids: np.ndarray, step: int) -> list[int]:
        """Seeds of the episodes of a local step: they follow from what each agent has heard, and how often."""
        raw = np.asarray(jax.random.key_data(key)).tolist()
        seeds = np.zeros((self.agents, self._instances), int)
        heard = np.stack([team.version[ids], team.again[ids]], axis=1)
        for version, again in np.unique(heard, axis=0).tolist():
            mine = ids[(heard == (version, again)).all(1)]
            entropy = (*raw, version, EPISODES, step, *([again] if again else []))
            every = np.reshape(instance_seeds(entropy, self.agents, self._instances), seeds.shape)
            seeds[mine] = every[mine]
        return seeds.reshape(-1).tolist()


def _opened(federation: Federation, fleet: PyTree, agents: int, workers: int | None) -> HostRollout:
    learner, environment = federation.learner, federation.learner.environment
    if not isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} is no host environment. It runs inside compiled programs. Use the executor Blocks, which "
            "is far faster."
        )
    check_gathers(learner)
    instances = environment.open(instance_settings(environment, fleet, learner.instances), workers)
    return HostRollout(instances, environment, agents * learner.instances, (agents + 1) * learner.instances)
