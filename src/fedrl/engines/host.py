"""The engine for environments that live outside compiled programs, Gymnasium's for example.

    begin [blocks] --> ( gather: one policy call and one step of all instances at a time
                         work [blocks] ) x local_steps --> report [blocks] --> merge, commit

Rounds mean what they mean in `fedrl.engines.blocks`, and the updates meet in the same code. The instances of all
agents are stepped together, in one worker process per core where that pays; their number does not touch the result.

An agent whose training fails begins new episodes, since a number that is not finite may come from its environments.

What an environment remembers can't be saved. A population from elsewhere (a resumed run, another seed in between) goes
on with fresh episodes: the parameters are where they were, the next trajectories are others. Those of a learner that
begins its episodes anew in every iteration are the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import on_time
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.federation import AgentState, Federation
from fedrl.core.learner import Trajectory
from fedrl.core.types import Params, PyTree
from fedrl.engines.compute import compute_of
from fedrl.engines.host_programs import compiled
from fedrl.engines.host_rollout import HostRollout, instance_seeds, instance_settings
from fedrl.engines.merging import accounting, failures, merging, messages
from fedrl.engines.sharing import shapes
from fedrl.engines.simulation import (
    Population,
    Round,
    Simulation,
    adopting,
    assigning,
    attendance,
    chosen_size,
    for_all,
    given_back,
    iterations,
    no_uploads,
    params_held,
    seated,
    starting,
)

RESTART, EPISODES = 1, 2
"""Set the seeds of episodes that begin after a fault, or with a local step, apart from those of a run's beginning."""


def simulate_host(
    federation: Federation,
    fleet: PyTree,
    *,
    local_steps: Sequence[int] | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    workers: int | None = None,
) -> Simulation:
    """Prepare a federation whose environment is stepped on the host. Close it at the end, or use it in a `with`.

    One run at a time: to take up another population is to begin its episodes anew.

    Args:
        federation: What to run.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        local_steps: Local iterations of each agent, at most `federation.local_steps`, which is the default.
        block: Agents per compiled block.
        devices: Where to learn; all local devices by default.
        workers: Processes that step the environments, 1 for this one; by default one per core where that pays.

    Raises:
        ConfigError: An argument does not fit the fleet, or the environment is not a host environment.
        UnsoundError: The learner can't learn from experience gathered for it.
    """
    learner = federation.learner
    agents = jax.tree.leaves(fleet)[0].shape[0]
    size = chosen_size(agents, block)
    places = list(jax.local_devices() if devices is None else devices)
    seats = seated(np.arange(agents), size)
    steps = iterations(federation, agents, local_steps)
    rollout = _opened(federation, fleet, agents, len(seats) * size * learner.instances, workers)
    wire = messages(federation, fleet)
    merge, account = merging(federation, wire.decoded), accounting(wire, agents)
    failed = failures(federation, shapes(fleet, skip=1))
    programs = compiled(federation)
    begin = starting(federation, fleet, seats, steps, places)
    standing: list[Any] = [None]

    def init(seed: int) -> Population:
        standing[0] = None
        return begin(seed)

    def continue_from(population: Population) -> tuple[int, ...]:
        at = (*np.asarray(jax.random.key_data(population.key)).tolist(), int(population.server.version))
        if standing[0] != at:
            rollout.restart(instance_seeds(at, agents, learner.instances))
        standing[0] = None  # until the round is over
        return at

    def gather(
        at: tuple[int, ...],
        population: Population,
        states: list[AgentState],
        present: list[tuple[int, np.ndarray]],
        step: int,
    ) -> tuple[Trajectory, dict[str, np.ndarray]]:
        ids = np.concatenate([seats[i] for i, _ in present])
        active = np.zeros(len(seats) * size, bool)
        active[:agents][ids[ids >= 0]] = np.concatenate([here for _, here in present])[ids >= 0]
        active[:agents] &= step < steps
        params = programs.stack(jax.device_put([programs.params(state.learner) for state in states], places[0]))
        keys = programs.keys(population.key, population.server.version, np.asarray(ids, np.int32), np.int32(step))
        spots = np.concatenate([np.arange(i * size, (i + 1) * size) for i, _ in present])
        rows = (spots[:, None] * learner.instances + np.arange(learner.instances)).reshape(-1)
        trajectory, counts = rollout.collect(
            lambda time, observation: programs.act(keys, np.int32(time), params, observation),
            np.repeat(active, learner.instances),
            rows,
            learner.horizon,
            instance_seeds((*at, EPISODES, step), agents, learner.instances) if learner.episodic else None,
        )
        rows_of = {name: x.reshape(agents, len(params), -1) for name, x in counts.items()}
        return trajectory, {name: x[:, 0].sum(1) for name, x in rows_of.items()}  # of what agents act with

    def round(
        population: Population, cohort: Sequence[int] | np.ndarray | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        began, at = time.perf_counter(), continue_from(population)
        asked, present = attendance(cohort, seats)
        given = (population.key, federation.broadcast(population.server), np.int32(asked))
        copies = {place: jax.device_put(given, place) for place in places}
        blocks, olds, starts, totals = list(population.blocks), {}, {}, {}
        for i, here in present:
            olds[i] = programs.remember(blocks[i])
            blocks[i], starts[i], totals[i] = programs.begin(
                *copies[places[i % len(places)]], blocks[i], here, np.bool_(talk)
            )
        columns: dict[int, Any] = {}
        counts: dict[str, np.ndarray] = {}
        ids = np.concatenate([seats[i][here] for i, here in present])
        for step in range(int(steps[ids].max())):
            trajectory, counted = gather(at, population, [blocks[i] for i, _ in present], present, step)
            counts = {name: counts.get(name, 0.0) + x for name, x in counted.items()}
            for i, here in present:
                width = size * learner.instances
                own = jax.tree.map(lambda x, i=i, width=width: x[:, i * width : (i + 1) * width], trajectory)
                going = here & (step < steps[seats[i]])
                given_here = copies[places[i % len(places)]]
                blocks[i], totals[i], learned = programs.work(
                    *given_here, starts[i], blocks[i], totals[i], going, np.int32(step), own
                )
                columns[i] = learned if i not in columns else jax.tree.map(jnp.add, columns[i], learned)
        outcomes, faults, before, rows = [], {}, {}, []
        for i, here in present:
            own_counts = {
                name: x[seats[i]].astype(np.float32) for name, x in counts.items()
            }  # of empty seats: nobody's
            known: dict[str, Any] = {**columns[i], **own_counts}
            given_here = copies[places[i % len(places)]]
            blocks[i], result, upload, fault, before[i] = programs.report(
                *given_here, starts[i], olds[i], blocks[i], totals[i], here, np.bool_(talk), known
            )
            faults[i] = np.asarray(fault)
            sound = here & (faults[i] == 0)
            outcomes.append((result, sound))
            rows.append(jax.tree.map(lambda x, sound=sound: np.asarray(x)[sound], upload))
        at_fault = np.concatenate([faults[i][here] for i, here in present])
        trained = time.perf_counter()
        sending = ids[at_fault == 0]
        arrivals = on_time(sending if talk else sending[:0])
        merged = merge(population.key, population.server, outcomes if talk else (), arrivals)
        after = given_back(blocks, before, merged.lost(sending)) if talk else tuple(blocks)
        metrics: dict[str, np.ndarray] = {
            name: np.concatenate([np.asarray(columns[i][name])[here] for i, here in present])
            for name in columns[present[0][0]]
        }
        metrics |= {name: x[ids].astype(np.float32) for name, x in counts.items()}
        metrics = {name: np.where(at_fault > 0, np.zeros_like(x), x) for name, x in metrics.items()}
        uploads = no_uploads(agents)
        if talk:
            uploads = account(sending, jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows))
        if at_fault.any():  # what their environments have come to is not known
            rollout.restart(
                instance_seeds((*at, RESTART), agents, learner.instances),
                np.repeat(np.isin(np.arange(agents), ids[at_fault > 0]), learner.instances),
            )
        standing[0] = (*at[:-1], at[-1] + 1)
        heard = asked if talk else 0
        seen = Round(
            metrics=for_all(metrics, ids, agents),
            weight=merged.weight,
            refused=tuple(sorted(failed(ids, at_fault) + merged.refused)),
            bytes_up=int(uploads.size_bytes.sum()),
            bytes_down=heard * wire.down_bytes,
            messages_up=int(uploads.messages.sum()),
            messages_down=heard,
            uploads=uploads,
            arrivals=arrivals,
            skipped=merged.skipped,
            sums=compute_of(began, trained),
        )
        return Population(merged.server, after, population.key), seen

    def params_of(population: Population) -> Params:
        return params_held(federation, population.blocks, seats)

    adopt, assign = adopting(federation), assigning(federation)
    return Simulation(init, round, params_of, agents, size, rollout.close, adopt, assign=assign)


def _opened(federation: Federation, fleet: PyTree, agents: int, rows: int, workers: int | None) -> HostRollout:
    learner, environment = federation.learner, federation.learner.environment
    if not isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} is no host environment. It runs inside compiled programs. "
            "Use fedrl.engines.blocks.simulate, which is far faster."
        )
    if learner.horizon < 1:
        raise UnsoundError(
            f"{learner!r} gathers its own experience, and {environment!r} can only be stepped on the host. "
            "Use a learner that learns from trajectories, such as ppo(...)."
        )
    instances = environment.open(instance_settings(environment, fleet, learner.instances), workers)
    return HostRollout(instances, environment, agents * learner.instances, rows)
