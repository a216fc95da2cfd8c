"""The price of simulated time: the engine on a virtual clock against the compiled learning alone.

Protocol, fixed before measuring. Ten thousand agents do the standard work (`benchmarks.workload`) on devices of which
one in ten is twenty times slower; every turn comes to nothing with probability 0.2. FedBuff merges 100 updates at a
time. A round of 100 merges is compared with the agents' half of a synchronous round, `train` of the executor: the same
ten thousand agents in the same blocks on the same devices, with one broadcast, no rows to gather or scatter, nothing
merged. Both
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
    fedrl.launch.configure_jax()
    import jax
    import numpy as np

    from benchmarks.workload import Running, alike, standard
    from fedrl.clocks import clock, stragglers
    from fedrl.clocks.events import Jobs
    from fedrl.core.keys import keys_of
    from fedrl.engines.executors.blocks import Blocks
    from fedrl.engines.executors.records import ExecutorPlan
    from fedrl.engines.inbox import SUMS, Table
    from fedrl.engines.simulate import simulate
    from fedrl.engines.state import block_size
    from fedrl.server.schedules import fed_buff

    federation, environment = standard()
    fleet, places = alike(environment, AGENTS), jax.local_devices()
    devices = clock(step_s=stragglers(1.0, fraction=0.1, slowdown=20.0), drop_out=0.2)
    timed = Running(simulate(federation, fleet, scheduler=fed_buff(BUFFER), clock=devices), rounds=1)

    def ahead() -> int:
        """Turns that are computed and have not arrived."""
        return int((timed.run_state.engine_state.team.ahead.agent >= 0).sum())

    def events() -> float:
        """Seconds for a turn on the clock."""
        before = ahead()
        took = seconds(timed)
        return took / (AGENTS // BUFFER * BUFFER + ahead() - before)

    everybody, steps = np.arange(AGENTS), np.ones(AGENTS, np.int32)
    first = np.zeros(AGENTS, np.int32)
    plan = ExecutorPlan(collects=SUMS, group=first, sparse=False, mixed=False, ahead=False, varied=False)
    executor = Blocks(federation, fleet, plan, block_size(AGENTS), places)
    keys = keys_of(0)
    server, agents = executor.start(keys, steps)
    table = Table(jax.tree.map(lambda x: np.asarray(x)[None], federation.broadcast(server)), first)
    cohort, share = np.full(AGENTS, AGENTS, np.int32), np.full(AGENTS, 1.0 / AGENTS, np.float32)
    jobs = Jobs(everybody, first, steps, cohort, share)

    def learning() -> float:
        """Seconds for a turn that is only computed."""

        def work() -> None:
            nonlocal agents
            agents, trained = executor.train(keys, executor.assign(agents, jobs, table), everybody, table)
            jax.block_until_ready((trained.block_sums, agents.blocks))

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
