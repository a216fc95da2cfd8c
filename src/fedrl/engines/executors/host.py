"""Executor for environments that are stepped on the host, for example Gymnasium's.

    begin [blocks] --> ( gather: one policy call and one step of all environment copies at a time
                         work [blocks] ) x local_steps --> report [blocks]

The environment copies of all agents are stepped together, in one worker process per core where that is faster; the
number of workers does not change the result. An agent whose training fails begins new episodes, because the number that
is not finite may come from its environments.

An agent whose environment raises, hangs or ends its process is left out of the round, as if it had not been selected;
its environments are opened anew when it is next due. With `restarts` they are opened anew at once and its round is
repeated, from the same state and broadcast, in new episodes.

The state of such an environment can't be saved. A resumed run, or one that was interrupted by a run with another seed,
continues with new episodes: the parameters are the same, but the next trajectories differ. For a learner that begins
its episodes in every iteration (REINFORCE), they are the same.
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
from fedrl.core.keys import Keys, Root, Stream, derived
from fedrl.core.learner import Trajectory, check_gathers
from fedrl.core.types import Params, PyTree
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.host_programs import host_programs
from fedrl.engines.executors.host_rollout import HostRollout, instance_seeds, instance_settings, seed_of
from fedrl.engines.executors.records import LOST, Agents, ExecutorPlan, Found, Learned, joined, together
from fedrl.engines.inbox import SUMS, Table
from fedrl.engines.state import Rejection
from fedrl.federation.federation import Federation, ServerState


class Host(Executor):
    """Executor of agents whose environments are stepped on the host.

    It runs one run at a time: continuing another run begins new episodes.

    Args:
        federation: Federation of the agents.
        fleet: Parameters of each agent's environment, with a leading agent axis on every leaf.
        plan: Requirements of the simulation.
        size: Agents per compiled block.
        devices: Devices for training.
        order: Order in which agents are placed in blocks.
        workers: Processes that step the environments, 0 for this process, which then nothing protects from a step that
            hangs or exits; by default one per core where that is faster, else one.
        restarts: How often the round of an agent is repeated after its environment failed, before it is left out.

    Raises:
        ConfigError: The environment is not a host environment.
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
        workers: int | None = None,
        restarts: int = 0,
    ) -> None:
        super().__init__(federation, fleet, plan, size, devices, order)
        learner = federation.learner
        self._restarts = restarts
        # Agents to begin new episodes before they next train: the stream and the numbers of their seeds.
        self._due: dict[int, tuple[Stream, tuple[int, ...]]] = {}
        self.rollout = self._opened(workers)
        self.run = host_programs(federation, plan.collects)
        self._standing: Any = None
        self._instances = learner.num_envs
        self.metrics = []  # known after the first training

    def _opened(self, workers: int | None) -> Any:
        """Open the environment copies of all agents."""
        learner, environment = self.federation.learner, self.federation.learner.environment
        if not isinstance(environment, HostEnvironment):
            raise ConfigError(
                f"{environment!r} is no host environment. It runs inside compiled programs. Use the executor Blocks, "
                "which is far faster."
            )
        if environment.common is not None:
            raise ConfigError(
                f"The players of {environment!r} are the agents, and Host steps environments of each agent. Use the "
                "executor fedrl.engines.executors.common_world.Players, the default for it."
            )
        check_gathers(learner)
        settings = instance_settings(environment, self._fleet, learner.num_envs)
        count = self.agents * learner.num_envs
        instances = environment.open(settings, workers)
        rows = count + learner.num_envs
        return HostRollout(instances, environment, count, rows, learner.num_envs, learner.reads_overview)

    def start(
        self, keys: Keys, steps: np.ndarray, policy: Params | None = None, share: np.ndarray | None = None
    ) -> tuple[ServerState, Agents]:
        """Return the initial state of a server, and of all agents, from the parameters of a trained policy if given."""
        self._standing = None
        return super().start(keys, steps, policy, share)

    def standing_at(self, keys: Keys, count: int, anew: bool) -> None:
        """Say that the next call of `train` is call `count` of a run; with `anew`, all agents begin new episodes."""
        if anew:
            self._due = dict.fromkeys(range(self.agents), (Stream.BEGINNING, (count,)))
        if anew or self._standing is not None:
            self._standing = (keys.run.tobytes(), count)

    def progress(self) -> int:
        """Return a number that grows with each step of the environments, and each call of a compiled program."""
        return self.calls + self.rollout.steps_taken

    def close(self) -> None:
        """Close the environments."""
        self.rollout.close()

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """Train these agents, whose updates are due; none trains ahead of time."""
        del fillers
        at, count = keys.run.tobytes(), int(agents.team.trained[0])
        # The episodes in progress belong to the state after the last call. For any other state, an older or a resumed
        # one, they are begun anew, from seeds that follow from that state.
        if self._standing != (at, count):
            self._due = dict.fromkeys(range(self.agents), (Stream.BEGINNING, (count,)))
        self._standing = None  # an interrupted round leaves episodes that belong to no state
        self.rollout.failures = {}
        parts: list[Learned] = []
        failures: list[EnvironmentFailure] = []
        waiting = ids
        for attempt in range(self._restarts + 1):
            self._begin(at, waiting)
            agents, learned = self._trained(keys, agents, waiting, table)
            failed, self.rollout.failures = self.rollout.failures, {}
            parts.append(learned)
            failures += [failed[k]._replace(repeated=attempt < self._restarts) for k in sorted(failed)]
            waiting = np.array(sorted(failed), int)
            if not len(waiting):
                break
            numbers = (count, attempt) if attempt else (count,)
            self._due |= dict.fromkeys(waiting.tolist(), (Stream.BROKEN, numbers))
        agents.team.trained[0] = count + 1
        self._standing = (at, count + 1)
        learned = together(parts, ids, self.plan.collects == SUMS)
        rejected = tuple(Rejection(each.agent, each.reason) for each in failures if not each.repeated)
        return agents, learned._replace(failed=learned.failed + rejected, failures=tuple(failures))

    def _begin(self, at: Root, ids: np.ndarray) -> None:
        """Begin the new episodes of these agents that are due."""
        due = {k: self._due.pop(k) for k in ids.tolist() if k in self._due}
        for stream, numbers in dict.fromkeys(due.values()):
            here = np.array([due.get(k) == (stream, numbers) for k in range(self.agents)])
            seeds = instance_seeds(at, stream, self.numbers.tolist(), self._instances, *numbers)
            self.rollout.reset(seeds, np.repeat(here, self._instances))

    def _trained(self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table) -> tuple[Agents, Learned]:
        """Train these agents once; those in `rollout.failures` afterwards are as they were, and not in the result."""
        team, run = agents.team, self.run
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
            lost = np.isin(np.arange(self.agents), list(self.rollout.failures))
            counts = {name: counts.get(name, 0.0) + x for name, x in counted.items()}
            for i, here in present:
                rows = self._rows(i)
                own = jax.tree.map(lambda x, rows=rows: x[:, rows], trajectory)
                # Agents with fewer local steps idle until the one with most is done.
                going = here & (step < team.steps[self._who(i)]) & ~lost[self._who(i)]
                blocks[i], totals[i], learned = run.work(
                    *given[i], starts[i], blocks[i], totals[i], going, np.int32(step), own
                )
                self.calls += 1
                columns[i] = learned if i not in columns else jax.tree.map(jnp.add, columns[i], learned)
        reported = []
        for i, here in present:
            known: dict[str, Any] = {
                **columns[i],
                **{name: x[self._who(i)].astype(np.float32) for name, x in counts.items()},
            }
            # An agent whose environment failed returns to its state before the round, as one that was not selected.
            kept = here & ~lost[self._who(i)]
            blocks[i], *made = run.report(
                *given[i], starts[i], olds[i], blocks[i], totals[i], kept, communicates, known
            )
            reported.append(made)
        taken = [here for _, here in present]
        agent = np.concatenate([self.slots[i][here] for i, here in present])
        results, uploads, faults, before = zip(*reported, strict=True)
        fault = joined(faults, taken)
        # The fault may be in the environment's state, which can't be inspected.
        broken = dict.fromkeys(agent[(fault > 0) & ~lost[agent]].tolist(), (Stream.BROKEN, (int(team.trained[0]),)))
        self._due |= broken
        fault = np.where(lost[agent], LOST, fault)
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

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray, policy: Params | None = None) -> Agents:
        """Initialise these agents and their environments again, after a restart."""
        agents, at = super().restarted(keys, agents, ids, policy), keys.run.tobytes()
        # If the episodes belong to another state, the next training begins new ones anyway.
        if self._standing == (at, int(agents.team.trained[0])):
            self._due |= {k: (Stream.ANEW, (int(agents.team.restarts[k]),)) for k in ids.tolist()}
        return agents

    def _who(self, i: int) -> np.ndarray:
        """Return the agent of each seat of a block; an empty seat has agent 0."""
        return np.maximum(self.slots[i], 0)

    def _gather(
        self, keys: Keys, agents: Agents, ids: np.ndarray, blocks: list[tuple[int, Any]], step: int
    ) -> tuple[Trajectory, dict[str, np.ndarray]]:
        """Collect the experience of one local step for each seat of these blocks, in their order."""
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
        """Return the rows of the environment copies of a block's seats; an empty seat has rows beyond all agents'."""
        who = np.where(self.slots[i] < 0, self.agents, self.slots[i])
        return (who[:, None] * self._instances + np.arange(self._instances)).reshape(-1)

    def _episodes(self, keys: Keys, team: Any, ids: np.ndarray, step: int) -> list[int]:
        """Return the seeds of a local step's episodes, derived from each agent's version and its count of that."""
        root, seeds = keys.run.tobytes(), np.zeros((self.agents, self._instances), int)
        for k in ids.tolist():
            received = (int(team.version[k]), int(self.numbers[k]), int(team.again[k]), step)
            seeds[k] = [seed_of(root, Stream.EPISODES, *received, instance) for instance in range(self._instances)]
        return seeds.reshape(-1).tolist()
