"""A failure of an agent's environment costs that agent the round, and the others nothing."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.engines.executors.host_evaluation import played_host
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import a2c, mlp
from fedrl.stages import error_feedback, top_k
from fedrl.topologies import metropolis, ring, tree
from tests.support import failing  # noqa: F401  (registers the environment)

SICK, ROUND, ROUNDS = 4, 2, 3
OTHERS = [0, 1, 2, 3]
ONE = jax.devices()[:1]
WHERE = r"in step \d+ of an episode, copy 0 of Failing-v0 "
SAID = {
    "exception": WHERE + r"raised ValueError: the floor is gone "
    r"\(failing.py, line \d+\)",
    "sys.exit": WHERE + r"called sys.exit\(4\) \(failing.py, line \d+\)",
    "exit": WHERE + r"ended its process \(exit code 3\)",
    "hang": WHERE + r"did not return within 2 s",
    "none": WHERE + r"returned the reward None, and a reward is one number",
    "four values": WHERE + r"returned 4 values, and a step returns five values: .*",
    "nan": WHERE + r"returned the reward nan, which is not finite",
    "nan seen": WHERE + r"returned an observation of which entry 1 is not finite",
}


def federation_of(fault: str, *stages, at: int = 9):
    options = {"fault": fault, "at": at}
    environment = gymnasium("Failing-v0", settings={"sick": 0.0}, options=options, timeout_s=2.0)
    fleet = environment.params._replace(sick=jnp.float32([0.0] * SICK + [1.0]))
    learner = a2c(environment, network=mlp((4,)), num_envs=2, num_steps=6)
    return federate(learner, mean(), *stages), fleet


def rounds(federation, fleet, without: bool = False, **given):
    """Server and agents after each round, and what was seen; `without` the sick one in the round in which it fails."""
    found = []
    with simulate(federation, fleet, devices=ONE, **given) as simulation:
        run_state = simulation.init(0)
        for number in range(1, ROUNDS + 1):
            run_state, seen = simulation.round(run_state, cohort=OTHERS if without and number == ROUND else None)
            found.append((jax.tree.map(np.array, (run_state.server.params, simulation.params_of(run_state))), seen))
    return found


def check(found, absent, served: bool = True) -> None:
    for (held, seen), (expected, other) in zip(found[:ROUND], absent[:ROUND], strict=True):
        for one, two in zip(jax.tree.leaves(held[1]), jax.tree.leaves(expected[1]), strict=True):
            np.testing.assert_array_equal(one[OTHERS], two[OTHERS])
        if served:
            jax.tree.map(np.testing.assert_array_equal, held[0], expected[0])
        assert (seen.weight, seen.bytes_up) == (other.weight, other.bytes_up)
    assert [agent for agent, _ in found[ROUND - 1][1].rejected] == [SICK]
    assert found[ROUND][1].rejected == ()
    assert found[ROUND][1].weight == found[0][1].weight


@pytest.fixture(scope="module")
def absent():
    return rounds(*federation_of("", error_feedback(top_k(0.3))), without=True, workers=0)


CASES = [(fault, workers) for fault in SAID for workers in (0, 1, 2) if workers or fault not in ("exit", "hang")]


@pytest.mark.parametrize(("fault", "workers"), CASES)
def test_the_others_go_on_as_if_it_had_not_been_selected_and_it_is_told_what_happened(absent, fault, workers):
    found = rounds(*federation_of(fault, error_feedback(top_k(0.3))), workers=workers)
    check(found, absent)
    ((_, reason),) = found[ROUND - 1][1].rejected
    assert re.fullmatch(SAID[fault], reason), reason
    (failure,) = found[ROUND - 1][1].failures
    assert (failure.agent, failure.copy, failure.repeated) == (SICK, 0, False)
    own = "failing.py" in failure.traceback
    assert own == (fault in ("exception", "sys.exit"))
    assert not any(word in failure.traceback for word in ("wrappers", "shard.py", "pickle"))


TOPOLOGIES = {
    "tree": {"topology": tree([3], periods=(1, 2))},
    "neighbours": {"topology": gossip(ring(), metropolis())},
    "clock": {"clock": clock(step_s=[1.0, 1.1, 1.3, 1.6, 1.2])},
    "isolated": {"topology": isolated()},
}


@pytest.mark.parametrize("case", TOPOLOGIES)
def test_so_they_do_whatever_is_composed(case):
    found = rounds(*federation_of("exception"), workers=0, **TOPOLOGIES[case])
    expected = rounds(*federation_of(""), without=True, workers=0, **TOPOLOGIES[case])
    check(found, expected, served=case in ("tree", "clock"))


def test_a_round_is_repeated_from_the_same_state_and_nobody_is_left_out():
    found = rounds(*federation_of("exception"), workers=0, restarts=1)
    again = rounds(*federation_of("exception"), workers=0, restarts=1)
    usual = rounds(*federation_of(""), workers=0)
    seen = found[ROUND - 1][1]
    assert seen.rejected == ()
    assert [(each.agent, each.repeated) for each in seen.failures] == [(SICK, True)]
    assert seen.weight == usual[ROUND - 1][1].weight
    assert seen.bytes_up == usual[ROUND - 1][1].bytes_up
    jax.tree.map(np.testing.assert_array_equal, found[-1][0], again[-1][0])
    for one, two in zip(jax.tree.leaves(found[0][0]), jax.tree.leaves(usual[0][0]), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_agent_whose_round_fails_at_every_attempt_is_left_out():
    found = rounds(*federation_of("exception", at=1), workers=0, restarts=2)
    for _, seen in found:
        assert [each.repeated for each in seen.failures] == [True, True, False]
        assert [agent for agent, _ in seen.rejected] == [SICK]


@pytest.mark.parametrize("restarts", [0, 1])
def test_an_episode_of_an_evaluation_that_fails_has_no_return_and_the_others_are_as_usual(restarts):
    def played(fault, at=2):
        federation, fleet = federation_of(fault, at=at)
        learner = federation.learner
        params = learner.params(learner.init(jax.random.key(0), learner.environment.params))
        return played_host(learner, fleet, params, 3, 0, workers=0, restarts=restarts)

    returns, sums, lengths, failures = played("exception")
    usual, usual_sums, usual_lengths, none = played("")
    assert none == ()
    np.testing.assert_array_equal(returns[OTHERS], usual[OTHERS])
    np.testing.assert_array_equal(lengths[OTHERS], usual_lengths[OTHERS])
    for name, values in sums.items():
        np.testing.assert_array_equal(values[OTHERS], usual_sums[name][OTHERS])
    assert np.isnan(returns[SICK]).any()
    assert {(each.agent, each.step) for each in failures} == {(SICK, 2)}
    assert len([each for each in failures if each.repeated]) == len(failures) * restarts // (restarts + 1)
