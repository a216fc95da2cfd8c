"""However a simulation is composed, every agent draws noise of its own in every round and step; so do servers."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.learner import Learner, nothing_gathered, same_stream
from fedrl.core.stage import Stage
from fedrl.engines.simulate import simulate
from fedrl.engines.state import Simulation
from fedrl.engines.topologies.choices import gossip
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.server.schedules import fed_async, fed_buff
from fedrl.topologies import metropolis, ring, tree
from tests.support.fresh_noise import check_fresh
from tests.support.quadratic import Valley, valley

AGENTS, SIZE, ROUNDS, SEEDS = 4, 8, 60, (0, 1)
DEVICES = jax.devices()
ALIKE = Valley(np.ones((AGENTS, 1), np.float32), np.zeros((AGENTS, 1), np.float32))
ALONE = Valley(ALIKE.curvature[:1], ALIKE.minimum[:1])


class DiaryState(NamedTuple):
    params: jax.Array


def diary() -> Learner:
    """A learner that learns nothing: its loss is the noise that it drew."""

    def learn(key, state, experience, context):
        del experience, context
        return state, {"loss": jax.random.normal(key, (SIZE,))[0]}

    return Learner(
        init=lambda key, env_params: DiaryState(jnp.zeros(SIZE)),
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[-1:], jnp.int32),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=valley(1),
        samples=1,
        split_key=same_stream,
    )


def noise_sent(key, context, shared, local, update):
    """Sends noise and nothing else."""
    del context, shared
    return update._replace(value=jax.random.normal(key, (SIZE,))), local


def sent_as_it_is(key, context, shared, local, update):
    del key, context, shared
    return update, local


def noise_added(key, shared, update):
    return update._replace(value=update.value + jax.random.normal(key, (SIZE,))), shared


ON_AGENTS, ON_SERVERS = Stage(noise_sent), Stage(sent_as_it_is, finish=noise_added)
PLAIN, BY_AGENTS, BY_SERVER = (federate(diary(), mean(), *stages) for stages in ([], [ON_AGENTS], [ON_SERVERS]))


def history(simulation: Simulation, seed: int, look: Callable = lambda run_state: run_state.server.params):
    """Losses `[rounds, agents]`, and by how much what is looked at changed in each round `[rounds, ...]`."""
    run_state = simulation.init(seed)
    losses, seen = [], [look(run_state)]
    for _ in range(ROUNDS):
        run_state, told = simulation.round(run_state)
        losses.append(told.metrics["loss"])
        seen.append(look(run_state))
    return np.stack(losses), np.diff(np.asarray(seen, np.float64), axis=0)


def of_all_seeds(simulation: Simulation, **look) -> tuple[np.ndarray, np.ndarray]:
    """The same with every seed, side by side on the second axis."""
    losses, changes = zip(*(history(simulation, seed, **look) for seed in SEEDS), strict=True)
    return np.concatenate(losses, axis=1), np.concatenate(changes, axis=1)


def in_blocks(federation: Federation) -> Simulation:
    return simulate(federation, ALIKE, block=3, devices=DEVICES[:1])


def one_by_one(federation: Federation) -> Simulation:
    return simulate(federation, ALIKE, block=1, devices=DEVICES)


def under_edges(federation: Federation) -> Simulation:
    return simulate(federation, ALIKE, topology=tree([2], periods=[1, 1]), devices=DEVICES[:1])


def on_a_clock(federation: Federation) -> Simulation:
    return simulate(federation, ALIKE, clock=clock(), block=4, devices=DEVICES[:1])


@pytest.mark.parametrize("engine", [in_blocks, one_by_one, under_edges, on_a_clock])
def test_training_and_what_agents_send_have_noise_of_their_own(engine) -> None:
    losses, changes = of_all_seeds(engine(BY_AGENTS))
    check_fresh(losses)
    check_fresh(changes, deviation=1 / np.sqrt(AGENTS))  # the mean of AGENTS draws; 1 were they all the same
    trained, sent = losses[:, :AGENTS].mean(1), changes[:, 0]
    check_fresh(np.stack([trained, sent], axis=1), deviation=1 / np.sqrt(AGENTS))


def test_neighbours_train_with_noise_of_their_own() -> None:
    simulation = simulate(PLAIN, ALIKE, topology=gossip(ring(), metropolis()), block=AGENTS, devices=DEVICES[:1])
    check_fresh(of_all_seeds(simulation)[0])


def test_every_local_step_has_noise_of_its_own() -> None:
    steps = 3
    losses, _ = of_all_seeds(in_blocks(federate(diary(), mean(), local_steps=steps)))
    check_fresh(losses, deviation=np.sqrt(steps))  # a sum of so many draws; 3 were they all the same


@pytest.mark.parametrize("engine", [in_blocks, on_a_clock])
def test_a_server_draws_noise_of_its_own(engine) -> None:
    check_fresh(of_all_seeds(engine(BY_SERVER))[1])


def test_edges_draw_noise_of_their_own() -> None:
    simulation = simulate(BY_SERVER, ALIKE, topology=tree([2], periods=[1, 2 * ROUNDS]), devices=DEVICES[:1])

    def edges(run_state):
        return np.concatenate([holder.server.params for holder in run_state.engine_state.topology[0][0]])

    check_fresh(of_all_seeds(simulation, look=edges)[1])


def test_agents_that_never_wait_draw_noise_of_their_own() -> None:
    timing = {"scheduler": fed_async(), "clock": clock(step_s=[1.0, 1.3, 2.1, 0.7]), "merges": 1}
    simulation = simulate(BY_AGENTS, ALIKE, **timing, block=4, devices=DEVICES[:1])
    losses, _ = of_all_seeds(simulation)
    assert ((losses != 0).sum(1) == len(SEEDS)).all()  # one agent at a time
    check_fresh(losses[losses != 0].reshape(ROUNDS, len(SEEDS)))


def test_an_agent_that_hears_a_version_again_and_again_draws_new_noise_each_time() -> None:
    turns = 4
    timing = {"scheduler": fed_buff(turns), "clock": clock(), "merges": 1}
    simulation = simulate(BY_AGENTS, ALONE, **timing, block=1, devices=DEVICES[:1])
    losses, changes = of_all_seeds(simulation)
    check_fresh(losses, deviation=np.sqrt(turns))  # a sum of four draws; 4 were they all the same
    check_fresh(changes, deviation=1 / np.sqrt(turns))


FAULTS = {
    "the same in every round": lambda x: np.broadcast_to(x[:1], x.shape),
    "the same for all agents": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "the neighbour's of the round before": lambda x: np.stack([x[1 + i : 100 + i, 0] for i in range(4)], axis=1),
    "the round before last once more": lambda x: np.concatenate([x[:50], x[48:49], x[51:]]),
    "not centred": lambda x: x + 0.3,
    "too wide": lambda x: 1.4 * x,
    "too narrow": lambda x: 0.7 * x,
    "remembered": lambda x: 0.9 * x + np.sqrt(1 - 0.9**2) * np.roll(x, 1, axis=0),
    "partly shared": lambda x: 0.8 * x + 0.6 * x[:, :1] * (np.arange(x.shape[1]) > 0),
}


def test_the_check_takes_what_is_fresh() -> None:
    for seed in range(200):
        check_fresh(np.random.default_rng(seed).normal(size=(100, 8)))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_rejects_noise_that_is(fault) -> None:
    for seed in range(20):
        drawn = np.random.default_rng(seed).normal(size=(110, 8))
        with pytest.raises(AssertionError):
            check_fresh(FAULTS[fault](drawn))
