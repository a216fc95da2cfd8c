"""What every learner in the catalogue promises."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl.learners
from fedrl.core.component import CATALOGUE, cite
from fedrl.core.environment import Discrete
from fedrl.core.learner import Learner, Trajectory, follows_corrections, iterate, policy_of
from fedrl.core.players import rows_of
from fedrl.core.types import LocalContext
from fedrl.environments import climbing, probe_match, random_mdp
from fedrl.learners import (
    a2c,
    accept_if_better,
    add_correction,
    apfl,
    chain,
    dqn,
    fedprox,
    freeze_except,
    gradient_penalty,
    interpolate,
    mappo,
    measure_exploitability,
    mlp,
    normalize,
    personal,
    ppo,
    q_table,
    reinforce,
    self_play,
    sgd,
    vdn,
    with_embedding,
)
from tests.support.argument_order import misplaced

AGENTS = 2
PULLED = chain(fedprox(1.0), sgd(0.1))


def small(optimizer=PULLED):
    """Every learner, by this optimiser if it has one."""
    options = {"network": mlp((4,)), "optimizer": optimizer}
    by_value = {
        "num_envs": 2,
        "num_steps": 4,
        "num_updates": 2,
        "batch_size": 4,
        "buffer_size": 20,
        "learning_starts": 8,
    }
    wider = {**options, "network": with_embedding(mlp((4,)), size=2)}
    return {
        "ppo": lambda env: ppo(env, num_envs=2, num_steps=4, num_epochs=1, num_minibatches=2, **options),
        "mappo": lambda env: mappo(
            env, critic=mlp((4,)), num_envs=2, num_steps=4, num_epochs=1, num_minibatches=2, **options
        ),
        "a2c": lambda env: a2c(env, num_envs=2, num_steps=4, **options),
        "reinforce": lambda env: reinforce(env, episodes_per_step=2, **options),
        "reinforce, value": lambda env: reinforce(env, baseline="value", episodes_per_step=2, horizon=3, **options),
        "ppo, by episode": lambda env: ppo(
            env, num_envs=2, num_steps=4, num_epochs=1, num_minibatches=2, trajectory_clip=1.0, **options
        ),
        "a2c, by episode": lambda env: a2c(env, num_envs=2, num_steps=4, trajectory_clip=1.0, **options),
        "reinforce, by episode": lambda env: reinforce(
            env, baseline="value", episodes_per_step=2, trajectory_clip=1.0, **options
        ),
        "normalize": lambda env: normalize(a2c(env, num_envs=2, num_steps=4, **options)),
        "personal": lambda env: personal(a2c(env, num_envs=2, num_steps=4, **options), local=["actor"]),
        "interpolate": lambda env: interpolate(a2c(env, num_envs=2, num_steps=4, **options)),
        "apfl": lambda env: apfl(a2c(env, num_envs=2, num_steps=4, **options), rate=0.1),
        "accept_if_better": lambda env: accept_if_better(a2c(env, num_envs=2, num_steps=4, **options), trials=2),
        "freeze_except": lambda env: freeze_except(a2c(env, num_envs=2, num_steps=4, **wider)),
        "gradient_penalty": lambda env: gradient_penalty(a2c(env, num_envs=2, num_steps=4, **options)),
        "self_play": lambda env: self_play(a2c(env, num_envs=2, num_steps=4, **options), pool_size=3),
        "measure_exploitability": lambda env: measure_exploitability(a2c(env, num_envs=2, num_steps=4, **options)),
        "dqn": lambda env: dqn(env, **by_value, **options),
        "vdn": lambda env: vdn(env, **by_value, **options),
        "q_table": lambda env: q_table(env, num_envs=2, num_steps=4, count_visits=True),
        "q_table, synchronous": lambda env: q_table(env, sampling="synchronous", num_steps=2),
        "q_table, expected": lambda env: q_table(env, sampling="expected"),
    }


LEARNERS = small()
OF_WORLDS = ("mappo", "vdn", "self_play", "measure_exploitability")


class Case(NamedTuple):
    """A learner, its compiled iteration over a few agents, and what it made of them."""

    name: str
    learner: Learner
    update: object
    key: jax.Array
    state: object
    context: LocalContext
    after: object
    metrics: dict


def hint_for(learner, state, shift=0.0):
    params = learner.params(state)
    return LocalContext(jax.tree.map(lambda leaf: leaf + shift, params), jax.tree.map(jnp.zeros_like, params))


@pytest.fixture(scope="module", params=LEARNERS)
def case(request):
    env = {"q_table": random_mdp(3, 2), **dict.fromkeys(OF_WORLDS, climbing())}.get(
        request.param.partition(",")[0], probe_match()
    )
    learner = LEARNERS[request.param](env)
    update = jax.jit(jax.vmap(functools.partial(iterate, learner)))
    key = jax.random.split(jax.random.key(0), AGENTS)
    state = jax.jit(jax.vmap(learner.init, (0, None)))(jax.random.split(jax.random.key(1), AGENTS), env.params)
    context = hint_for(learner, state)
    return Case(request.param, learner, update, key, state, context, *update(key, state, context))


def same(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(_plain(a), _plain(b)), one, other)


def policy_of_first(case):
    return policy_of(case.learner, jax.tree.map(lambda leaf: leaf[0], case.after))


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


def _plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def test_every_learner_in_the_catalogue_is_tested_here():
    # Other test files add learners of their own.
    known = {e.name for e in CATALOGUE.values() if e.kind == "learner" and e.build.__module__.startswith("fedrl.")}
    assert known == {name.partition(",")[0] for name in LEARNERS} & set(fedrl.learners.__all__)


def test_an_iteration_changes_parameters_and_keeps_every_shape_type_and_weak_type(case):
    before, after = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), s) for s in (case.state, case.after)
    )
    assert before == after
    assert differ(case.learner.params(case.state), case.learner.params(case.after))


def test_its_functions_take_their_arguments_in_the_one_order(case):
    assert misplaced(case.learner) == []


def test_nothing_is_compiled_after_the_first_iteration(case):
    case.update(case.key, case.after, hint_for(case.learner, case.after))
    assert case.update._cache_size() == 1


def test_an_iteration_is_a_function_of_its_key(case):
    same(case.update(case.key, case.state, case.context)[0], case.after)
    if case.name != "q_table, expected":
        other = jax.vmap(lambda key: jax.random.fold_in(key, 1))(case.key)
        assert differ(case.update(other, case.state, case.context)[0], case.after)


def test_agents_do_not_touch_each_other(case):
    flipped = jax.tree.map(lambda leaf: leaf[::-1], (case.key, case.state, case.context))
    same(jax.tree.map(lambda leaf: leaf[::-1], case.update(*flipped)[0]), case.after)


def test_metrics_are_scalars_that_add_up(case):
    assert {"loss", "episodes", "episode_return"} <= set(case.metrics)
    for value in case.metrics.values():
        assert value.shape == (AGENTS,)
        assert value.dtype == np.float32
        assert np.isfinite(value).all()


def test_parameters_are_finite_float32(case):
    for leaf in jax.tree.leaves(case.learner.params(case.after)):
        assert leaf.dtype == np.float32
        assert np.isfinite(leaf).all()


def test_adopted_parameters_come_back_and_nothing_else_changes_shape(case):
    adopt = jax.vmap(case.learner.adopt)
    given = jax.tree.map(lambda leaf: leaf + 1.0, case.learner.params(case.after))
    adopted = adopt(case.after, given)
    same(case.learner.params(adopted), given)
    assert jax.tree.structure(adopted) == jax.tree.structure(case.after)


def test_local_training_leans_on_the_hint(case):
    far = hint_for(case.learner, case.state, shift=5.0)
    takes_plain_steps = case.name.startswith("q_table")  # it has no optimiser that could read a hint
    assert differ(case.update(case.key, case.state, far)[0], case.after) != takes_plain_steps


@pytest.mark.parametrize("greedy", [True, False])
def test_actions_fit_the_space(case, greedy):
    spaces = case.learner.environment.spaces
    params = policy_of_first(case)
    seen = jnp.zeros((*spaces.observation.shape, 7), spaces.observation.dtype)
    action = jax.eval_shape(lambda k, p, s: case.learner.act(k, p, s, greedy), jax.random.key(0), params, seen)
    assert action.shape == (*spaces.action.shape, 7)
    assert action.dtype == spaces.action.dtype


def test_the_greedy_action_needs_no_luck(case):
    if case.name == "self_play":  # what it has learned is a mixed policy, and it plays that
        return
    if case.name.startswith("q_table"):
        params = {"q": jnp.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])}
        seen = jnp.array([0, 1, 2])
    else:
        params = policy_of_first(case)
        seen = jnp.linspace(-3.0, 3.0, 50)[None]
    one, other = (case.learner.act(jax.random.key(k), params, seen, True) for k in (0, 1))
    same(one, other)


def test_a_stack_of_settings_pools_their_data(case):
    learner = case.learner
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf, leaf]), learner.environment.params)

    def run(key):
        state = learner.init(key, stack)
        return learner.params(state), learner.params(iterate(learner, key, state, hint_for(learner, state))[0])

    before, after = jax.eval_shape(run, jax.random.key(0))
    assert before == after


def test_the_probabilities_of_actions_are_those_with_which_it_acts(case):
    learner, spaces = case.learner, case.learner.environment.spaces
    assert (learner.probabilities is not None) == isinstance(spaces.action, Discrete)
    policy, many = policy_of_first(case), 4000
    seen = jnp.zeros((*spaces.observation.shape, many), spaces.observation.dtype)
    expected = learner.probabilities(policy, seen[..., :1])[:, 0]
    actions = learner.act(jax.random.key(2), policy, seen, False)
    found = np.bincount(actions, minlength=spaces.action.n) / many
    np.testing.assert_allclose(found, expected, atol=4 / (2 * np.sqrt(many)))  # four standard errors at most
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)


def test_an_iteration_counts_its_samples(case):
    learner = case.learner
    assert learner.samples >= 1
    if learner.horizon:
        assert learner.samples == learner.horizon * rows_of(learner.environment, learner.num_envs)


def test_experience_gathered_elsewhere_is_learned_from(case):
    learner, (observation, action) = case.learner, case.learner.environment.spaces
    if not learner.horizon:
        assert learner.num_envs == 0
        return
    time, one = (learner.horizon,), (rows_of(learner.environment, learner.num_envs),)
    shown = jnp.zeros((*time, *observation.shape, *one), observation.dtype)
    done = jnp.zeros((*time, *one), bool)
    seen = Trajectory(shown, jnp.zeros((*time, *action.shape, *one), action.dtype), 1.0 + done, done, done, shown)
    if learner.reads_overview:
        above = jnp.zeros((*time, *learner.environment.overview.space.shape, learner.num_envs))
        seen = seen._replace(overview=above, next_overview=above)
    state, context = jax.tree.map(lambda leaf: leaf[0], (case.state, case.context))
    after, metrics = jax.eval_shape(learner.learn, jax.random.key(0), state, seen, context)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert "loss" in metrics


@pytest.fixture(scope="module")
def halves(case):
    """What was gathered in the first half of an iteration, and what the second half made of it."""
    learner = case.learner

    @jax.vmap
    def both(key, state, context):
        for_collect, for_learn = learner.split_key(key)
        experience, gathered, counts = learner.collect(for_collect, state)
        slope = None if learner.gradient is None else learner.gradient(for_learn, gathered, experience, context)[0]
        after, metrics = learner.learn(for_learn, gathered, experience, context)
        return gathered, counts, slope, after, metrics

    return jax.jit(both)(case.key, case.state, case.context)


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(_plain(a), _plain(b), rtol=1e-5, atol=1e-6), one, other)


def test_an_iteration_is_collecting_and_then_learning(case, halves):
    gathered, counts, _, after, metrics = halves
    close(after, case.after)
    close(metrics | counts, case.metrics)
    assert not set(metrics) & set(counts)
    same(case.learner.params(gathered), case.learner.params(case.state))


def test_a_gradient_is_that_of_the_step_and_its_learner_takes_one_step(case, halves):
    """The rate is 0.1, and nothing pulls: the hint is where the agent stands."""
    _, _, slope, after, _ = halves
    wraps_or_takes_many = case.name in (
        "ppo",
        "ppo, by episode",
        "mappo",
        "dqn",
        "vdn",
        "personal",
        "interpolate",
        "apfl",
        "accept_if_better",
        "freeze_except",
        "normalize",
    )
    assert (slope is None) == (wraps_or_takes_many or case.name.startswith("q_table"))
    if slope is not None:
        before = case.learner.params(case.state)
        close(case.learner.params(after), jax.tree.map(lambda p, g: p - 0.1 * g, before, slope))
        assert differ(slope, jax.tree.map(jnp.zeros_like, slope))


def test_facts_of_a_learner_stand_in_its_record(case):
    learner, wrapper = case.learner, case.name.partition(",")[0]
    assert learner.gamma == 0.99
    assert learner.personalised == (
        (wrapper,) if wrapper in ("personal", "interpolate", "apfl", "accept_if_better", "self_play") else ()
    )
    assert learner.episodic == (wrapper == "reinforce" or case.name.endswith("by episode"))
    assert not follows_corrections(learner)
    if not wrapper.startswith("q_table"):
        assert follows_corrections(small(chain(add_correction(), sgd(0.1)))[case.name](learner.environment))


def test_a_learner_prints_as_its_call_and_cites_its_source(case):
    env = case.learner.environment
    assert repr(case.learner).startswith(case.name.partition(",")[0] + "(")
    assert LEARNERS[case.name](env) == case.learner
    assert repr(env) in repr(case.learner)
    assert "https://" in cite(case.learner)[0]
