"""The standard work of `benchmarks.workload`, set up for the contestant of `benchmarks.peers` that is the argument."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import fedrl.launch
from benchmarks.throughput import AGENTS, ROUNDS, peer
from benchmarks.turns import Introduction, serve
from fedrl.core.processors import cores

INSTANCES, STEPS = 8, 128
SAMPLES = INSTANCES * STEPS
EPISODES = 20
WARM_UP = 3
"""Turns that do not count: they compile, and are long enough for every contestant to have learnt something."""


class Setup(NamedTuple):
    """What is timed, how many steps it takes, what the policy earns now (mean return), and which versions matter."""

    work: Callable[[], object]
    steps: int
    mean_return: Callable[[], float]
    libraries: tuple[str, ...]


def ours() -> Setup:
    fedrl.launch.configure_jax()
    from benchmarks.workload import alike, federation_of, standard
    from fedrl.runs.evaluate import greedy_returns

    running, (federation, environment) = federation_of(AGENTS, ROUNDS), standard()

    def mean_return() -> float:
        params = running.run_state.server.params
        return float(greedy_returns(federation.learner, alike(environment, 1), params, EPISODES, seed=0).mean())

    return Setup(running, ROUNDS * AGENTS * SAMPLES, mean_return, ("jaxlib",))


def stable_baselines3() -> Setup:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    learner: Any = peer()

    def mean_return() -> float:
        return float(evaluate_policy(learner, make_vec_env("CartPole-v1"), EPISODES, deterministic=False)[0])

    return Setup(lambda: learner.learn(8 * SAMPLES), 8 * SAMPLES, mean_return, ("stable_baselines3", "torch"))


def rejax(devices: int) -> Setup:
    """Ten agents of rejax's PPO, vmapped, spread over the devices, averaged every round, all rounds in one program.

    Optimisers keep their memory when parameters are averaged, as ours do.
    """
    fedrl.launch.configure_jax(devices)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    algorithm = rejax_ppo()
    mesh, spread = Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec("devices")

    def mean(leaf: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jax.lax.pmean(leaf.mean(0), "devices"), leaf.shape)

    def one_round(state: Any, _: None) -> tuple[Any, None]:
        state = jax.vmap(algorithm.train_iteration)(state)
        actor, critic = jax.tree.map(mean, (state.actor_ts.params, state.critic_ts.params))
        actor, critic = state.actor_ts.replace(params=actor), state.critic_ts.replace(params=critic)
        return state.replace(actor_ts=actor, critic_ts=critic), None

    def rounds(state: Any) -> Any:
        return jax.lax.scan(one_round, state, None, ROUNDS)[0]

    mapped = jax.shard_map(rounds, mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)
    program = jax.jit(mapped, donate_argnums=0)
    states = jax.jit(jax.vmap(algorithm.init_state))(jax.random.split(jax.random.PRNGKey(0), AGENTS))
    now = [jax.device_put(states, NamedSharding(mesh, spread))]

    def work() -> None:
        now[0] = jax.block_until_ready(program(now[0]))

    def mean_return() -> float:
        first = jax.tree.map(lambda leaf: leaf[0], jax.device_get(now[0]))
        return float(algorithm.eval_callback(algorithm, first, jax.random.PRNGKey(1))[1].mean())

    return Setup(work, ROUNDS * AGENTS * SAMPLES, mean_return, ("rejax", "gymnax", "jaxlib"))


def rejax_ppo() -> Any:
    """Its PPO with the settings of the standard work."""
    from rejax import PPO

    return PPO.create(
        env="CartPole-v1",
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
        num_envs=INSTANCES,
        num_steps=STEPS,
        num_epochs=4,
        num_minibatches=4,
        learning_rate=2.5e-3,
        max_grad_norm=0.5,
        gamma=0.99,
        gae_lambda=0.95,
        clip_eps=0.2,
        vf_coef=0.5,
        ent_coef=0.0,
    )


def most_devices() -> int:
    """One per core, but no more than the agents fill evenly."""
    return max(count for count in range(1, cores() + 1) if AGENTS % count == 0)


SETUPS: dict[str, Callable[[], Setup]] = {
    "fedrl": ours,
    "rejax": lambda: rejax(most_devices()),
    "rejax-vmap": lambda: rejax(1),
    "stable-baselines3": stable_baselines3,
}


def main() -> None:
    setup = SETUPS[sys.argv[1]]()
    before = setup.mean_return()
    for _ in range(WARM_UP):
        setup.work()
    versions = ", ".join(f"{library} {version(library)}" for library in setup.libraries)
    serve(Introduction(versions, before, setup.mean_return()), setup.work, setup.steps)


if __name__ == "__main__":
    main()
