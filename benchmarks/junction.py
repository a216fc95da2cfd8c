"""The junction: vehicle steps per second of one core, with leaders, conflicts, fuel, arrivals and observations.

    taskset -c 0 python -m benchmarks.junction

Thirty slots and dense traffic, driven by the rule of the background, 32 copies of 240 steps; a vehicle step is a step
of a vehicle that is at the junction. Also with two lanes an arm, thus with changes of lane, and without observations.
"""

from __future__ import annotations

import os

import fedrl.launch
from benchmarks.measure import Figure, emit, typical

COPIES, STEPS, SLOTS, ARRIVALS = 32, 240, 30, 600.0
LIBSUMO = 425_000.0
"""Vehicle steps per second of libsumo with everything read, at best."""


def main() -> None:
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    fedrl.launch.configure_jax()
    import jax
    import jax.numpy as jnp

    from fedrl.environments import junction

    def rate(lanes: int, watched: bool) -> float:
        world = junction(vehicles=SLOTS, lanes=lanes, max_steps=STEPS + 1)
        params = world.params._replace(arrivals=jnp.float32(ARRIVALS), learning=jnp.float32(0.0))
        action = jnp.zeros((*world.spaces.action.shape, SLOTS, COPIES))
        move = jax.vmap(world.step, (-1, None, -1, -1), -1)

        @jax.jit
        def play(state, noise):
            def step(state, noise):
                timestep, state = move(noise, params, state, action)
                shown = timestep.observation.sum((0, 1)) if watched else timestep.reward.sum(0)
                return state, (shown, timestep.measures["vehicle_s"] - timestep.measures["outside_s"])

            return jax.lax.scan(step, state, noise)

        noise = jnp.moveaxis(world.draw_step(jax.random.key(0), (STEPS, COPIES)), 1, 0)
        fresh = jax.vmap(world.reset, (-1, None), -1)(world.draw_reset(jax.random.key(1), (COPIES,)), params)[1]
        full = jax.block_until_ready(play(fresh, noise))[0]  # dense traffic
        present = float(play(full, noise)[1][1].sum()) / 0.5
        print(f"{lanes} lanes: {present / COPIES / STEPS:.1f} vehicles at a time")
        return present / typical(lambda: jax.block_until_ready(play(full, noise)))

    one, two, blind = rate(1, True), rate(2, True), rate(1, False)
    emit(
        Figure("junction, one lane an arm", one, 20 * LIBSUMO, "vehicle steps/s"),
        Figure("two lanes an arm", two, 10 * LIBSUMO, "vehicle steps/s"),
        Figure("one lane, nobody observes", blind, 20 * LIBSUMO, "vehicle steps/s"),
    )


if __name__ == "__main__":
    main()
