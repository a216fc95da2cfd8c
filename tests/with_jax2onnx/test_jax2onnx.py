"""User-defined networks and learners, exported to ONNX. `make test-jax2onnx` runs these: jax2onnx takes 64 packages."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from fedrl.core.component import component
from fedrl.core.environment import Discrete
from fedrl.core.errors import ConfigError, RunError
from fedrl.environments import acrobot, gridworld, pendulum
from fedrl.learners import ppo
from fedrl.learners.parts.networks import Network, network
from fedrl.runs.export import forms
from fedrl.runs.policy import TrainedPolicy
from fedrl.runs.policy_file import PolicyFacts
from fedrl.runs.spaces import gymnasium_spaces

WIDTH = 32


def weights(key: Any, space: Any, outputs: int) -> Any:
    inputs = space.n if isinstance(space, Discrete) else int(np.prod(space.shape))
    draws = jax.random.split(key, 4)
    sizes = ((WIDTH, inputs), (WIDTH, WIDTH), (outputs, WIDTH))
    return {
        f"w{i}": jax.random.normal(k, s) / np.sqrt(s[1]) for i, (k, s) in enumerate(zip(draws, sizes, strict=False))
    }


def residual(params: Any, x: jax.Array) -> jax.Array:
    """A residual block with a layer normalisation, which no network of fedrl has."""
    hidden = jnp.tanh(params["w0"] @ x)
    hidden = hidden + jax.nn.relu(params["w1"] @ hidden)
    hidden = (hidden - hidden.mean()) / jnp.sqrt(hidden.var() + 1e-5)
    return params["w2"] @ hidden


def embedding(params: Any, x: jax.Array) -> jax.Array:
    return params["w2"] @ jax.nn.gelu(params["w0"][:, x])


@component("network")
def mine(kind: str = "residual") -> Network:
    """A network of one's own."""
    apply: Callable[[Any, Any], jax.Array] = {"residual": residual, "embedding": embedding}[kind]
    return network(lambda key, space, outputs, gain: weights(key, space, outputs), apply)


CASES = {
    "softmax": (acrobot(), "residual"),
    "gaussian": (pendulum(), "residual"),
    "discrete": (gridworld("S..G\n...."), "embedding"),
}


def policy_of(environment: Any, kind: str) -> TrainedPolicy:
    learner = ppo(environment, network=mine(kind))
    params = learner.params(learner.init(jax.random.key(3), environment.params))
    table = {"name": "ppo", "network": {"name": "mine", "kind": kind}}
    facts = PolicyFacts(gymnasium_spaces(environment), table, 1, False, environment.max_steps)
    return TrainedPolicy(*facts.spaces, 1, None, facts, learner, params)


@pytest.mark.parametrize("case", CASES)
def test_the_model_of_a_network_of_ones_own_does_what_the_policy_does(tmp_path, case):
    policy = policy_of(*CASES[case])
    told = policy.export(tmp_path / "policy.onnx")
    assert told.difference <= 1e-6
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    random, space = np.random.default_rng(11), policy.observation_space
    discrete = case == "discrete"
    seen = random.integers(space.n, size=1000) if discrete else random.standard_normal((1000, *space.shape), np.float32)
    expected, ours = policy._outputs(seen), policy.predict(seen)
    for size in (1, 1000):  # the batch is free
        actions, scores = session.run(None, {"observation": seen[:size]})[:2]
        assert np.abs(scores - expected[:size]).max() <= 1e-6 * np.abs(expected).max()
        assert actions.dtype == ours.dtype
        if case == "gaussian":
            assert np.abs(actions - ours[:size]).max() <= 1e-6 * np.abs(expected).max()
        else:
            best = np.sort(expected[:size])
            clear = best[:, -1] - best[:, -2] > 1e-6
            np.testing.assert_array_equal(actions[clear], ours[:size][clear])
    names = [each.name for each in session.get_outputs()]
    assert names == (["action", "mean", "standard_deviation"] if case == "gaussian" else ["action", "probabilities"])
    assert {p.key: p.value for p in onnx.load(tmp_path / "policy.onnx").metadata_props}["seed"] == "1"


def test_a_wrong_model_is_not_written_and_what_can_not_be_converted_is_named(tmp_path, monkeypatch):
    policy = policy_of(*CASES["softmax"])
    write = forms.written_traced

    def wrong(plain: Any, who: Any, scores: Any) -> bytes:
        return write(plain, who, lambda batch: scores(1.01 * batch))

    monkeypatch.setattr(forms, "written_traced", wrong)
    with pytest.raises(RunError, match="The policy for onnx differs"):
        policy.export(tmp_path / "policy.onnx")
    monkeypatch.setattr(forms, "written_traced", write)

    def loud(params: Any, seen: Any) -> jax.Array:
        return jax.pure_callback(np.asarray, jax.ShapeDtypeStruct((3, seen.shape[-1]), jnp.float32), seen[:3])

    opaque = dataclasses.replace(policy, learner=dataclasses.replace(policy.learner, probabilities=loud))
    with pytest.raises(ConfigError, match=r"The network is 'mine'\. jax2onnx can't convert it"):
        opaque.export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_learner_of_ones_own_is_exported_by_its_probabilities(tmp_path):
    policy = policy_of(*CASES["softmax"])
    own = dataclasses.replace(policy, facts=policy.facts._replace(learner={"name": "my_learner"}))
    assert own.export(tmp_path / "policy.onnx").difference <= 1e-6
