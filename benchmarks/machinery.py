"""The price of generality: the blocks engine against the same learner fused by hand.

The fused loop knows nothing of stages, aggregators, hints, absent agents or exact sums: two programs of five agents
each, whose parameters are averaged in floating point.
"""

from __future__ import annotations

import fedrl.launch
from benchmarks.measure import Figure, emit, ratio

ROUNDS = 60
AGENTS = 10


def main() -> None:
    fedrl.launch.configure_jax()
    import jax

    from benchmarks.workload import federation_of
    from fedrl.core.learner import iterate
    from fedrl.core.stage import zeros_like
    from fedrl.core.types import LocalContext
    from fedrl.environments import cartpole
    from fedrl.learners import ppo

    environment = cartpole()
    learner = ppo(environment)
    places = jax.local_devices()
    share = AGENTS // len(places)

    @jax.jit
    def first(key: jax.Array) -> tuple[object, object]:
        states = jax.vmap(learner.init, (0, None))(jax.random.split(key, share), environment.params)
        return states, jax.tree.map(lambda leaf: leaf[0], learner.params(states))

    @jax.jit
    def train(key: jax.Array, params: object, states: object) -> tuple[object, object]:
        def one(key: jax.Array, state: object) -> object:
            return iterate(learner, key, learner.adopt(state, params), LocalContext(params, zeros_like(params)))[0]

        states = jax.vmap(one)(jax.random.split(key, share), states)
        return states, jax.tree.map(lambda leaf: leaf.sum(0), learner.params(states))

    train = jax.jit(train, donate_argnums=2)
    average = jax.jit(lambda *sums: jax.tree.map(lambda *leaves: sum(leaves) / AGENTS, *sums))
    states, params = [None] * len(places), None
    for i, place in enumerate(places):
        states[i], params = first(jax.device_put(jax.random.key(i), place))
    params = jax.device_put(params, places[0])
    clock = iter(range(1 << 30))

    def fused() -> None:
        nonlocal params
        for _ in range(ROUNDS):
            key, sums = jax.random.fold_in(jax.random.key(7), next(clock)), []
            for i, place in enumerate(places):
                states[i], partial = train(*jax.device_put((jax.random.fold_in(key, i), params), place), states[i])
                sums.append(partial)
            params = average(*[jax.device_put(partial, places[0]) for partial in sums])
        jax.block_until_ready(params)

    price = ratio(federation_of(AGENTS, ROUNDS), fused, pairs=9)
    emit(Figure("blocks engine over the same learner fused by hand, time", price, 1.15, "x", at_least=False))


if __name__ == "__main__":
    main()
