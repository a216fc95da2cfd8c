"""A simulation whose rounds a server plans: who is asked, and how many local steps each takes.

choose, plan --> simulation.round(cohort) --what agents told in their updates--> hear --> the next round

The number of local steps is data of the compiled program, so that a schedule compiles nothing. What the server
remembers stands in `Population.between`: checkpoints hold it, and a resumed run is bit-identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.errors import ConfigError
from fedrl.core.types import Params, PyTree
from fedrl.engines.simulation import Population, Round, Simulation
from fedrl.selection.selection import Admission, Selection, Workload


class Planner(NamedTuple):
    """What the server remembers of the agents, and how many local iterations all of them have done."""

    selection: PyTree
    workload: PyTree
    iterations: np.ndarray
    inner: PyTree


def coordinated(
    simulation: Simulation, selection: Selection | None = None, workload: Workload | None = None
) -> Simulation:
    """The simulation, with rounds for those whom a server selects, of as many local steps as it plans.

    The federation tells what they ask: `federate(..., tells=asked(selection, workload))`, with `local_steps` at least
    `workload.most`. A cohort given to `round` goes before the selection. `Round.steps` says how many local steps each
    took. Without `talk`, everybody trains as many steps as the simulation was made for.

    Args:
        simulation: Of the blocks engine, or on a virtual clock whose schedule is synchronous.
        selection: Who is asked; everybody by default.
        workload: How many local steps; as many as the simulation was made for by default.
    """
    agents = simulation.agents

    def init(seed: int) -> Population:
        population = simulation.init(seed)
        remembered = () if selection is None else selection.init(agents)
        progress = () if workload is None else workload.init(agents)
        return population._replace(between=Planner(remembered, progress, np.zeros((), np.int64), population.between))

    def round(
        population: Population, cohort: Sequence[int] | np.ndarray | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        planner: Planner = population.between
        bare, number = population._replace(between=planner.inner), int(population.server.version) + 1
        if not talk:
            after, seen = simulation.round(bare, cohort, talk)
            return after._replace(between=planner._replace(inner=after.between)), seen
        if cohort is None and selection is not None:
            rng = np.random.default_rng([*np.asarray(jax.random.key_data(population.key)).tolist(), number])
            cohort = selection.choose(rng, agents, number, planner.selection)
        ids = np.arange(agents) if cohort is None else np.unique(cohort)
        if workload is not None:
            bare = simulation.assign(bare, _within(workload.plan(agents, number, planner.workload), workload))
        planned = np.where(np.isin(np.arange(agents), ids), _steps_of(bare, agents), 0)
        after, seen = simulation.round(bare, ids, talk)
        steps = planned if seen.steps is None else seen.steps
        order = np.argsort(seen.arrivals.sender, kind="stable")
        arrivals = Arrivals(seen.arrivals.sender[order], seen.arrivals.staleness[order])
        told = {name: column[arrivals.sender] for name, column in seen.uploads.report.items()}
        remembered, progress = planner.selection, planner.workload
        if selection is not None:
            remembered = selection.hear(arrivals, remembered, told)
        if workload is not None:
            progress = workload.hear(arrivals, progress, told)
        done = np.asarray(planner.iterations + steps.sum(), np.int64)
        seen = seen._replace(steps=steps, iterations=int(done))
        return after._replace(between=Planner(remembered, progress, done, after.between)), seen

    def params_of(population: Population) -> Params:
        return simulation.params_of(population._replace(between=population.between.inner))

    def adopt(population: Population) -> Population:
        after = simulation.adopt(population._replace(between=population.between.inner))
        return after._replace(between=population.between)

    def assign(population: Population, steps: np.ndarray) -> Population:
        after = simulation.assign(population._replace(between=population.between.inner), steps)
        return after._replace(between=population.between._replace(inner=after.between))

    def states_of(population: Population) -> PyTree:
        return simulation.states_of(population._replace(between=population.between.inner))

    return Simulation(
        init,
        round,
        params_of,
        agents,
        simulation.block,
        simulation.close,
        adopt=adopt,
        assign=assign,
        states_of=states_of,
        measures=simulation.measures,
    )


def asked(*rules: Selection | Workload | Admission | None) -> tuple[str, ...]:
    """What all of them ask of agents, each name once."""
    return tuple(dict.fromkeys(name for rule in rules if rule is not None for name in rule.asks))


def _within(steps: np.ndarray, workload: Workload) -> np.ndarray:
    if steps.min() < 1 or steps.max() > workload.most:
        raise ConfigError(
            f"{workload!r} plans {steps.tolist()} local steps. Each is from 1 to {workload.most}, what programs were "
            "compiled for. Raise the most it says."
        )
    return steps


def _steps_of(population: Population, agents: int) -> np.ndarray:
    """The local steps of every agent."""
    found = np.zeros(agents, int)
    for block in population.blocks:
        ids, steps = np.asarray(block.agent), np.asarray(block.steps)
        found[ids[ids >= 0]] = steps[ids >= 0]
    return found
