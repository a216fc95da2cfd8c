"""Actions of several choices at once, through a whole run: training, evaluation, the policy file and its exports."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl
from fedrl.environments import probe_choices
from fedrl.learners import a2c, mixture, mlp
from tests.support.choices import SPACES, Choosing, flat

LEARNER = {
    "name": "ppo",
    "network": {"name": "mlp", "hidden": [8]},
    "num_envs": 2,
    "num_steps": 8,
    "num_minibatches": 2,
}


def config(environment: Any, **changes: Any) -> dict[str, Any]:
    return {
        "name": "choices",
        "rounds": 1,
        "seeds": 1,
        "baselines": {},
        "environment": environment,
        "learner": LEARNER,
        "federation": {"agents": 2},
        "evaluation": {"episodes": 2},
        **changes,
    }


@pytest.mark.parametrize("kind", SPACES)
def test_gymnasiums_spaces_train_and_their_policies_return_elements(kind: str, tmp_path: Path) -> None:
    table = {"name": "gymnasium", "id": "tests.support.choices:Choosing", "max_steps": 8, "options": {"kind": kind}}
    normalised = {"name": "normalize", "learner": LEARNER}
    fedrl.run(config(table, learner=normalised if kind == "dict" else LEARNER), tmp_path / "run")
    policy = fedrl.load(tmp_path / "run", trust=True)
    assert policy.action_space == SPACES[kind]
    seen = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    for deterministic in (True, False):
        batch = policy.predict(seen, deterministic, seed=0)
        assert np.shape(flat(batch))[0] == 5 * len(flat(policy.predict(seen[0])))
        assert policy.action_space.contains(policy.predict(seen[0], deterministic, seed=0))
    assert np.isfinite(policy.evaluate(episodes=4).returns).all()
    limited = gym.wrappers.TimeLimit(Choosing(kind), 8)
    assert policy.evaluate(limited, episodes=2).lengths.tolist() == [8, 8]
    names: dict[str, Any] = {}
    policy.export(tmp_path / "policy.py")
    exec((tmp_path / "policy.py").read_text(), names)
    assert names["predict"](seen[0]).__class__ is policy.predict(seen[0]).__class__
    assert flat(names["predict"](seen[0])) == pytest.approx(flat(policy.predict(seen[0])), abs=1e-5)
    assert policy.action_space.contains(names["predict"](seen[0], deterministic=False, seed=1))


def test_a_policy_of_a_compiled_environment_is_a_tuple(tmp_path: Path) -> None:
    fedrl.run(config("probe_choices", federation={"agents": 2, "local_steps": 2}), tmp_path / "run")
    policy = fedrl.load(tmp_path / "run")
    match, target = policy.predict(np.float32([1.0]))
    assert match in (0, 1)
    assert target.shape == (1,)
    assert policy.evaluate(episodes=4).returns.shape == (4,)


def test_a_mixture_votes_on_discrete_choices_and_takes_the_mean_of_the_others() -> None:
    each = a2c(probe_choices(), network=mlp(()), num_envs=2, num_steps=2)
    made = [each.params(each.init(jax.random.key(i), each.environment.params)) for i in range(3)]

    def ruled(params: Any, logit: float, mean: float) -> Any:
        actor = {**params["actor"], "network": ({"weight": jnp.zeros((3, 1)), "bias": jnp.array([0.0, logit, mean])},)}
        return {**params, "actor": actor}

    rules = ((1.0, 0.5), (-1.0, 1.0), (1.0, -0.75))
    stack = jax.tree.map(lambda *x: jnp.stack(x), *[ruled(p, *rule) for p, rule in zip(made, rules, strict=True)])
    action = mixture(each).act(jax.random.key(0), stack, jnp.ones((1, 4)), True)
    np.testing.assert_allclose(action, [[1.0] * 4, [0.25] * 4], atol=1e-6)
    sampled = mixture(each).act(jax.random.key(0), stack, jnp.ones((1, 400)), False)
    assert set(np.unique(sampled[0])) == {0.0, 1.0}
