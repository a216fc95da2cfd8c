"""What PPO and A2C do with one trajectory, as a whole: every parameter after `learn` against float64 NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.core.environment import Box, Discrete, Environment, Spaces, draw_nothing, first
from fedrl.core.learner import Learner, Trajectory
from fedrl.core.types import LocalContext
from fedrl.learners import a2c, adam, chain, mlp, ppo, sgd
from tests.support.numpy_actor_critic import ClippedAdam, ClippedSgd, Settings, ratios, samples_of, slope

TIME, INSTANCES, ACTIONS, EPOCHS, MINIBATCHES = 6, 4, 3, 4, 3
SAMPLES = TIME * INSTANCES
NO_HINT = LocalContext((), ())
DISCRETE, CONTINUOUS = Discrete(ACTIONS), Box((2,))
OPTIMIZERS = {
    "sgd": (sgd(0.15, momentum=0.5, max_norm=2.0), lambda: ClippedSgd(0.15, 0.5, 2.0)),
    "adam": (adam(0.05, b1=0.8, b2=0.95, eps=1e-3, max_norm=2.0), lambda: ClippedAdam(0.05, 0.8, 0.95, 1e-3, 2.0)),
}


def states(action: Discrete | Box) -> Environment:
    """An environment whose states are numbers; nothing is gathered in it."""

    def reset(noise, params):
        del noise, params
        return first(jnp.int32(0)), ()

    return Environment((), Spaces(Discrete(2 * SAMPLES), action), draw_nothing, draw_nothing, reset, reset, TIME)


def trajectory(action: Discrete | Box, seed: int = 0) -> Trajectory:
    """Every sample starts in a state of its own; episodes that end, that are cut off, and that go on."""
    rng = np.random.default_rng(seed)
    here = np.arange(SAMPLES, dtype=np.int32).reshape(TIME, INSTANCES)
    terminated, truncated = np.zeros((2, TIME, INSTANCES), bool)
    terminated[[1, 4], [0, 1]] = truncated[[2, 4, 5], [0, 2, 3]] = True
    over = terminated | truncated
    over[-1] = True
    shape = (TIME, INSTANCES)
    actions = rng.integers(ACTIONS, size=shape) if action == DISCRETE else rng.normal(size=(TIME, 2, INSTANCES))
    seen = Trajectory(
        observation=here,
        action=actions.astype(np.int32 if action == DISCRETE else np.float32),
        reward=rng.normal(1.0, 2.0, shape).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        next_observation=np.where(over, here + SAMPLES, np.roll(here, -1, axis=0)).astype(np.int32),
    )
    return jax.tree.map(jnp.asarray, seen)


class Log(NamedTuple):
    count: jax.Array
    slopes: jax.Array


def recorder(steps: int, passes: float = 1.0) -> optax.GradientTransformation:
    """Notes by how much the critic's error moves the weights of each state, `[steps, states]`: only those in the batch.

    The gradient goes on `passes` times.
    """

    def init(params):
        del params
        return Log(jnp.int32(0), jnp.zeros((steps, 2 * SAMPLES)))

    def update(gradient, log, params=None):
        del params
        size = jnp.abs(gradient["critic"][0]["weight"]).sum(0)
        log = Log(log.count + 1, log.slopes.at[log.count].set(size))
        return jax.tree.map(lambda g: passes * g, gradient), log

    return optax.GradientTransformation(init, update)


def log_of(memory: Any) -> np.ndarray:
    (log,) = [x for x in jax.tree.leaves(memory, is_leaf=lambda x: isinstance(x, Log)) if isinstance(x, Log)]
    return np.asarray(log.slopes)


def doubled(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.array(x, np.float64), tree)


def moved_alike(found: Any, expected: Any, before: Any) -> None:
    """Every parameter moved as it should, within a ten-thousandth of the largest movement of its array."""
    for one, two, old in zip(*(jax.tree.leaves(doubled(tree)) for tree in (found, expected, before)), strict=True):
        assert np.abs(two - old).max() > 1e-3
        np.testing.assert_allclose(one - old, two - old, rtol=0, atol=1e-4 * np.abs(two - old).max() + 1e-6)


def settled(learner: Learner, seed: int = 1) -> Any:
    """A state whose networks give each state and action a value and a probability of its own."""
    state = learner.init(jax.random.key(seed), ())
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype), state.params)
    return state._replace(params=params)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("action", [DISCRETE, CONTINUOUS], ids=["softmax", "gaussian"])
def test_ppo_learns_what_its_paper_says(action: Discrete | Box, optimizer: str) -> None:
    settings = Settings(gamma=0.9, gae_lambda=0.8, value_coef=0.7, entropy_coef=0.3, clip=0.1)
    ours, twin = OPTIMIZERS[optimizer][0], OPTIMIZERS[optimizer][1]()
    learner = ppo(
        states(action),
        network=mlp((3,)),
        optimizer=chain(recorder(EPOCHS * MINIBATCHES), ours),
        num_envs=INSTANCES,
        num_steps=TIME,
        num_epochs=EPOCHS,
        num_minibatches=MINIBATCHES,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip=settings.clip,
        value_coef=settings.value_coef,
        entropy_coef=settings.entropy_coef,
    )
    seen, before = trajectory(action), settled(learner)
    after, _ = jax.jit(learner.learn)(jax.random.key(2), before, seen, NO_HINT)

    params = doubled(before.params)
    samples = samples_of(settings, params, seen)
    beyond = 0
    for used in log_of(after.optimizer) > 0:
        batch = samples.of(np.flatnonzero(used))
        assert len(batch.state) == SAMPLES // MINIBATCHES
        beyond += (np.abs(ratios(params, batch) - 1) > settings.clip).sum()
        params = twin.stepped(params, slope(settings, params, batch))
    moved_alike(after.params, params, before.params)
    assert beyond > SAMPLES / 2  # the clip of the ratio had something to do, and that of the gradient
    assert min(twin.norms) < twin.max_norm < 0.8 * max(twin.norms)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("action", [DISCRETE, CONTINUOUS], ids=["softmax", "gaussian"])
def test_a2c_learns_what_its_paper_says(action: Discrete | Box, optimizer: str) -> None:
    settings = Settings(gamma=0.9, gae_lambda=0.8, value_coef=0.7, entropy_coef=0.3)
    ours, twin = OPTIMIZERS[optimizer][0], OPTIMIZERS[optimizer][1]()
    learner = a2c(
        states(action),
        network=mlp((3,)),
        optimizer=ours,
        num_envs=INSTANCES,
        num_steps=TIME,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        value_coef=settings.value_coef,
        entropy_coef=settings.entropy_coef,
    )
    before = after = settled(learner)
    params = doubled(before.params)
    learn = jax.jit(learner.learn)
    for seed in range(4):  # Adam's first step does not tell how long the gradient was
        seen = trajectory(action, seed)
        after, _ = learn(jax.random.key(seed), after, seen, NO_HINT)
        params = twin.stepped(params, slope(settings, params, samples_of(settings, params, seen)))
    moved_alike(after.params, params, before.params)
    assert twin.max_norm < 0.8 * max(twin.norms)


@pytest.mark.parametrize("samples", [SAMPLES, 16], ids=["24 samples", "16 samples"])
def test_every_epoch_of_ppo_deals_all_samples_into_other_minibatches(samples: int) -> None:
    runs, count = 200, 4
    learner = ppo(
        states(DISCRETE),
        network=mlp((2,)),
        optimizer=recorder(EPOCHS * count, passes=0.0),
        num_envs=INSTANCES,
        num_steps=samples // INSTANCES,
        num_epochs=EPOCHS,
        num_minibatches=count,
    )
    seen = jax.tree.map(lambda x: x[: samples // INSTANCES], trajectory(DISCRETE))
    keys = jax.random.split(jax.random.key(3), runs)
    after = jax.jit(jax.vmap(learner.learn, (0, None, None, None)))(keys, settled(learner), seen, NO_HINT)[0]
    used = (np.asarray(after.optimizer.slopes) > 0).reshape(runs, EPOCHS, count, -1)[..., :samples]
    np.testing.assert_array_equal(used.sum(2), 1)  # each sample once in an epoch
    np.testing.assert_array_equal(used.sum(3), samples // count)
    together = np.einsum("rebs,rebt->rest", used.astype(float), used.astype(float))[..., ~np.eye(samples, dtype=bool)]
    chance = (samples / count - 1) / (samples - 1)
    for one in range(EPOCHS):
        for other in range(one):  # who was together in one epoch is together in another by chance only
            again = (together[:, one] * together[:, other]).sum() / together[:, other].sum()
            assert again == pytest.approx(chance, abs=0.25 * chance)
    again = (together[1:] * together[:-1]).sum() / together[:-1].sum()  # nor does an iteration repeat the last one's
    assert again == pytest.approx(chance, abs=0.25 * chance)
