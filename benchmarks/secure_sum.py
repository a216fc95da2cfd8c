"""What a secure sum costs: masks of an agent, the removal of masks with a tenth of the agents lost, bytes, a whole sum.

A million entries, all agents in this process; a tenth leaves after it has given its shares away, so that its masks stay
in the vectors of its neighbours. `python -m benchmarks.secure_sum 100` measures one number of agents alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, TypeVar

import numpy as np

from benchmarks.measure import Figure, emit
from fedrl.secure import SumAgent, SumCoordinator, secure_sum, sum_plan
from fedrl.secure.coordinator import PHASES
from fedrl.secure.identity import new_identities
from fedrl.secure.messages import encoded_size

SIZE = 1_000_000
GOALS = {10: (9, 10.0, 0.02), 100: (20, 20.0, 0.25), 1000: (40, 30.0, 2.0)}
"""Agents: neighbours of each, ms to mask, seconds to remove masks."""
REPEATS = {10: 9, 100: 3, 1000: 1}
SMALL = 4_611
"""Parameters of a small policy: what is left of the cost when masks are short."""
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """What a call returns, its wall time and its seconds of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


class Seconds:
    """Wall and processor seconds of a kind of step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def of(self, work: Callable[[], T]) -> T:
        found, wall, cpu = timed(work)
        self.wall.append(wall)
        self.cpu.append(cpu)
        return found

    def __str__(self) -> str:
        return f"median {1e3 * median(self.wall):.2f} ms, {1e3 * median(self.cpu):.2f} ms of the processor"


def one_sum(agents: int, repeat: int, masking: Seconds, removing: Seconds) -> dict[str, tuple[int, int]]:
    """Carry out one sum, and return the bytes of an agent in each phase, to it and from it."""
    degree = GOALS[agents][0]
    members, values = tuple(range(agents)), np.arange(SIZE, dtype=np.uint32)
    plan = sum_plan(b"benchmark %d" % repeat, members, SIZE, degree=degree)
    identities, threads = new_identities(members), os.cpu_count() or 1
    machines = {agent: SumAgent(identities[agent], plan) for agent in members}
    coordinator = SumCoordinator(plan)
    inbox: dict[int, Any] = dict.fromkeys(members)
    found = {}
    for phase in PHASES:
        steps: dict[str, Callable[[SumAgent, Any], Any]] = {
            "adverts": lambda machine, _: machine.advert(),
            "shares": SumAgent.share,
            "masked": lambda machine, shown: masking.of(lambda: machine.mask(shown, values)),
            "tags": SumAgent.agree,
            "opening": SumAgent.open,
        }
        for agent, shown in inbox.items():
            if phase != "masked" or agent % 10:
                message = steps[phase](machines[agent], shown)
                coordinator.receive(agent, message)
        some = next(agent for agent in inbox if agent % 10)
        down = 0 if inbox[some] is None else encoded_size(inbox[some], plan)
        found[phase] = (down, encoded_size(message, plan))
        if phase != "opening":
            inbox = coordinator.close()
    total = removing.of(lambda: coordinator.total(threads))
    assert (total == values * np.uint32(len(coordinator.included))).all()
    return found


def measure(agents: int) -> None:
    degree, mask_ms, remove_s = GOALS[agents]
    masking, removing = Seconds(), Seconds()
    for repeat in range(REPEATS[agents]):
        sizes = one_sum(agents, repeat, masking, removing)
    what = f"K = {agents}, k = {degree}, d = {SIZE:,}"
    load = os.getloadavg()[0]
    print(f"{what}, load {load:.1f}: mask {masking}; remove {removing}, with {os.cpu_count()} threads", flush=True)
    for phase, (down, up) in sizes.items():
        print(f"    {phase}: {down:,} bytes to an agent, {up:,} from it")
    emit(
        Figure(f"mask, {what}", 1e3 * median(masking.wall), mask_ms, "ms", at_least=False),
        Figure(f"remove masks, 10 % lost, {what}", median(removing.wall), remove_s, "s", at_least=False),
    )


def measure_small() -> None:
    """The whole protocol for ten agents with a small policy, all of them and the coordinator together."""
    for verified in (False, True):
        members, cost = tuple(range(10)), Seconds()
        values, identities = np.ones((10, SMALL), np.int32), new_identities(members)
        for repeat in range(21):
            plan = sum_plan(b"small %d" % repeat, members, SMALL, verified=verified)
            cost.of(partial(secure_sum, values, plan, identities=identities))
        what, load = f"a whole sum, K = 10, verified = {str(verified).lower()}", os.getloadavg()[0]
        print(f"{what}: fastest of 21 {1e3 * min(cost.cpu):.1f} ms of the processor, load {load:.1f}", flush=True)
        emit(Figure(f"{what}, processor", 1e3 * median(cost.cpu), 25.0, "ms", at_least=False))


def main() -> None:
    asked = [int(each) for each in sys.argv[1:]]
    if not asked:
        measure_small()
    for agents in asked or GOALS:
        measure(agents)


if __name__ == "__main__":
    main()
