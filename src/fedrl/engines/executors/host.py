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

from fedrl.clocks.events import NOBODY
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Keys, Stream, derived
from fedrl.core.learner import Trajectory, check_gathers
from fedrl.core.types import PyTree
from fedrl.engines.executors.executor import Agents, Executor, ExecutorPlan, Found, Learned, joined
from fedrl.engines.executors.host_programs import host_programs
from fedrl.engines.executors.host_rollout import HostRollout, instance_seeds, instance_settings, seed_of
from fedrl.engines.inbox import SUMS, Table
from fedrl.federation.federation import Federation, ServerState


class Host(Executor):
    """Agents whose environments are stepped on the host.

    One run at a time: to take up another is to begin its episodes anew.

    Args:
        federation: What agents run.
        fleet: Parameters of each agent's environment.
        plan: What the rest of the simulation needs.
        size: Agents per compiled block.
        devices: Where to learn.
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
        plan: ExecutorPlan,
        size: int,
        devices: Sequence[jax.Device],
        order: Any = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(federation, fleet, plan, size, devices, order)
        learner = federation.learner
        self.rollout = _opened(federation, fleet, self.agents, workers)
        self.run = host_programs(federation, plan.collects)
        self._standing: Any = None
        self._instances = learner.num_envs
        self.metrics = []  # known once somebody has learned

    def start(self, keys: Keys, steps: np.ndarray) -> tuple[ServerState, Agents]:
        """Begin a run; also returns what a server begins with."""
        self._standing = None
        return super().start(keys, steps)

    def close(self) -> None:
        """Close the environments."""
        self.rollout.close()

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """These agents, whose updates are due, learn; nobody does ahead of time."""
        del fillers
        team, run = agents.team, self.run
        at, count = keys.run.tobytes(), int(team.trained[0])
        if self._standing != (at, count):
            self.rollout.reset(instance_seeds(at, Stream.BEGINNING, self.numbers.tolist(), self._instances, count))
        self._standing = None  # until the work is done
        present = [(i, np.isin(slot, ids)) for i, slot in enumerate(self.slots)]
        present = [(i, here) for i, here in present if here.any()]
        communicates, blocks = np.bool_(table.row is not None), list(agents.blocks)
        given, olds, starts, totals = {}, {}, {}, {}
        for i, here in present:
            who, place = self._who(i), self.devices[i % len(self.devices)]
            given[i] = jax.device_put((self._heard(team, table, who), self._asked(keys, team, who)), place)
            olds[i] = run.remember(blocks[i])
            blocks[i], starts[i], totals[i] = run.begin(*given[i], blocks[i], here, communicates)
        columns: dict[int, Any] = {}
        counts: dict[str, np.ndarray] = {}
        for step in range(int(team.steps[ids].max())):
            trajectory, counted = self._gather(keys, agents, ids, [(i, blocks[i]) for i, _ in present], step)
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
            blocks[i], *made = run.report(
                *given[i], starts[i], olds[i], blocks[i], totals[i], here, communicates, known
            )
            reported.append(made)
        taken = [here for _, here in present]
        agent = np.concatenate([self.slots[i][here] for i, here in present])
        results, uploads, faults, before = zip(*reported, strict=True)
        fault = joined(faults, taken)
        if fault.any():  # what their environments have come to is not known
            broken = np.isin(np.arange(self.agents), agent[fault > 0])
            seeds = instance_seeds(at, Stream.BROKEN, self.numbers.tolist(), self._instances, count)
            self.rollout.reset(seeds, np.repeat(broken, self._instances))
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
            undo=[(i, self.slots[i][here], memory) for memory, (i, here) in zip(before, present, strict=True)],
        )
        return agents._replace(blocks=tuple(blocks)), self.learned(found, ids)

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray) -> Agents:
        """These agents have lost all that they remembered, and so have their environments."""
        agents, at = super().restarted(keys, agents, ids), keys.run.tobytes()
        if self._standing != (at, int(agents.team.trained[0])):  # whoever trains next begins new episodes anyway
            return agents
        for k in ids.tolist():
            times = int(agents.team.restarts[k])
            seeds = instance_seeds(at, Stream.ANEW, self.numbers.tolist(), self._instances, times)
            self.rollout.reset(seeds, np.repeat(np.arange(self.agents) == k, self._instances))
        return agents

    def _who(self, i: int) -> np.ndarray:
        """Who sits in a block; an empty seat has the first agent."""
        return np.maximum(self.slots[i], 0)

    def _gather(
        self, keys: Keys, agents: Agents, ids: np.ndarray, blocks: list[tuple[int, Any]], step: int
    ) -> tuple[Trajectory, dict[str, np.ndarray]]:
        """One local step's experience of these agents: of each seat of these blocks, in their order."""
        team, count = agents.team, self._instances
        in_slots = np.concatenate([self._who(i) for i, _ in blocks])
        active = np.zeros(self.agents + 1, bool)
        active[ids] = step < team.steps[ids]
        params = self.run.stack(
            jax.device_put([self.run.params(block.learner) for _, block in blocks], self.devices[0])
        )
        own = np.concatenate(
            [
                derived(
                    keys.run.tobytes(),
                    Stream.ACTING,
                    int(team.version[k]),
                    int(self.numbers[k]),
                    int(team.again[k]),
                    step,
                )
                for k in in_slots.tolist()
            ]
        )
        trajectory, counts = self.rollout.collect(
            lambda time, observation: self.run.act(own, np.int32(time), params, observation),
            np.repeat(active, count),
            np.concatenate([self._rows(i) for i, _ in blocks]),
            self.federation.learner.horizon,
            self._episodes(keys, team, ids, step) if self.federation.learner.episodic else None,
        )
        rows_of = {name: x.reshape(self.agents, len(params), -1) for name, x in counts.items()}
        return trajectory, {name: x[:, 0].sum(1) for name, x in rows_of.items()}  # of what agents act with

    def _rows(self, i: int) -> np.ndarray:
        """The instances of the seats of a block; those of an empty seat are beyond all agents'."""
        who = np.where(self.slots[i] < 0, self.agents, self.slots[i])
        return (who[:, None] * self._instances + np.arange(self._instances)).reshape(-1)

    def _episodes(self, keys: Keys, team: Any, ids: np.ndarray, step: int) -> list[int]:
        """Seeds of the episodes of a local step: they follow from what each agent has heard, and how often."""
        root, seeds = keys.run.tobytes(), np.zeros((self.agents, self._instances), int)
        for k in ids.tolist():
            received = (int(team.version[k]), int(self.numbers[k]), int(team.again[k]), step)
            seeds[k] = [seed_of(root, Stream.EPISODES, *received, instance) for instance in range(self._instances)]
        return seeds.reshape(-1).tolist()


def _opened(federation: Federation, fleet: PyTree, agents: int, workers: int | None) -> HostRollout:
    learner, environment = federation.learner, federation.learner.environment
    if not isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} is no host environment. It runs inside compiled programs. Use the executor Blocks, which "
            "is far faster."
        )
    check_gathers(learner)
    instances = environment.open(instance_settings(environment, fleet, learner.num_envs), workers)
    return HostRollout(instances, environment, agents * learner.num_envs, (agents + 1) * learner.num_envs)
