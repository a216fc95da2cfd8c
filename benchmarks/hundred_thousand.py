"""100,000 agents on a virtual clock on one machine: FedBuff, memory and merges per second.

Protocol, fixed before measuring. Gradient descent on quadratics of 100 numbers (`tests.support.quadratic`), on devices
whose speed is lognormal, with 5 % of jobs lost; FedBuff merges 1,000 updates at a time. A round has as many merges as
merge an update per agent. One round does not count; then three are timed. A separate process, so that the memory is its
own.

    python -m benchmarks.hundred_thousand [AGENTS]
"""

from __future__ import annotations

import sys
import time
from statistics import median

import fedrl.launch
from benchmarks.measure import Figure, emit, peak_gigabytes

SIZE, BUFFER, ROUNDS = 100, 1_000, 3


def main() -> None:
    agents = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    fedrl.launch.configure_jax()
    import numpy as np

    from fedrl.aggregators import mean
    from fedrl.clocks import clock, lognormal
    from fedrl.engines.simulate import simulate
    from fedrl.federation.federate import federate
    from fedrl.learners import sgd
    from fedrl.server.schedules import fed_buff
    from tests.support.quadratic import Valley, quadratic

    draws = np.random.default_rng(0)
    shape = (agents, SIZE)
    fleet = Valley(draws.uniform(0.2, 2.0, shape).astype(np.float32), draws.normal(size=shape).astype(np.float32))
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    devices = clock(step_s=lognormal(1.0, 0.5), drop_out=0.05)
    begun = time.perf_counter()
    with simulate(federation, fleet, scheduler=fed_buff(BUFFER), clock=devices) as simulation:
        run_state = simulation.init(0)
        print(f"built and initialised in {time.perf_counter() - begun:.1f} s", flush=True)
        took = []
        for _ in range(ROUNDS + 1):
            begun = time.perf_counter()
            run_state, seen = simulation.round(run_state)
            took.append(time.perf_counter() - begun)
            print(f"round of {took[-1]:.1f} s, simulated time {seen.clock_stats.time_s:.1f} s", flush=True)
    merges = max(1, agents // BUFFER) / median(took[1:])
    print(f"{merges:.1f} merges/s, {merges * BUFFER:.0f} updates/s")
    emit(
        Figure(f"{agents:,} agents, quadratic, FedBuff: peak memory", peak_gigabytes(), 10.0, "GB", at_least=False),
        Figure(f"{agents:,} agents, quadratic, FedBuff: merges per second", merges, 0.0, "/s"),
    )


if __name__ == "__main__":
    main()
