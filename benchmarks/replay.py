"""What a ring of experience costs a round: a large one against a small one, in compiled programs and on the host.

Five agents of 16 local steps; a ring holds 100,000 rows of 8 floats, or 1,000. What differs is what the engines do with
the rows that nobody writes: nothing, if they copy and select no more than a round overwrites.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import fedrl.launch
from benchmarks.measure import Figure, emit, seconds

if TYPE_CHECKING:
    import jax

    from fedrl.core.environment import AnyEnvironment
    from fedrl.core.learner import Learner
    from fedrl.core.replay import Replay
    from fedrl.core.types import PyTree

AGENTS, LOCAL_STEPS, ROUNDS, PAIRS = 5, 16, 10, 9
LARGE, SMALL, ROW = 100_000, 1_000, 8


class ReplayingState(NamedTuple):
    """A linear model of rewards, and what it learns from."""

    params: dict[str, jax.Array]
    ring: Replay
    position: PyTree
    env_params: PyTree


def replaying(environment: AnyEnvironment, capacity: int, instances: int = 4, steps: int = 4) -> Learner:
    """Regression of the reward on what CartPole shows, by samples of a ring; it acts at random."""
    import jax
    import jax.numpy as jnp

    from fedrl.core.learner import Experience, Learner, Trajectory
    from fedrl.core.replay import append, empty, sample
    from fedrl.core.types import Key, LocalContext, Metrics, Params
    from fedrl.learners.parts.rollout import Sampler, start
    from fedrl.learners.parts.rollout import collect as roll_out

    def draw(key: Key, batch: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, batch)

    sampler = Sampler(draw, lambda noise, seen: (noise < 0.5).astype(jnp.int32))

    def init(key: Key, env_params: PyTree) -> ReplayingState:
        params = {"w": jnp.zeros(ROW)}
        ring = empty(jnp.zeros(ROW), capacity)
        return ReplayingState(params, ring, start(key, environment, env_params, instances), env_params)

    def collect(key: Key, state: ReplayingState) -> tuple[Experience, ReplayingState, Metrics]:
        seen, position, counts = roll_out(key, environment, state.env_params, sampler, steps, state.position)
        return seen, state._replace(position=position), counts

    def learn(
        key: Key, state: ReplayingState, seen: Trajectory, context: LocalContext
    ) -> tuple[ReplayingState, Metrics]:
        columns = (seen.action[:, None], seen.reward[:, None], seen.terminated[:, None], seen.truncated[:, None])
        rows = jnp.concatenate([seen.observation, *(x.astype(jnp.float32) for x in columns)], axis=1)
        ring = append(state.ring, jnp.moveaxis(rows, 1, 2).reshape(-1, ROW))
        batch = sample(key, ring, 64)

        def loss(w: jax.Array) -> jax.Array:
            return jnp.square(batch @ w - batch[:, 5]).mean()

        cost, slope = jax.value_and_grad(loss)(state.params["w"])
        return state._replace(params={"w": state.params["w"] - 0.1 * slope}, ring=ring), {"loss": cost}

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool) -> jax.Array:
        return sampler.choose(draw(key, observation.shape[-1:]), observation)

    return Learner(
        init=init,
        collect=collect,
        learn=learn,
        act=act,
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=environment,
        samples=instances * steps,
        horizon=steps,
        num_envs=instances,
    )


def rounds_of(environment: AnyEnvironment, capacity: int) -> Callable[[], None]:
    """Some rounds of five agents with rings of that capacity."""
    import jax
    import numpy as np

    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.federation.federate import federate

    federation = federate(replaying(environment, capacity), mean(), local_steps=LOCAL_STEPS)
    fleet = jax.tree.map(lambda leaf: np.broadcast_to(leaf, AGENTS), environment.params)
    simulation = simulate(federation, fleet, block=AGENTS, devices=jax.devices()[:1])
    run_state = simulation.init(0)

    def run() -> None:
        nonlocal run_state
        for _ in range(ROUNDS):
            run_state, _ = simulation.round(run_state)
        jax.block_until_ready(run_state.blocks)

    return run


def main() -> None:
    fedrl.launch.configure_jax()
    from statistics import median

    from fedrl.environments import cartpole
    from fedrl.environments.adapters import gymnasium

    for name, environment in (
        ("compiled", cartpole()),
        ("Gymnasium", gymnasium("CartPole-v1", settings={"length": 0.5})),
    ):
        large, small = rounds_of(environment, LARGE), rounds_of(environment, SMALL)
        large(), small()
        extra = median(seconds(large) - seconds(small) for _ in range(PAIRS)) / ROUNDS
        what = f"a round with rings of {LARGE:,} rows over {SMALL:,}, {name}"
        emit(Figure(what, 1000.0 * extra, 1.0, "ms", at_least=False))


if __name__ == "__main__":
    main()
