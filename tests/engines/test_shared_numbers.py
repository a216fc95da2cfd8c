"""Settings that differ in numbers of the learner share programs, and none of them gets a number of another one."""

import tomllib

import jax
import numpy as np
import pytest

from benchmarks.golden import CASES
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.catalogue import table_of
from fedrl.config.objects import Experiment
from fedrl.core.hyperparameters import numbers_of, with_numbers
from fedrl.engines.program_cache import forget
from fedrl.runs.evaluate import returns_of
from fedrl.runs.simulations import simulation_of
from fedrl.studies.programs import counted

FACTOR = 0.9
OWN = {"tree": {"init_server", "handed"}}
"""Programs that each setting compiles for itself: servers above servers run a federation as a learner."""


def experiments(case: str) -> tuple[Experiment, Experiment]:
    """A case, and the same with every number of its learner multiplied by a factor."""
    table = {"name": case, **tomllib.loads(CASES[case])}
    one = build(load(table))
    learner = with_numbers(one.learner, [FACTOR * number for number in numbers_of(one.learner)])
    return one, build(load({**table, "learner": table_of(learner, [one.environment])}))


def played(experiment: Experiment) -> bytes:
    """The bits of all parameters after two rounds, and the returns of an evaluation."""
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        run_state = simulation.init(7)
        for _ in range(2):
            run_state, _ = simulation.round(run_state)
        acting = simulation.params_of(run_state)
        leaves = [np.asarray(x) for x in jax.tree.leaves((run_state.server.params, acting))]
    assert all(np.isfinite(x).all() for x in leaves)
    greedy = returns_of(experiment.learner, experiment.fleet, acting, 2, 0, stacked=True)
    return b"".join(x.tobytes() for x in (*leaves, greedy))


@pytest.mark.parametrize("case", CASES)
def test_a_setting_that_shares_programs_has_the_bits_that_it_has_alone(case: str) -> None:
    one, other = experiments(case)
    first = played(one)
    with counted() as programs:
        shared = played(other)
    assert set(programs) <= OWN.get(case, set())
    forget()
    assert played(other) == shared != first
