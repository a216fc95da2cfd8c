"""Rings of experience: an engine leaves them as if it had copied them, and copies nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.replay import replaying
from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError
from fedrl.core.faults import rings_in
from fedrl.core.replay import Replay, RingRows, append, empty, log, sample, settle
from fedrl.engines.executors.programs import JobInputs, block_program, logging
from fedrl.engines.inbox import SUMS
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole, fleet
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.nested import as_learner
from tests.support.workers_here import Here, here, same

DEVICE = jax.devices()[:1]
CAPACITY = 40  # less than two rounds of an agent write
CART = cartpole()
FLEET = fleet(CART, 3, {"length": [0.4, 0.5, 0.6]})
ROWS = 2 * 3  # of a local step: instances, steps


def small(environment=CART, capacity: int = CAPACITY):
    return replaying(environment, capacity, instances=2, steps=3)


def rings(run_state) -> list[np.ndarray]:
    """The rows and the counter of each agent, in the order of agents."""
    found = {}
    for block in run_state.blocks:
        for slot, agent in enumerate(np.asarray(block.agent)):
            if agent >= 0:
                ring = block.learner.ring
                found[int(agent)] = np.append(np.asarray(ring.rows[slot]).ravel(), ring.written[slot])
    return [found[i] for i in sorted(found)]


def alone(federation, settings, rounds: int, asked=lambda number, agent: True, steps=(2, 2, 2)) -> list[np.ndarray]:
    """The same by the halves of the federation, an agent at a time, who is not asked untouched."""
    simulation = simulate(federation, settings, local_steps=steps, block=1, devices=DEVICE)
    run_state = simulation.init(0)
    for number in range(rounds):
        cohort = [k for k in range(3) if asked(number, k)]
        run_state, _ = simulation.round(run_state, cohort)
    return rings(run_state)


class TestRing:
    def test_the_newest_rows_overwrite_the_oldest(self):
        ring = empty(jnp.zeros(2), 3)
        for i in range(5):
            ring = append(ring, jnp.full((1, 2), i + 1.0))
        assert ring.rows[:, 0].tolist() == [4.0, 5.0, 3.0]
        assert int(ring.written) == 5

    def test_a_sample_is_of_what_was_written(self):
        ring = append(empty(jnp.zeros(()), 100), jnp.array([1.0, 2.0]))
        assert set(sample(jax.random.key(0), ring, 200).tolist()) == {1.0, 2.0}
        assert sample(jax.random.key(0), empty(jnp.zeros(()), 4), 3).tolist() == [0.0, 0.0, 0.0]

    @pytest.mark.parametrize("valid", range(5))
    def test_what_does_not_count_is_as_before(self, valid):
        before = append(empty(jnp.zeros(()), 6), jnp.arange(1.0, 6.0))
        noted = log(before, 4)
        after = append(append(before, jnp.array([10.0, 11.0])), jnp.array([12.0, 13.0]))
        found = settle(after._replace(written=before.written + valid), noted)
        expected = append(before, jnp.array([10.0, 11.0, 12.0, 13.0])[:valid]) if valid else before
        assert found.rows.tolist() == expected.rows.tolist()
        assert int(found.written) == int(expected.written)

    def test_a_log_has_no_more_rows_than_the_ring(self):
        assert log(empty(jnp.zeros(()), 6), 100).rows.shape == (6,)

    def test_more_rows_than_a_ring_holds_are_refused(self):
        with pytest.raises(ConfigError, match="4 rows are written at once to a replay buffer of 3"):
            append(empty(jnp.zeros(()), 3), jnp.zeros(4))

    def test_rings_are_found_by_their_type(self):
        ring = empty(jnp.zeros(()), 6)
        state = {"a": jnp.zeros(3), "b": (ring, log(ring, 2))}
        assert [type(found) for found in rings_in(state)] == [Replay, RingRows]


def test_an_agent_that_sits_out_keeps_its_ring_whoever_sits_beside_it():
    federation = federate(small(), mean(), local_steps=2)
    simulation = simulate(federation, FLEET, block=3, devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(3):
        run_state, _ = simulation.round(run_state)
    before = rings(run_state)
    run_state, _ = simulation.round(run_state, cohort=[0, 2])
    after = rings(run_state)
    np.testing.assert_array_equal(after[1], before[1])
    for agent in (0, 2):
        assert after[agent][-1] == before[agent][-1] + 2 * ROWS
        assert (after[agent] != before[agent]).any()


@pytest.mark.parametrize("steps", [(2, 2, 2), (1, 2, 1)], ids=["alike", "each its own"])
def test_rings_are_those_of_agents_that_run_by_themselves(steps):
    federation = federate(small(), mean(), local_steps=2)

    def asked(number, agent):
        return (number + agent) % 3 != 0

    simulation = simulate(federation, FLEET, local_steps=steps, block=2, devices=DEVICE)
    run_state = simulation.init(0)
    for number in range(8):
        run_state, _ = simulation.round(run_state, [k for k in range(3) if asked(number, k)])
    for found, expected in zip(rings(run_state), alone(federation, FLEET, 8, asked, steps), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert found[-1] > CAPACITY or steps[0] == 1


def test_a_round_that_comes_to_nothing_leaves_no_row():
    broken = FLEET._replace(length=np.float32([0.4, np.nan, 0.6]))
    federation = federate(small(), mean(), local_steps=2)
    simulation = simulate(federation, broken, block=3, devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        assert [rejection.agent for rejection in seen.rejected] == [1]
    after = rings(run_state)
    assert not after[1].any()
    for agent in (0, 2):
        assert np.isfinite(after[agent]).all()
        assert after[agent][-1] == 4 * 2 * ROWS


def test_the_same_with_environments_on_the_host():
    environment = gymnasium("CartPole-v1", settings={"length": 0.5})
    settings = fleet(environment, 3, {"length": [0.4, 0.5, 0.6]})
    federation = federate(small(environment), mean(), local_steps=2)
    with simulate(federation, settings, local_steps=[1, 2, 2], block=2, devices=DEVICE, workers=0) as simulation:
        run_state, _ = simulation.round(simulation.init(0))
        before = rings(run_state)
        assert [ring[-1] for ring in before] == [ROWS, 2 * ROWS, 2 * ROWS]
        assert not before[0].reshape(-1)[ROWS * 8 : -1].any()  # beyond its own one step, nothing is left behind
        run_state, _ = simulation.round(run_state, cohort=[0, 2])
        after = rings(run_state)
    np.testing.assert_array_equal(after[1], before[1])
    assert [ring[-1] for ring in after] == [2 * ROWS, 2 * ROWS, 4 * ROWS]


@pytest.mark.parametrize("kill", [None, 5, 8])
def test_rings_in_workers_are_those_of_one_process_also_after_a_death(kill):
    """Agents that sit out, a worker that dies, and one process that continues what workers have begun."""

    def trained(simulation, rounds, run_state):
        for number in range(rounds):
            run_state, _ = simulation.round(run_state, [number % 3, 2])
        return run_state

    federation, transport = federate(small(), mean(), local_steps=2), Here(2)
    if kill is not None:
        transport.kill = {0: kill}
    with (
        simulate(federation, FLEET, block=1, devices=DEVICE) as alone,
        simulate(federation, FLEET, block=1, devices=DEVICE, executor=here(2, transport)) as there,
    ):
        expected = trained(alone, 4, alone.init(0))
        begun = there.whole(trained(there, 4, there.init(0)))
        assert same(rings(begun), rings(expected))
        assert transport.starts == [int(kill is not None), 0]
        continued = trained(alone, 2, alone.placed(begun))
        assert same(rings(continued), rings(trained(alone, 2, expected)))


def test_a_federation_that_is_a_learner_may_have_rings():
    inner = federate(small(), mean(), local_steps=2)
    outer = federate(as_learner(inner, agents=2), mean(), local_steps=2)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf[:2], leaf[1:]]), FLEET)
    simulation = simulate(outer, stacked, devices=DEVICE)
    run_state, seen = simulation.round(simulation.init(0))
    assert not seen.rejected
    written = run_state.blocks[0].learner.agents.learner.ring.written
    assert np.asarray(written).ravel().tolist() == [2 * 2 * ROWS] * 2


def test_what_an_engine_compiles_copies_no_ring():
    """In the program of a block, no operation but the writes themselves makes an array of the size of a ring."""
    capacity = 12_345
    federation = federate(small(capacity=capacity), mean(), local_steps=2)
    simulation = simulate(federation, FLEET, block=3, devices=DEVICE)
    run_state = simulation.init(0)
    block = run_state.blocks[0]
    arguments = (
        jax.tree.map(lambda x: np.stack([np.asarray(x)] * 3), federation.broadcast(run_state.server)),
        JobInputs(
            np.zeros((3, 3, 2), np.uint32), np.full(3, 3, np.int32), np.full(3, 2, np.int32), np.ones(3, np.float32)
        ),
        np.bool_(True),
        np.int32(2),
        block,
        logging(federation)(block),
        np.ones(3, bool),
    )
    program = block_program(federation, SUMS)
    text = program.func.lower(*program.args, *arguments).compile().as_text()
    large = [line for line in text.splitlines() if f"{capacity}" in line]
    assert any("scatter" in line for line in large)
    assert not [line for line in large if " copy(" in line or " select(" in line]
