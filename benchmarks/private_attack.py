"""What an attacker reads from one gradient: with a penalty for long gradients in the reward, and with noise.

The first layer of a network computes W x + b, so that the gradients of its weights and biases are d x' and d: their
quotient is the observation x, whatever the size of d. 100 agents send the policy gradient of a single step of CartPole,
and the attacker divides. The error is that of all observations, over their own root mean square: 0 is exact, and an
attacker that answers with zeros has 1.

    plain, penalty (lambda = 0.01, 0.1, 1), clip alone, clip and local noise at epsilon 8 for the agent
"""

from __future__ import annotations

from typing import Any

AGENTS, CLIP = 100, 1.0
PENALTIES = (0.01, 0.1, 1.0)


def errors(seed: int = 1000) -> dict[str, float]:
    """The relative error of the recovered observations, by what protects them."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks.private_poles import HIDDEN, noise_stages
    from fedrl.core.draws import normal
    from fedrl.core.types import LocalContext
    from fedrl.environments import cartpole
    from fedrl.learners import gradient_penalty, mlp, reinforce
    from fedrl.stages.clip import clipped, norm_of

    plain = reinforce(cartpole(), network=mlp(HIDDEN["small"]), episodes_per_step=1, horizon=1, baseline="none")

    def sent(learner: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        for_init, for_rest = jax.random.split(key)
        state = learner.init(for_init, learner.environment.params)
        seen, state, _ = learner.collect(for_rest, state)
        params = learner.params(state)
        slope, _ = learner.gradient(for_rest, state, seen, LocalContext(params, params))
        return slope, seen.observation[0, :, 0]

    keys = jax.random.split(jax.random.key(seed), AGENTS)
    noise = noise_stages("local", 8.0, 1e-3, 1, AGENTS, CLIP)[0].noise
    assert noise is not None
    scale = 2.0 * noise.event.noise_multiplier * CLIP

    def noisy(slope: Any, key: jax.Array) -> Any:
        leaves, tree = jax.tree.flatten(clipped(slope, CLIP, norm_of))
        return jax.tree.unflatten(
            tree, [x + scale * normal(jax.random.fold_in(key, i), x.shape) for i, x in enumerate(leaves)]
        )

    def recovered(slope: Any) -> jax.Array:
        layer = slope["actor"][0]
        at = jnp.abs(layer["bias"]).argmax()
        return layer["weight"][at] / layer["bias"][at]

    def error(learner: Any, change: Any) -> float:
        slopes, truth = jax.vmap(lambda key: sent(learner, key))(keys)
        guess = jax.vmap(lambda slope, key: recovered(change(slope, key)))(slopes, keys)
        return float(np.sqrt(np.square(guess - truth).mean() / np.square(truth).mean()))

    found = {"nothing": error(plain, lambda slope, key: slope)}
    for strength in PENALTIES:
        found[f"penalty {strength:g}"] = error(gradient_penalty(plain, strength), lambda slope, key: slope)
    found["clip"] = error(plain, lambda slope, key: clipped(slope, CLIP, norm_of))
    found["clip and noise, epsilon 8"] = error(plain, noisy)
    return found
