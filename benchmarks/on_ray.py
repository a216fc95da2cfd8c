"""Agents in two workers of Ray, against one process with two devices and two processes over plain pipes.

Protocol, fixed before measuring. The standard work (`benchmarks.workload`) of K agents. All three simulations are under
way in turn, a round of each at a time, nine times after three rounds that do not count; figures are ratios of medians.
The start is the time from nothing to workers with agents, Ray's own start included, before any program is compiled.
Compiled programs come from the cache on disk. Run it on an idle machine with two cores.

    python -m benchmarks.on_ray
"""

from __future__ import annotations

import os
import time
from statistics import median

import fedrl.launch
from benchmarks.measure import Figure, emit, seconds

ROUNDS, WORKERS = 9, 2


def cpu_s() -> float:
    """CPU seconds of all processes of this session, of Ray's too."""
    ticks = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    fedrl.launch.configure_jax()
    import numpy as np

    from benchmarks.pipes import pipes
    from benchmarks.workload import SAMPLES, Running, alike, standard
    from fedrl.engines.distributed.choices import ray
    from fedrl.engines.simulate import simulate

    federation, environment = standard()
    federation.learner.init  # noqa: B018  (imports are not part of the start)
    begun = time.perf_counter()
    first = Running(simulate(federation, alike(environment, 20), executor=ray(WORKERS)), 1)
    first.simulation.whole(first.run_state)
    start = time.perf_counter() - begun
    over_pipes = pipes(WORKERS)
    figures = [Figure("start of two workers of Ray with 20 agents", start, 12.0, "s", at_least=False)]
    for agents in (20, 1000):
        fleet = alike(environment, agents)
        placed = {"one process": None, "pipes": over_pipes, "Ray": ray(WORKERS)}
        running = {name: Running(simulate(federation, fleet, executor=each), 1) for name, each in placed.items()}
        took: dict[str, list[float]] = {name: [] for name in running}
        spent: dict[str, list[float]] = {name: [] for name in running}
        for number in range(ROUNDS + 3):
            for name, each in running.items():
                before = cpu_s()
                wall = seconds(each)
                if number >= 3:
                    took[name].append(wall)
                    spent[name].append(cpu_s() - before)
        ends = [np.asarray(each.run_state.server.params["actor"][0]["weight"]) for each in running.values()]
        assert all(np.array_equal(ends[0], end) for end in ends), "bits differ"
        middle = {name: median(each) for name, each in took.items()}
        for name in running:
            steps = agents * SAMPLES / middle[name]
            print(
                f"K = {agents:,}, {name}: {1e3 * middle[name]:.1f} ms a round, {median(spent[name]):.2f} CPU s, "
                f"{steps / 1e3:.0f} k steps/s",
                flush=True,
            )
        if agents == 20:
            extra = 1e3 * (middle["Ray"] - middle["pipes"])
            figures.append(Figure("K = 20: a round on Ray over one over pipes", extra, 25.0, "ms", at_least=False))
        else:
            better = min(middle["one process"], middle["pipes"]) / middle["Ray"]
            figures.append(
                Figure("K = 1,000: steps/s of Ray over the better of one process and pipes", better, 0.85, "x")
            )
        for each in running.values():
            if each.simulation.block and agents == 1000:
                each.simulation.close()
    emit(*figures)


if __name__ == "__main__":
    main()
