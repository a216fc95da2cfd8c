"""A robust rule over hidden sums of groups: what it sees, and what it survives."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks.devices import clock
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.keys import Stream, derived, keys_of
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.secure.grid import ring_sum
from fedrl.secure.groups import partition
from fedrl.server import uniform
from fedrl.server.scheduler import Scheduler
from fedrl.topologies.trees import tree
from tests.support.quadratic import FLEET, Valley, quadratic

AGENTS, SIZE = 15, 3
MANY = Valley(
    *(np.concatenate([part] * 4)[:AGENTS] + np.arange(AGENTS, dtype=np.float32)[:, None] / 8 for part in FLEET)
)


def federation(protocol: str = "none", largest: float = 8.0, rule=None, **given):
    given = {"group_size": SIZE, **given}
    return federate(
        quadratic(sgd(0.1)), rule or median(), summation=ring_sum(AGENTS, largest, protocol=protocol, **given)
    )


def played(built, rounds: int = 1, where=MANY, **parts):
    with simulate(built, where, **parts) as simulation:
        state = simulation.init(0)
        for _ in range(rounds):
            state, seen = simulation.round(state)
    return jax.tree.map(np.asarray, state.server.params), seen


def flat(params) -> np.ndarray:
    return np.concatenate([params["head"], params["tail"][0]])


def groups_of(version: int, agents) -> tuple[tuple[int, ...], ...]:
    return partition(list(agents), SIZE, derived(keys_of(0).run.tobytes(), Stream.GROUPS, version).tobytes())


def changes(where, at=0.0) -> np.ndarray:
    return 0.1 * where.curvature * (where.minimum - at)  # one step of gradient descent


@pytest.mark.parametrize("protocol", ["none", "masks", "additive", "ckks"])
def test_the_rule_sees_the_means_of_groups(protocol: str) -> None:
    params, seen = played(federation(protocol))
    means = [changes(MANY)[list(group)].mean(axis=0) for group in groups_of(0, range(AGENTS))]
    assert len(means) == AGENTS // SIZE
    np.testing.assert_allclose(flat(params), np.median(means, axis=0), atol=1e-6)
    assert seen.weight == AGENTS
    one_by_one = np.median(changes(MANY), axis=0)
    assert np.abs(flat(params) - one_by_one).max() > 1e-3


def test_groups_differ_from_version_to_version_and_protocols_agree() -> None:
    assert groups_of(0, range(AGENTS)) != groups_of(1, range(AGENTS))
    at = np.zeros(3)
    for version in range(3):
        means = [changes(MANY, at)[list(group)].mean(axis=0) for group in groups_of(version, range(AGENTS))]
        at = at + np.median(means, axis=0)
    np.testing.assert_allclose(flat(played(federation(), 3)[0]), at, atol=1e-5)
    plain, _ = played(federation(), 4)
    for protocol in ("masks", "additive"):
        jax.tree.map(np.testing.assert_array_equal, plain, played(federation(protocol), 4)[0])


def test_one_bad_agent_is_survived_and_one_in_most_groups_is_not() -> None:
    honest = [changes(MANY)[list(group)].mean(axis=0) for group in groups_of(0, range(AGENTS))]
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)

    def with_bad(bad: list[int]) -> np.ndarray:
        minimum = MANY.minimum.copy()
        minimum[bad] = 500.0
        return flat(played(federation(largest=512.0), where=Valley(MANY.curvature, minimum))[0])

    survived = with_bad([groups_of(0, range(AGENTS))[0][0]])
    assert ((low - 1e-5 <= survived) & (survived <= high + 1e-5)).all()
    lost = with_bad([group[0] for group in groups_of(0, range(AGENTS))[:3]])
    assert (lost > high).all()


def test_an_update_beyond_the_grid_is_named_and_its_group_goes_on_without_it() -> None:
    minimum = MANY.minimum.copy()
    minimum[4] = 1e6
    _, seen = played(federation(), where=Valley(MANY.curvature, minimum))
    assert [agent for agent, _ in seen.rejected] == [4]
    assert "reaches" in seen.rejected[0].reason
    assert seen.weight == AGENTS - 1


def test_a_group_below_the_minimum_stays_hidden_and_others_go_on() -> None:
    minimum = MANY.minimum.copy()
    minimum[4] = 1e6
    _, seen = played(federation(minimum=SIZE), where=Valley(MANY.curvature, minimum))
    assert seen.weight == AGENTS - SIZE
    assert seen.skipped.startswith("2 of at least 3 updates arrived")


def test_agents_that_leave_in_phases_leave_their_groups() -> None:
    _, seen = played(federation("masks", phase_s=2.0), clock=clock(latency_s=[0.1] * 14 + [3.0]))
    assert [agent for agent, _ in seen.rejected] == [14]
    assert seen.weight == AGENTS - 1
    assert seen.sums["sum_phases"] == pytest.approx(2.0 + 4 * 0.2)  # groups add at the same time


def test_a_cohort_and_a_tree_have_groups_of_their_own() -> None:
    _, seen = played(federation(), scheduler=Scheduler(selection=uniform(7)))
    assert seen.weight == 7
    plain, _ = played(federation(), 2)
    relayed, seen = played(federation(), 2, topology=tree([5]))
    jax.tree.map(np.testing.assert_array_equal, plain, relayed)
    assert seen.weight == AGENTS


def test_what_does_not_fit_groups_is_refused_when_it_is_built() -> None:
    with pytest.raises(UnsoundError, match=r"mean\(weighting='uniform'\) needs the sum of all.*Leave group_size out"):
        federation(rule=mean("uniform"))
    with pytest.raises(UnsoundError, match=r"let median\(\) see the means of groups"):
        federation(group_size=0)
    with pytest.raises(UnsoundError, match="has a number for each agent"):
        federation(rule=replace(median(), agents=AGENTS))
    with pytest.raises(ConfigError, match="group_size is 2, minimum is 3"):
        ring_sum(10, 1.0, minimum=3, group_size=2)
    with pytest.raises(UnsoundError, match="groups of 3 or more, and at most 2 agents"):
        simulate(federation(), MANY, scheduler=Scheduler(selection=uniform(2)))
