"""What one episode contributes to a gradient is bounded, and noise covers it: step by step against float64 NumPy."""

from types import SimpleNamespace

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrl.aggregators import mean
from fedrl.core import draws
from fedrl.core.environment import Discrete, Environment, Spaces, Timestep, draw_nothing, first
from fedrl.core.errors import ConfigError
from fedrl.core.keys import TurnKeys
from fedrl.core.learner import Trajectory, draws_noise, follows_corrections
from fedrl.core.types import LocalContext
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.learners import (
    a2c,
    accept_if_better,
    add_correction,
    apfl,
    chain,
    mlp,
    normalize,
    personal,
    ppo,
    reinforce,
    sgd,
)
from fedrl.learners.parts.minibatches import shuffled
from fedrl.learners.parts.trajectories import clipped_mean, noisy, norms_of
from fedrl.privacy.pricing import round_price
from tests.support.fresh_noise import check_fresh, check_unrelated
from tests.support.numpy_actor_critic import Settings, samples_of, slope

TIME, EPISODES, ACTIONS, RATE = 6, 4, 3, 0.3
ENDS = {0: (1, "terminated"), 1: (3, "truncated"), 2: (0, "terminated")}
"""When and how the episodes of a trajectory end; the last one goes on."""
NO_NOISE = LocalContext((), ())
SLACK = 1e-6
"""Of float32 sums, relative."""


def states(count: int = 2 * TIME * EPISODES) -> Environment:
    """An environment whose states are numbers, and that stays in the first one without a reward."""

    def reset(noise, params):
        del noise, params
        return first(jnp.int32(0)), ()

    def step(noise, params, state, action):
        del noise, params, action
        return Timestep(jnp.int32(0), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)), state

    return Environment((), Spaces(Discrete(count), Discrete(ACTIONS)), draw_nothing, draw_nothing, reset, step, TIME)


def trajectory(reward_scale: float = 1.0, seed: int = 0) -> Trajectory:
    """Episodes of several lengths; what comes after their first end is noise, and ends again."""
    rng, shape = np.random.default_rng(seed), (TIME, EPISODES)
    here = np.arange(TIME * EPISODES, dtype=np.int32).reshape(shape)
    done = {name: np.zeros(shape, bool) for name in ("terminated", "truncated")}
    for i, (at, how) in ENDS.items():
        done[how][at, i] = done["terminated"][-1, i] = True
    seen = Trajectory(
        observation=here,
        action=rng.integers(ACTIONS, size=shape).astype(np.int32),
        reward=(reward_scale * rng.normal(1.0, 2.0, shape)).astype(np.float32),
        **done,
        next_observation=here + TIME * EPISODES,
    )
    return jax.tree.map(jnp.asarray, seen)


def alone(seen: Trajectory, i: int) -> SimpleNamespace:
    """The episode of one copy, cut after its end, as NumPy arrays `[length, 1]`."""
    length = 1 + ENDS[i][0] if i in ENDS else TIME
    return SimpleNamespace(
        **{name: np.asarray(x)[:length, i : i + 1] for name, x in seen._asdict().items() if x is not None}
    )


def scaled(gradient, clip: float):
    """A gradient of float64, scaled down to this norm if it is longer."""
    norm = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) * min(1.0, clip / norm), gradient), norm


def wide(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def close(found, expected, rtol=2e-4, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


def actor_critic(build, clip, **options):
    small = {"network": mlp((3,)), "optimizer": sgd(RATE), "gamma": 0.8, "gae_lambda": 0.7, "entropy_coef": 0.02}
    return build(states(), num_envs=EPISODES, num_steps=TIME, trajectory_clip=clip, **small, **options)


def twin(found: Settings, params, clip, seen, evaluated=None):
    """The clipped gradient of each episode and its norm, one by one in float64."""
    each, norms = [], []
    for i in range(EPISODES):
        episode = alone(seen, i)
        samples = samples_of(found, wide(evaluated or params), episode)
        whole = slope(found, wide(params), samples)
        # Its loss is the sum over its steps, divided by the number that is the same for all.
        own = jax.tree.map(lambda g, length=len(episode.reward): g * length / TIME, whole)
        small, norm = scaled(own, clip)
        each.append(small)
        norms.append(norm)
    return each, np.array(norms)


# --- the clip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.05, 0.5, 1e3])
def test_a2c_sends_the_mean_of_the_clipped_gradients_of_its_episodes(clip):
    learner, seen = actor_critic(a2c, clip), trajectory()
    state = learner.init(jax.random.key(1), learner.environment.params)
    found, metrics = jax.jit(learner.gradient)(jax.random.key(0), state, seen, NO_NOISE)
    each, norms = twin(Settings(0.8, 0.7, 0.5, 0.02), state.params, clip, seen)
    close(found, jax.tree.map(lambda *leaves: sum(leaves) / EPISODES, *each))
    assert float(metrics["trajectories_clipped"]) == (norms > clip).mean()
    np.testing.assert_allclose(metrics["trajectory_norm_median"], np.median(norms), rtol=1e-4)
    np.testing.assert_allclose(metrics["trajectory_norm_p90"], np.quantile(norms, 0.9), rtol=1e-4)


@pytest.mark.parametrize("baseline", ["none", "value"])
@pytest.mark.parametrize("clip", [5.0, 1e3])
def test_reinforce_sends_the_mean_of_the_clipped_gradients_of_its_episodes(baseline, clip):
    options = {"network": mlp((3,)), "optimizer": sgd(RATE), "gamma": 0.8, "baseline": baseline}
    seen = trajectory()
    learner = reinforce(states(), episodes_per_step=EPISODES, trajectory_clip=clip, **options)
    single = reinforce(states(), episodes_per_step=1, **options)
    state = learner.init(jax.random.key(1), learner.environment.params)
    found, metrics = jax.jit(learner.gradient)(jax.random.key(0), state, seen, NO_NOISE)
    each, norms, of_one = [], [], jax.jit(single.gradient)
    for i in range(EPISODES):
        one = jax.tree.map(lambda x, i=i: x[..., i : i + 1], seen)
        small, norm = scaled(of_one(jax.random.key(0), state, one, NO_NOISE)[0], clip)
        each.append(small)
        norms.append(norm)
    close(found, jax.tree.map(lambda *leaves: sum(leaves) / EPISODES, *each))
    assert float(metrics["trajectories_clipped"]) == (np.array(norms) > clip).mean()
    assert 0 < (np.array(norms) > 5.0).mean() < 1


@pytest.mark.parametrize("clip", [0.05, 1e3])
def test_ppo_deals_whole_episodes_and_steps_by_the_mean_of_their_clipped_gradients(clip):
    epochs, minibatches, key = 2, 2, jax.random.key(3)
    learner = actor_critic(ppo, clip, num_epochs=epochs, num_minibatches=minibatches)
    seen, state = trajectory(), learner.init(jax.random.key(1), learner.environment.params)
    after, _ = jax.jit(learner.learn)(key, state, seen, NO_NOISE)
    params = wide(state.params)
    for k in jax.random.split(key, epochs):
        for dealt in np.asarray(shuffled(k, EPISODES)).reshape(minibatches, -1):
            own = Settings(0.8, 0.7, 0.5, 0.02, 0.2, normalises=False)
            each, _ = twin(own, params, clip, seen, evaluated=state.params)
            step = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(each[i] for i in dealt))
            params = jax.tree.map(lambda p, g: p - RATE * g, params, step)
    close(after.params, params, rtol=2e-3, atol=2e-5)


def no_clip(loss, params, episodes, clip):
    slopes = jax.vmap(jax.grad(loss), (None, 0))(params, episodes)
    return jax.tree.map(lambda x: x.mean(0), slopes), {}


def clip_of_each_array(loss, params, episodes, clip):
    slopes = jax.vmap(jax.grad(loss), (None, 0))(params, episodes)
    factor = [jnp.minimum(1.0, clip / norms_of((x,))) for x in jax.tree.leaves(slopes)]
    leaves = [jnp.tensordot(f, x, 1) / len(f) for f, x in zip(factor, jax.tree.leaves(slopes), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(slopes), leaves), {}


def divisor_of_those_that_count(loss, params, episodes, clip):
    found, metrics = clipped_mean(loss, params, episodes, clip)
    rows = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(episodes)]
    counting = sum(jnp.abs(row).max(1) for row in rows) > 0
    return jax.tree.map(lambda x: x * len(counting) / jnp.maximum(counting.sum(), 1), found), metrics


def twice_the_clip(loss, params, episodes, clip):
    return clipped_mean(loss, params, episodes, 2.0 * clip)


def inner(params, episode):
    """A loss whose gradient is the episode itself."""
    return sum((p * e).sum() for p, e in zip(jax.tree.leaves(params), jax.tree.leaves(episode), strict=True))


def moved_by_one(function, rows, gone: int, clip: float) -> float:
    """By how much the removal of one of these gradients moves the mean, in units of C / n."""
    tree = {"actor": jnp.asarray(rows[:, :5].reshape(-1, 5)), "critic": (jnp.asarray(rows[:, 5:]),)}
    less = jax.tree.map(lambda x: x.at[gone].set(0.0), tree)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape[1:]), tree)
    run = COMPILED.setdefault(function, jax.jit(function, static_argnums=0))
    apart = [run(inner, zero, each, clip)[0] for each in (tree, less)]
    leaves = zip(*(jax.tree.leaves(each) for each in apart), strict=True)
    distance = np.sqrt(sum((np.float64(a) - np.float64(b)).__pow__(2).sum() for a, b in leaves))
    return float(distance * len(rows) / clip)


COMPILED: dict = {}
SIZES = st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6, 1e19, 1e30])
GRADIENTS = st.lists(st.tuples(SIZES, st.integers(0, 2**16)), min_size=5, max_size=5)


def rows_of(drawn) -> np.ndarray:
    return np.stack([size * np.random.default_rng(seed).normal(size=12) for size, seed in drawn]).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(GRADIENTS, st.integers(0, 4), st.sampled_from([1e-2, 1.0, 30.0]))
def test_the_removal_of_an_episode_moves_the_gradient_by_at_most_its_share(drawn, gone, clip):
    rows = rows_of(drawn)
    assert moved_by_one(clipped_mean, rows, gone, clip) <= 1.0 + len(rows) * SLACK


@pytest.mark.parametrize("fault", [no_clip, clip_of_each_array, divisor_of_those_that_count, twice_the_clip])
def test_the_bound_rejects(fault):
    # Against the others, so that a divisor that counts would show.
    rows = rows_of([(1e6, 1)] * 4) * np.float32([[1.0], [-1.0], [-1.0], [-1.0]])
    assert moved_by_one(clipped_mean, rows, 0, 1.0) <= 1.0 + len(rows) * SLACK
    assert moved_by_one(fault, rows, 0, 1.0) > 1.01


@pytest.mark.parametrize("size", [64, 4096, 300_000])
def test_rounding_of_a_long_norm_does_not_pass_the_clip(size):
    rng = np.random.default_rng(size)
    rows = np.concatenate([10.0 * rng.normal(size=(4, size)), np.full((1, size), 0.3), rng.exponential(size=(3, size))])
    for row in rows.astype(np.float32):
        found, _ = clipped_mean(inner, (jnp.zeros(size),), (jnp.asarray(row)[None],), 1.0)
        norm = np.sqrt((np.asarray(found[0], np.float64) ** 2).sum())
        assert 1.0 - 4e-6 < norm <= 1.0


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
@pytest.mark.parametrize("build", [a2c, reinforce])
def test_an_episode_that_is_not_finite_makes_the_whole_gradient_nan(build, wrong):
    if build is a2c:
        learner = actor_critic(a2c, 1.0)
    else:
        learner = reinforce(
            states(), network=mlp((3,)), baseline="value", episodes_per_step=EPISODES, trajectory_clip=1.0
        )
    state, seen, of = (
        learner.init(jax.random.key(1), learner.environment.params),
        trajectory(),
        jax.jit(learner.gradient),
    )
    found, _ = of(jax.random.key(0), state, seen._replace(reward=seen.reward.at[1, 1].set(wrong)), NO_NOISE)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))
    # After the end of the episode it means nothing.
    found, _ = of(jax.random.key(0), state, seen._replace(reward=seen.reward.at[4, 1].set(wrong)), NO_NOISE)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("build", [a2c, ppo, reinforce])
def test_one_episode_of_huge_rewards_moves_the_parameters_by_at_most_its_share(build):
    """Replaced, as an episode is there in either case: twice C / n, in one step of gradient descent."""
    clip = 0.5
    if build is reinforce:
        learner = reinforce(
            states(), network=mlp((3,)), optimizer=sgd(RATE), baseline="value", episodes_per_step=EPISODES,
            trajectory_clip=clip,
        )  # fmt: skip
    else:
        once = {"num_epochs": 1, "num_minibatches": 1} if build is ppo else {}
        learner = actor_critic(build, clip, **once)
    state, seen, learn = (
        learner.init(jax.random.key(1), learner.environment.params),
        trajectory(),
        jax.jit(learner.learn),
    )
    for i in range(EPISODES):
        other = seen._replace(reward=seen.reward.at[:, i].set(1e6), action=(seen.action.at[:, i].add(1)) % ACTIONS)
        one, two = (learn(jax.random.key(0), state, each, NO_NOISE)[0].params for each in (seen, other))
        leaves = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
        distance = np.sqrt(sum(np.square(np.float64(a) - np.float64(b)).sum() for a, b in leaves))
        assert 0 < distance <= 2 * RATE * learner.clips_trajectories * (1 + 1e-4)


# --- noise -----------------------------------------------------------------------------------------------------------

Z, CLIP, BIG = 200.0, 0.01, (32,)
"""So much noise, and so tight a clip, that the gradient itself is nothing beside the noise."""


def with_noise(name: str, **options):
    env, common = states(48), {"network": mlp(BIG), "optimizer": sgd(1.0), "trajectory_clip": CLIP}
    common |= {"noise_multiplier": Z, **options}
    if name == "reinforce":
        return reinforce(env, baseline="none", episodes_per_step=4, horizon=4, **common)
    if name == "a2c":
        return a2c(env, num_envs=4, num_steps=4, **common)
    return ppo(env, num_envs=4, num_steps=4, num_epochs=3, num_minibatches=2, **common)


STEPS = {"reinforce": 1, "a2c": 1, "ppo": 6}
IN_EACH = {"reinforce": 4, "a2c": 4, "ppo": 2}


def changes(learner, rounds: int = 2, agents: int = 2, payload: str = "delta", local_steps: int = 1) -> np.ndarray:
    """The updates of agents that start from the same parameters, with own secrets: `[rounds, agents, size]`."""
    federation = federate(learner, mean("uniform"), payload=payload, local_steps=local_steps)

    def one(secret, training):
        server = federation.init_server(jax.random.key(0))
        agent = federation.init_agent(
            jax.random.key(0), jnp.int32(0), learner.environment.params, jnp.int32(local_steps)
        )
        keys = TurnKeys(training, jax.random.key(1), jax.random.key(2), secret)
        update, _, _ = federation.agent(keys, federation.broadcast(server), agent, jnp.int32(1))
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(update.value)])

    secrets = jax.random.split(jax.random.key(7), (rounds, agents))
    same = jax.random.key(9)  # all parties can derive it: nothing of the noise may follow from it
    return np.asarray(jax.jit(jax.vmap(jax.vmap(one, (0, None)), (0, None)))(secrets, same))


@pytest.mark.parametrize(("name", "payload"), [("reinforce", "delta"), ("a2c", "gradient"), ("ppo", "delta")])
def test_noise_is_as_wide_as_it_should_be_and_fresh_for_each_round_and_agent(name, payload):
    found = changes(with_noise(name), rounds=2, agents=2, payload=payload)
    deviation = Z * CLIP / IN_EACH[name] * np.sqrt(STEPS[name])
    assert abs(found.std() / deviation - 1) < 0.05
    rows = found.reshape(4, -1)
    close_to = np.corrcoef(rows)[np.triu_indices(4, 1)]
    assert np.abs(close_to).max() < 0.08
    check_unrelated(rows.T / deviation)
    assert not 0.95 < (found / 2).std() / deviation < 1.05  # a scale of half would be seen


@pytest.mark.parametrize(("name", "local_steps"), [("a2c", 4), ("ppo", 2), ("reinforce", 4)])
def test_every_step_has_noise_of_its_own(name, local_steps):
    """So that variances add up; with one key for all steps, the noise would add up."""
    found = changes(with_noise(name), rounds=1, agents=1, local_steps=local_steps)
    steps = local_steps * STEPS[name]
    deviation = Z * CLIP / IN_EACH[name] * np.sqrt(steps)
    assert abs(found.std() / deviation - 1) < 0.05


def test_the_same_key_in_every_step_would_be_seen(monkeypatch):
    honest = draws.normal
    monkeypatch.setattr(draws, "normal", lambda key, shape: honest(jax.random.key(5), shape))
    found = changes(with_noise("ppo"), rounds=1, agents=2)
    deviation = Z * CLIP / IN_EACH["ppo"] * np.sqrt(STEPS["ppo"])
    assert found.std() / deviation > 1.5
    assert np.corrcoef(found[0])[0, 1] > 0.9


def test_noise_covers_every_entry_of_every_array():
    tree = {"a": jnp.zeros((30, 40)), "b": (jnp.zeros(50), jnp.zeros(()))}
    found = noisy(jax.random.key(0), tree, 2.0)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, tree)
    drawn = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
    check_fresh(drawn[:1200].reshape(-1, 2), 2.0)
    assert len(np.unique(drawn)) == drawn.size


def test_the_noise_does_not_depend_on_the_data_and_comes_after_the_clip():
    learner, bare = actor_critic(a2c, 0.5, noise_multiplier=2.0), actor_critic(a2c, 0.5)
    state, key = learner.init(jax.random.key(1), learner.environment.params), jax.random.key(4)
    apart, of, bare_of = [], jax.jit(learner.gradient), jax.jit(bare.gradient)
    for seen in (trajectory(), trajectory(1e6, seed=3)):
        loud, _ = of(jax.random.key(0), state, seen, LocalContext((), (), key))
        quiet, _ = bare_of(jax.random.key(0), state, seen, NO_NOISE)
        apart.append(jax.tree.map(jnp.subtract, loud, quiet))
    close(*apart, rtol=1e-4, atol=1e-6)


def test_without_a_key_no_noise_is_left_out_in_silence():
    learner = actor_critic(a2c, 0.5, noise_multiplier=2.0)
    state = learner.init(jax.random.key(1), learner.environment.params)
    with pytest.raises(ConfigError, match=r"noise_multiplier is 2.0 and the local context has no key"):
        learner.gradient(jax.random.key(0), state, trajectory(), NO_NOISE)


# --- facts -----------------------------------------------------------------------------------------------------------


def test_the_price_is_that_of_the_steps_in_which_an_episode_takes_part():
    for name in ("reinforce", "a2c"):
        learner = with_noise(name)
        assert learner.noise.event == dp_accounting.GaussianDpEvent(Z)
        assert learner.clips_trajectories == learner.noise.clip == CLIP / 4
    learner = with_noise("ppo")
    assert learner.noise.event == dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(Z), 3)
    assert learner.clips_trajectories == learner.noise.clip == CLIP / 2
    assert (learner.noise.at, learner.noise.unit, learner.noise.relation) == ("agent", "trajectory", "add-remove")
    assert with_noise("a2c", noise_multiplier=0.0).noise is None
    plain = a2c(cartpole())
    assert (plain.noise, plain.clips_trajectories, plain.episodic) == (None, None, False)


def test_an_accountant_prices_an_iteration_and_a_run_at_that():
    noise = with_noise("ppo", noise_multiplier=2.0).noise
    accountant, once = dp_accounting.rdp.RdpAccountant(), dp_accounting.rdp.RdpAccountant()
    accountant.compose(noise.event)
    once.compose(dp_accounting.GaussianDpEvent(2.0), 3)
    assert accountant.get_epsilon(1e-5) == pytest.approx(once.get_epsilon(1e-5))
    price = round_price(noise, None, (3,))
    assert price.epsilon(0, 1, 1e-5) == price.epsilon(0, 100, 1e-5) < accountant.get_epsilon(1e-5)
    assert round_price(noise, None, (3,), episodes_per_person=2).epsilon(0, 1, 1e-5) > price.epsilon(0, 1, 1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_an_iteration_plays_one_whole_episode_in_each_copy(name):
    options = {"network": mlp((3,)), "trajectory_clip": 1.0}
    copies = (
        {"episodes_per_step": 4, "horizon": 4, "baseline": "none"}
        if name == "reinforce"
        else {"num_envs": 4, "num_steps": 4}
    )
    learner = {"reinforce": reinforce, "a2c": a2c, "ppo": ppo}[name](cartpole(), **options, **copies)
    assert learner.episodic
    state = learner.init(jax.random.key(0), learner.environment.params)
    seen, after, counts = jax.jit(learner.collect)(jax.random.key(1), state)
    assert counts["episodes"] == 4
    assert np.abs(seen.observation[0]).max() <= 0.05  # where episodes of CartPole begin
    seen, _, _ = jax.jit(learner.collect)(jax.random.key(2), after)
    assert np.abs(seen.observation[0]).max() <= 0.05
    assert learner.samples == 4 * learner.horizon


def test_a_horizon_ends_with_the_environment():
    learner = a2c(cartpole(), num_envs=2, num_steps=10_000, trajectory_clip=1.0)
    assert learner.horizon == cartpole().max_steps
    assert learner.samples == 2 * learner.horizon


def test_the_trace_sees_the_noise_and_corrections():
    learner = actor_critic(a2c, 0.5, noise_multiplier=2.0)
    assert draws_noise(learner)
    assert not draws_noise(actor_critic(a2c, 0.5))
    assert not follows_corrections(learner)
    corrected = a2c(
        states(), network=mlp((3,)), optimizer=chain(add_correction(), sgd(RATE)), num_envs=2, num_steps=2,
        trajectory_clip=1.0, noise_multiplier=1.0,
    )  # fmt: skip
    assert follows_corrections(corrected)
    assert draws_noise(corrected)


def test_both_models_of_apfl_have_noise_of_their_own():
    learner = apfl(with_noise("a2c"), share=1.0)
    state = learner.init(jax.random.key(0), learner.environment.params)
    seen, state, _ = jax.jit(learner.collect)(jax.random.key(1), state)
    params = learner.params(state)
    context = LocalContext(params, jax.tree.map(jnp.zeros_like, params), jax.random.key(2))
    after, _ = jax.jit(learner.learn)(jax.random.key(3), state, seen, context)
    moved = []
    for now, before in ((after.global_state.params, params), (after.private, state.private)):
        moved.append(
            np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (now, before)), strict=True)])
        )
    assert abs(np.corrcoef(moved)[0, 1]) < 0.08
    np.testing.assert_allclose([x.std() for x in moved], Z * CLIP / 4, rtol=0.05)


# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "noise without a clip": (
        lambda: a2c(cartpole(), noise_multiplier=1.0),
        r"noise_multiplier is 1.0 and trajectory_clip is not set\..*Set trajectory_clip",
    ),
    "a baseline of other episodes": (
        lambda: reinforce(cartpole(), trajectory_clip=1.0),
        r"baseline is 'mean' and trajectory_clip is 1.0\..*baseline = 'value' or 'none'",
    ),
    "a minibatch with parts of episodes": (
        lambda: ppo(cartpole(), num_envs=6, num_minibatches=4, trajectory_clip=1.0),
        r"num_minibatches is 4, which does not divide num_envs = 6.*Choose a divisor of num_envs",
    ),
    "moments of all episodes": (
        lambda: normalize(a2c(cartpole(), trajectory_clip=1.0)),
        r"a2c\(.*\) bounds each episode's contribution, and normalize scales its inputs by moments",
    ),
    "trials in further episodes": (
        lambda: accept_if_better(a2c(cartpole(), trajectory_clip=1.0, noise_multiplier=1.0)),
        r"a2c\(.*\) bounds each episode's contribution, and accept_if_better decides",
    ),
    "a critic that nothing covers": (
        lambda: personal(a2c(cartpole(), trajectory_clip=1.0), local=["critic"]),
        r"a2c\(.*\) bounds each episode's contribution, and personal trains local parts.*noise_multiplier",
    ),
    "a clip of zero": (lambda: a2c(cartpole(), trajectory_clip=0.0), r"trajectory_clip is 0.0"),
    "negative noise": (
        lambda: ppo(cartpole(), trajectory_clip=1.0, noise_multiplier=-1.0),
        r"noise_multiplier is -1.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_break_the_bound_is_refused_when_it_is_built(case):
    build, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        build()


def test_a_local_critic_is_covered_by_noise_in_each_step():
    learner = personal(with_noise("a2c"), local=["critic"])
    assert learner.noise is not None
    assert federate(learner, mean()).learner is learner


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    import fedrl.learners.parts.trajectories as part

    monkeypatch.setattr(part.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"dp_accounting, which is not installed. Run pip install 'fedrl\[privacy\]'"):
        a2c(cartpole(), trajectory_clip=1.0, noise_multiplier=1.0)
    a2c(cartpole(), trajectory_clip=1.0)


def test_hyperparameters_of_the_clip_are_inputs_of_one_program():
    from fedrl.core.hyperparameters import numbers_of, with_numbers

    learner = actor_critic(a2c, 0.5, noise_multiplier=2.0)
    numbers = numbers_of(learner)
    assert {0.5, 2.0} <= set(numbers)
    state, seen = learner.init(jax.random.key(1), learner.environment.params), trajectory()

    @jax.jit
    def by(numbers):
        built = with_numbers(learner, list(numbers))
        return built.gradient(jax.random.key(0), state, seen, LocalContext((), (), jax.random.key(4)))[0]

    direct = jax.jit(learner.gradient)(jax.random.key(0), state, seen, LocalContext((), (), jax.random.key(4)))
    close(by(tuple(jnp.float32(x) for x in numbers)), direct[0], rtol=1e-5, atol=1e-6)


def test_an_agent_whose_episode_is_not_finite_sends_nothing():
    env = cartpole()
    learner = a2c(env, network=mlp((3,)), num_envs=2, num_steps=4, trajectory_clip=1.0, noise_multiplier=1.0)
    federation = federate(learner, mean("uniform"), server_optimizer=optax.sgd(1.0))
    broken = jax.tree.map(lambda x: jnp.full_like(jnp.asarray(x), jnp.nan), env.params)

    def one(params):
        server = federation.init_server(jax.random.key(0))
        agent = federation.init_agent(jax.random.key(0), jnp.int32(0), params, jnp.int32(1))
        keys = TurnKeys(*jax.random.split(jax.random.key(2), 4))
        update, after, _ = federation.agent(keys, federation.broadcast(server), agent, jnp.int32(1))
        return update.weight, after.learner.params, agent.learner.params

    weight, after, before = jax.jit(one)(broken)
    assert np.isnan(weight)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert np.isfinite(jax.jit(one)(env.params)[0])
