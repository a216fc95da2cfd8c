"""Environments on the host: rounds mean what they mean for compiled environments."""

from dataclasses import replace
from typing import NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.aggregator import Aggregator
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, first
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import Learner
from fedrl.engines.executors.host import Host
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.environments.time_limit import time_limit
from fedrl.federation.federate import federate
from fedrl.learners import a2c, adam, apfl, mlp, network, ppo, reinforce, sgd
from fedrl.learners.parts.rollout import Position, Sampler, collect, episodes, start
from fedrl.server import greedy, linear, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_async, fed_buff, synchronous
from fedrl.topologies import metropolis, ring, tree
from tests.support.fresh_noise import check_unrelated

AGENTS, INSTANCES, STEPS = 5, 2, 6


class Drift(gym.Env):
    """Drift by `gain` times the action, which is 0 or 1, minus a quarter; all numbers are exact in float32."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain, self.x = gain, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.float32([0.0]), {}

    def step(self, action):
        self.x += self.gain * action - 0.25
        return np.float32([self.x]), self.x, self.x > 2.0, False, {}


gym.register("Drift-v0", entry_point=Drift, max_episode_steps=5)


class DriftParams(NamedTuple):
    gain: jax.Array


def pure_drift() -> Environment:
    def reset(noise, params):
        return first(jnp.zeros(1)), jnp.zeros(1)

    def step(noise, params, state, action):
        x = state + params.gain * action - 0.25
        return Timestep(x, x[0], x[0] > 2.0, jnp.bool_(False)), x

    spaces = Spaces(Box((1,)), Discrete(2))
    return time_limit(Environment(DriftParams(jnp.float32(1.0)), spaces, draw_nothing, draw_nothing, reset, step, 5))


class RunProgress(NamedTuple):
    params: jax.Array
    position: Position
    env_params: DriftParams


def tally(environment: Environment, num_envs: int = INSTANCES, steps: int = STEPS, noisy: bool = False) -> Learner:
    """A learner whose update is a simple sum over the trajectory and whose policy needs no luck unless `noisy`."""

    def choose(params, observation, key):
        luck = jax.random.uniform(key, observation.shape[-1:]) - 0.5 if noisy else 0.0
        return (params[0] + observation[0] * params[1] + luck > 0.25).astype(jnp.int32)

    def learn(key, state, seen, context):
        gained = jnp.stack(
            [(seen.next_observation - seen.observation).sum(), seen.reward.sum() - 8.0 * seen.truncated.sum()]
        )
        pull = 0.5 * (context.params - state.params)
        return state._replace(params=state.params + gained / 64 + pull), {"gained": gained[0]}

    def gather(key, state):
        sampler = Sampler(lambda key, batch: (), lambda noise, seen: choose(state.params, seen, key))
        seen, position, counts = collect(key, environment, state.env_params, sampler, steps, state.position)
        return seen, state._replace(position=position), counts

    return Learner(
        init=lambda key, env_params: RunProgress(
            jnp.float32([0.0, 1.0]), start(key, environment, env_params, num_envs), env_params
        ),
        collect=gather,
        learn=learn,
        act=lambda key, params, observation, greedy: choose(params, observation, key),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=environment,
        samples=num_envs * steps,
        horizon=steps,
        num_envs=num_envs,
    )


def gains(environment: Environment):
    return environment.params._replace(gain=jnp.float32([0.5, 0.75, 1.0, 1.5, 2.0]))


def drift() -> Environment:
    return gymnasium("Drift-v0", settings={"gain": 1.0})


def each_counts() -> Aggregator:
    """A rule that sees each update: the largest change of every parameter."""
    return Aggregator(lambda key, view, arrivals, state, updates: (updates._replace(value=updates.value.max(0)), state))


def run(simulation, seed=0, params=False):
    """Rounds of all or some; what they return. The server's parameters are one array, or a tree with `params`."""
    run_state, seen = simulation.init(seed), []
    for cohort in (None, [1, 2], None, [0], None, None):
        run_state, round = simulation.round(run_state, cohort=cohort)
        seen.append(round)
    merged = run_state.server.params
    return simulation.params_of(run_state), merged if params else np.asarray(merged), seen


def copied(run_state):
    """The same, to be taken up more than once: a round brings up to date in place what a run keeps between rounds."""
    return run_state._replace(engine_state=jax.tree.map(np.array, run_state.engine_state))


def check_alike(ours, expected) -> None:
    """Bit for bit, but for what a clock on the wall says."""
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_array_equal(ours[1], expected[1])
    for one, other in zip(ours[2], expected[2], strict=True):
        told, expected_told = (seen._replace(metrics={}, sums={}) for seen in (one, other))
        assert jax.tree.structure(told) == jax.tree.structure(expected_told)
        jax.tree.map(np.testing.assert_array_equal, told, expected_told)
        assert set(one.metrics) == set(other.metrics)
        for name, column in one.metrics.items():
            np.testing.assert_array_equal(column, other.metrics[name], err_msg=name)


@pytest.mark.parametrize(
    ("aggregator", "topology"),
    [(mean(), None), (each_counts(), None), (mean(), isolated())],
    ids=["sum", "each", "isolated"],
)
def test_rounds_mean_the_same_as_in_blocks(aggregator, topology):
    work = [2, 1, 2, 2, 1]
    pure, host = (federate(tally(environment), aggregator, local_steps=2) for environment in (pure_drift(), drift()))
    expected = run(simulate(pure, gains(pure.learner.environment), topology=topology, local_steps=work))
    given = {"topology": topology, "local_steps": work, "workers": 0}
    with simulate(host, gains(host.learner.environment), **given) as simulation:
        ours = run(simulation)
    check_alike(ours, expected)
    assert np.ptp(ours[0], axis=0).min() > 0.0  # agents went their own ways
    assert sum(round.metrics["episodes"].sum() for round in ours[2]) > 20


UNLIKE = {"step_s": [1.0, 1.3, 2.9, 0.7, 1.1]}
COMPOSED = {
    "a buffer": {"scheduler": fed_buff(2), "clock": clock(**UNLIKE), "merges": 3},
    "a buffer and room for three": {"scheduler": fed_buff(2, concurrency=3), "clock": clock(**UNLIKE), "merges": 3},
    "one at a time": {"scheduler": fed_async(0.5), "clock": clock(**UNLIKE, drop_out=0.2)},
    "who comes late goes on": {"scheduler": synchronous(3, stragglers="keep"), "clock": clock(**UNLIKE, jitter=0.2)},
    "coming and going": {"clock": clock(**UNLIKE, drop_out=0.2, online_s=9.0, offline_s=3.0)},
    "a tree": {"topology": tree([3], periods=[1, 2])},
    "a tree with a buffer": {
        "topology": tree([3], periods=[1, 2]), "scheduler": fed_buff(2), "clock": clock(**UNLIKE), "merges": 3
    },
    "neighbours": {"topology": gossip(ring(), metropolis())},
    "a selection": {"scheduler": Scheduler(selection=uniform(3))},
    "a workload": {"scheduler": Scheduler(local_steps=linear(1, 2, 4))},
    "a budget": {"scheduler": Scheduler(upload_budget=greedy(120))},
}  # fmt: skip


@pytest.mark.parametrize("case", COMPOSED)
def test_whatever_is_composed_means_the_same_as_in_blocks(case):
    reports = ["norm"] if case == "a budget" else []
    pure, host = (
        federate(tally(environment), mean(), local_steps=2, reports=reports) for environment in (pure_drift(), drift())
    )

    def rounds(simulation):
        run_state, seen = simulation.init(0), []
        for _ in range(6):
            run_state, round = simulation.round(run_state)
            seen.append(round)
        return simulation.params_of(run_state), np.asarray(run_state.server.params), seen

    expected = rounds(simulate(pure, gains(pure.learner.environment), **COMPOSED[case]))
    with simulate(host, gains(host.learner.environment), workers=0, **COMPOSED[case]) as simulation:
        ours = rounds(simulation)
    check_alike(ours, expected)
    assert sum(round.metrics["episodes"].sum() for round in ours[2]) > 20


@pytest.fixture(scope="module")
def cartpoles():
    """Noisy agents on CartPole with 1 and 2 worker processes, and a population of theirs."""
    environment = gymnasium("CartPole-v1", settings={"gravity": 9.8})
    federation = federate(tally(environment, num_envs=3, noisy=True), mean())
    fleet = environment.params._replace(gravity=jnp.float32([5.0, 9.8, 20.0]))
    with simulate(federation, fleet, workers=0) as one, simulate(federation, fleet, workers=2) as two:
        yield one, two


def test_the_number_of_workers_is_of_no_consequence(cartpoles):
    (held, merged, seen), (held_by_two, merged_by_two, seen_by_two) = (run(simulation) for simulation in cartpoles)
    np.testing.assert_array_equal(held, held_by_two)
    np.testing.assert_array_equal(merged, merged_by_two)
    for one, two in zip(seen, seen_by_two, strict=True):
        for name, column in one.metrics.items():
            np.testing.assert_array_equal(column, two.metrics[name])


def test_a_run_is_a_function_of_its_seed(cartpoles):
    first_run, again, other = (run(cartpoles[0], seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first_run, again)
    assert not np.array_equal(first_run, other)


def test_a_population_from_elsewhere_goes_on_with_fresh_episodes(cartpoles):
    here, there = cartpoles
    run_state, _ = here.round(here.init(0))
    saved = jax.tree.map(np.array, run_state)

    def resumed(simulation):
        taken_up = jax.tree.map(jnp.asarray, saved._replace(engine_state=()))
        taken_up = taken_up._replace(keys=saved.keys)
        return np.asarray(simulation.round(copied(taken_up._replace(engine_state=saved.engine_state)))[0].server.params)

    uninterrupted = np.asarray(here.round(run_state)[0].server.params)
    after_resume = resumed(there)
    assert not np.array_equal(after_resume, uninterrupted)
    here.init(5)
    np.testing.assert_array_equal(resumed(here), after_resume)


def test_every_agent_acts_with_noise_of_its_own_in_every_round_step_and_instance():
    """A coin for each action; the loss is the row of coins, read as a binary number."""
    steps, agents, rounds = 6, 3, 60
    place = 2.0 ** np.arange(steps * INSTANCES).reshape(steps, INSTANCES)

    def learn(key, state, seen, context):
        del key, context
        return state, {"loss": (seen.action * place).sum()}

    def act(key, params, observation, greedy):
        del params, greedy
        return jax.random.bernoulli(key, shape=observation.shape[-1:]).astype(jnp.int32)

    learner = replace(tally(drift(), steps=steps), learn=learn, act=act)
    fleet = jax.tree.map(lambda x: x[:agents], gains(learner.environment))
    with simulate(federate(learner, mean(), local_steps=1), fleet, workers=0) as simulation:
        run_state, rows = simulation.init(0), []
        for _ in range(rounds):
            run_state, seen = simulation.round(run_state)
            rows.append(seen.metrics["loss"])
    coins = (np.asarray(rows, int)[..., None] >> np.arange(steps * INSTANCES)) & 1
    check_unrelated(2.0 * coins.reshape(rounds, -1) - 1.0)
    assert abs(coins.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(coins.size)


def test_pooled_settings_are_dealt_out_to_the_instances():
    environment = drift()
    pooled = environment.params._replace(gain=jnp.float32([[0.5, 2.0]]))
    separate = environment.params._replace(gain=jnp.float32([0.5, 2.0]))
    returns = []
    for fleet, instances in ((pooled, 2), (separate, 1)):
        federation = federate(tally(environment, num_envs=instances), mean())
        with simulate(federation, fleet, workers=0) as simulation:
            returns.append(simulation.round(simulation.init(0))[1].metrics["episode_return"].sum())
    assert returns[0] == returns[1] != 0.0


def test_ppo_learns_cartpole_through_gymnasium():
    environment = gymnasium("CartPole-v1")
    learner = ppo(environment, network=mlp((32,)), optimizer=adam(0.01), num_steps=64, num_epochs=6, num_minibatches=4)
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, *leaf.shape)), environment.params)
    with simulate(federate(learner, mean()), fleet, workers=0, block=2) as simulation:
        run_state = simulation.init(0)
        lengths = []
        for _ in range(14):
            run_state, seen = simulation.round(run_state)
            lengths.append(seen.metrics["episode_return"].sum() / max(seen.metrics["episodes"].sum(), 1))
    assert lengths[0] < 40
    assert np.mean(lengths[-3:]) > 2.5 * lengths[0]


def test_what_can_not_be_stepped_on_the_host_is_refused():
    pure = ppo(cartpole())
    with pytest.raises(ConfigError, match="no host environment"):
        simulate(federate(pure, mean()), jax.tree.map(lambda leaf: leaf[None], pure.environment.params), executor=Host)
    environment = drift()
    by_itself = replace(tally(environment), horizon=0)
    with pytest.raises(UnsoundError, match="collects its own experience"):
        simulate(federate(by_itself, mean()), gains(environment))


LOGITS = network(lambda key, space, outputs, gain: jnp.zeros(outputs), lambda params, observation: params)
"""A network without inputs: two logits for the actor, one value for the critic."""


def luckless(learner: Learner) -> Learner:
    """The learner with a behaviour that needs no luck and depends on its parameters, wherever it is stepped."""

    def choose(params, observation):
        return (jnp.sin(7.0 * observation[0] + 2.0) + 4.0 * (params["actor"][1] - params["actor"][0]) > 0.0).astype(
            jnp.int32
        )

    def gather(key, state):
        sampler = Sampler(jax.random.uniform, lambda noise, seen: choose(state.params, seen))
        there = (key, learner.environment, state.env_params, sampler)
        if learner.episodic:
            played, counts = episodes(*there, learner.num_envs, learner.horizon)
            return played.trajectory, state, counts
        seen, position, counts = collect(*there, learner.horizon, state.position)
        return seen, state._replace(position=position), counts

    return replace(learner, collect=gather, act=lambda key, params, observation, greedy: choose(params, observation))


def by_a2c(environment):
    return luckless(a2c(environment, network=LOGITS, optimizer=sgd(0.2), num_envs=INSTANCES, num_steps=STEPS))


PRIVATE = {"trajectory_clip": 2.0}  # noise is of no seed, so that no two runs have the same


def by_episode(build, environment, **options):
    """Episodes of at most STEPS steps, whose gradients are clipped."""
    size = {"num_envs": INSTANCES, "num_steps": STEPS}
    return luckless(build(environment, network=LOGITS, optimizer=sgd(0.2), **size, **PRIVATE, **options))


def by_reinforce(
    environment, baseline="none", horizon=4, **options
):  # its instances do all the same, so their mean is no news
    size = {"episodes_per_step": INSTANCES, "horizon": horizon}
    return luckless(reinforce(environment, network=LOGITS, optimizer=sgd(0.1), baseline=baseline, **size, **options))


ON_THE_HOST = {
    "a2c": (by_a2c, "delta"),
    "a2c, gradient": (by_a2c, "gradient"),
    "reinforce": (by_reinforce, "delta"),
    "a2c, clipped": (lambda environment: by_episode(a2c, environment), "delta"),
    "a2c, clipped, gradient": (lambda environment: by_episode(a2c, environment), "gradient"),
    "ppo, clipped": (lambda environment: by_episode(ppo, environment, num_epochs=2, num_minibatches=2), "delta"),
    "reinforce, clipped": (lambda environment: by_reinforce(environment, "value", **PRIVATE), "delta"),
    "reinforce, whole episodes": (lambda environment: by_reinforce(environment, horizon=9), "delta"),
    "reinforce, value, gradient": (lambda environment: by_reinforce(environment, "value"), "gradient"),
    "apfl": (lambda environment: apfl(by_a2c(environment), rate=0.1), "delta"),
    "apfl of reinforce": (lambda environment: apfl(by_reinforce(environment)), "delta"),
}


@pytest.mark.parametrize("case", ON_THE_HOST)
def test_learners_make_the_same_of_experience_wherever_it_is_gathered(case):
    make, payload = ON_THE_HOST[case]
    work, options = [2, 1, 3, 2, 1], {"local_steps": 3, "payload": payload, "server_optimizer": optax.sgd(0.5)}
    pure, host = (federate(make(environment), mean(), **options) for environment in (pure_drift(), drift()))
    for topology in [None] if payload == "gradient" else [None, isolated()]:
        given = {"topology": topology, "local_steps": work}
        expected = run(simulate(pure, gains(pure.learner.environment), **given), params=True)
        with simulate(host, gains(host.learner.environment), **given, workers=0) as simulation:
            ours = run(simulation, params=True)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), ours[:2], expected[:2]
        )
        assert np.abs(np.ptp(ours[1 if topology is None else 0]["actor"])) > 0.05  # something was learned
        for one, other in zip(ours[2], expected[2], strict=True):
            assert set(one.metrics) == set(other.metrics)
            for name, column in one.metrics.items():
                np.testing.assert_allclose(column, other.metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)
        assert sum(round.metrics["episodes"].sum() for round in ours[2]) > 20


@pytest.fixture(scope="module")
def in_gymnasium():
    """REINFORCE on CartPole with 1 and 2 worker processes; the gradient is what travels."""
    environment = gymnasium("CartPole-v1", settings={"gravity": 9.8})
    learner = reinforce(environment, network=mlp((16,)), episodes_per_step=4, horizon=200)
    federation = federate(learner, mean(), payload="gradient", server_optimizer=optax.adam(0.03))
    fleet = environment.params._replace(gravity=jnp.float32([9.0, 9.8, 10.0]))
    with simulate(federation, fleet, workers=0) as one, simulate(federation, fleet, workers=2) as two:
        yield one, two


def test_whole_episodes_are_the_same_for_any_number_of_workers_and_after_a_resume(in_gymnasium):
    one, two = in_gymnasium
    run_state, _ = one.round(one.init(0))
    for _ in range(2):
        after, seen = one.round(copied(run_state))  # the second time, its instances stand elsewhere
        again, seen_again = two.round(copied(run_state))
        jax.tree.map(np.testing.assert_array_equal, after.server.params, again.server.params)
        np.testing.assert_array_equal(seen.metrics["episode_return"], seen_again.metrics["episode_return"])
    np.testing.assert_array_equal(seen.metrics["episodes"], 4.0)
    _, other = one.round(after)
    assert not np.array_equal(other.metrics["episode_return"], seen.metrics["episode_return"])


def test_reinforce_learns_cartpole_through_gymnasium_by_gradients_that_travel(in_gymnasium):
    simulation, lengths = in_gymnasium[0], []
    run_state = simulation.init(0)
    for _ in range(30):
        run_state, seen = simulation.round(run_state)
        lengths.append(seen.metrics["episode_return"].mean() / 4)
    assert np.mean(lengths[:2]) < 40
    assert np.mean(lengths[-3:]) > 2.5 * np.mean(lengths[:2])
