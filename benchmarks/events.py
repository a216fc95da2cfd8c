"""The price of simulated time: the engine on a virtual clock against the compiled learning alone.

Protocol, fixed before measuring. Ten thousand agents do the standard work (`benchmarks.workload`) on devices of which
one in ten is twenty times slower; every turn comes to nothing with probability 0.2. FedBuff merges 100 updates at a
time. A round of 100 merges is compared with the agents' half of a round of the blocks engine: the same ten thousand
agents in the same blocks on the same devices, with one broadcast, no rows to gather or scatter, nothing merged. Both
times are divided by the agent turns that were computed, which are counted: those of lost turns are not, those computed
ahead of their time are. The figure is the median over five alternating pairs, in one process.

    python -m benchmarks.events
"""

from __future__ import annotations

from statistics import median

import fedrl.launch
from benchmarks.measure import Figure, emit, peak_gigabytes, seconds

AGENTS, BUFFER, PAIRS = 10_000, 100, 5


def main() -> None:
    fedrl.launch.prepare()
    import jax
    import numpy as np

    from benchmarks.workload import Running, alike, standard
    from fedrl.engines.blocks import training
    from fedrl.engines.simulation import block_size, seated, starting
    from fedrl.engines.virtual import clock, fed_buff, simulate_clock, stragglers
    from fedrl.engines.virtual.timetable import ARRIVES

    federation, environment = standard()
    fleet, places = alike(environment, AGENTS), jax.local_devices()
    devices = clock(fed_buff(BUFFER), step_s=stragglers(1.0, share=0.1, times=20.0), drop_out=0.2)
    timed = Running(simulate_clock(federation, fleet, devices), rounds=1)

    def ahead() -> int:
        """Turns that are computed and have not arrived."""
        table, desks = timed.population.between[:2]
        return int(((table.ahead == ARRIVES) & ~desks.waiting).sum())

    def events() -> float:
        """Seconds for a turn on the clock."""
        before = ahead()
        took = seconds(timed)
        return took / (AGENTS // BUFFER * BUFFER + ahead() - before)

    seats = seated(np.arange(AGENTS), block_size(AGENTS))
    population = starting(federation, fleet, seats, np.ones(AGENTS, int), places)(0)
    train = training(federation, fleet, seats, places)

    def learning() -> float:
        """Seconds for a turn that is only computed."""

        def work() -> None:
            nonlocal population
            trained = train(population, federation.broadcast(population.server), None, True)
            population = population._replace(blocks=trained.blocks)
            jax.block_until_ready((trained.outcomes, population.blocks))

        return seconds(work) / AGENTS

    events(), learning()
    pairs = [(events(), learning()) for _ in range(PAIRS)]
    for on_clock, alone in pairs:
        print(f"a turn takes {1e3 * on_clock:.3f} ms on the clock, {1e3 * alone:.3f} ms alone", flush=True)
    overhead = 100.0 * (median(on_clock / alone for on_clock, alone in pairs) - 1.0)
    print(f"peak memory with both in one process: {peak_gigabytes():.1f} GB")
    emit(Figure("event engine, 10,000 agents, over the compiled learning alone", overhead, 30.0, "%", at_least=False))


if __name__ == "__main__":
    main()
