"""Entry point of every simulation: a federation, a fleet, and an executor, topology, scheduler and clock."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from fedrl.clocks import Immediate, Virtual
from fedrl.clocks.devices import Clock, speeds_of
from fedrl.clocks.devices import clock as devices_clock
from fedrl.core.checks import check_positive
from fedrl.core.component import checked
from fedrl.core.errors import ConfigError
from fedrl.core.summation import opens_by_protocol
from fedrl.core.types import PyTree
from fedrl.engines.combinations import check
from fedrl.engines.common_worlds import check_together
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.placement import Placement, executor_of
from fedrl.engines.executors.records import ExecutorPlan
from fedrl.engines.loop import Loop
from fedrl.engines.messages import messages
from fedrl.engines.noise_source import of_simulation
from fedrl.engines.state import LARGEST_BLOCK, Simulation, chosen_size, iterations
from fedrl.engines.topologies.choices import Hierarchy, SingleServer, Topology
from fedrl.engines.topologies.server import TopologySpec
from fedrl.engines.upload_bids import bids_of, check_budget, check_live
from fedrl.federation.federation import Federation
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import Schedule, synchronous
from fedrl.topologies.trees import Tree
from fedrl.wire.codec import size_bytes


@checked
def simulate(
    federation: Federation,
    fleet: PyTree,
    *,
    executor: Placement | Callable[..., Executor] | None = None,
    topology: Topology | Tree | None = None,
    scheduler: Scheduler | Schedule | None = None,
    clock: Clock | None = None,
    local_steps: Sequence[int] | np.ndarray | None = None,
    merges: int | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    order: Sequence[int] | np.ndarray | None = None,
    reproducible_noise: bool = False,
    **options: Any,
) -> Simulation:
    """Build the simulation of a federation.

    Args:
        federation: Federation to simulate.
        fleet: Parameters of each agent's environment, with a leading agent axis on every leaf.
        executor: Executor of local work: `fedrl.engines.executors.blocks.Blocks` for compiled blocks, or
            `fedrl.engines.executors.host.Host` for environments on the host, or
            `fedrl.engines.executors.common_world.Players` for the players of one world; by default the one for the
            environment, in this process. `fedrl.engines.distributed.choices.ray()` for either in worker processes.
        topology: Topology of the aggregation: `server()` by default, a tree of servers, `gossip(...)` or `isolated()`.
        scheduler: Selection of agents and times of merges: `synchronous()` by default.
        clock: Devices of the agents, for simulated seconds; without a clock, every selected agent answers at once.
        local_steps: `[agents]`, local iterations, at most `federation.local_steps`, which is the default.
        merges: Merges per round; by default enough to merge one update per agent, and one where servers wait for all.
        block: Agents per compiled block. Results are bit-identical for one block size and agree within float tolerance
            between block sizes. `block=1` is the reference: the program of a single agent.
        devices: Devices to run on; all local devices by default.
        order: Order in which agents are placed in blocks; it does not change the result.
        reproducible_noise: Whether calibrated noise and Poisson sampling follow from the seed of a run, so that it is
            reproducible and protects from nobody who knows its seed. By default they are drawn from the operating
            system and differ in every run; all other random numbers follow from the seed.
        **options: Options of the executor, such as `workers` for the host.

    Raises:
        ConfigError: An argument does not fit the fleet.
        UnsoundError: Each part is valid, but their combination is not sound.
    """
    agents = _agents_of(fleet)
    plan = scheduler if isinstance(scheduler, Scheduler) else Scheduler(scheduler or synchronous())
    where = Hierarchy(topology) if isinstance(topology, Tree) else topology or SingleServer()
    # Agents that work in real time have no simulated devices; what needs time has it all the same.
    live = isinstance(executor, Placement) and executor.live
    reproducible = reproducible_noise or (isinstance(executor, Placement) and executor.replayable)
    clock = None if live else clock
    if isinstance(executor, Placement) and executor.build is not None:
        check_together(federation, "at sites of their own" if live else "in worker processes")
    check(federation, agents, where, plan, devices_clock() if live else clock)
    wire = messages(federation, fleet)
    # The scale of an update is known at its merge only, so scaled updates are not summed inside a block's program.
    scaled = plan.mixed or plan.upload_budget is not None or plan.schedule.mixing != 1.0
    meeting = where.bind(TopologySpec(federation, fleet, wire, agents, plan.schedule, scaled, live))
    if len(np.unique(meeting.group)) > 1:
        plan = replace(plan, group=meeting.group)
    if live:
        check_live(federation, plan)
    bids = plan.most_bids(agents)
    if plan.upload_budget is not None:
        # Without redispatch a round may be of a single agent, so only a budget too small for one bid is refused here.
        check_budget(federation, fleet, plan.upload_budget, bids if plan.redispatch else 1)
        plan = replace(plan, bids=bids_of(federation, plan.upload_budget, wire))
    team = executor_of(executor, meeting.federation)(
        meeting.federation,
        fleet,
        ExecutorPlan(
            collects=meeting.collects,
            group=meeting.group,
            sparse=plan.redispatch or plan.selection is not None,
            mixed=plan.mixed,
            ahead=plan.redispatch and clock is not None,
            varied=plan.local_steps is not None or local_steps is not None,
            bids=plan.bids,
        ),
        chosen_size(agents, fitting(meeting.group) if block is None else block),
        list(jax.local_devices() if devices is None else devices),
        order,
        **options,
    )
    steps = iterations(federation, agents, local_steps)
    clock_state: Any = Immediate()
    if clock is not None:
        # Under a protocol an update is sent in one of its phases, whose messages take their own time.
        later = opens_by_protocol(federation.summation)
        up_bytes = 0 if later else meeting.wire.up_bytes or int(size_bytes(meeting.wire.decoded))
        # With down stages the size of a broadcast differs between jobs: the loop passes it to `dispatch` instead.
        down_bytes = 0 if federation.down_stages else meeting.wire.down_bytes
        clock_state = Virtual(clock, speeds_of(clock, agents, up_bytes, down_bytes), agents)
    if team.clock is not None:
        # Agents work in real time, and a coordinator stores every version before the next one.
        clock_state, merges = team.clock, 1 if merges is None else merges
    waits_for = plan.schedule.buffer_size
    # About one update per agent is merged in a round under every schedule, which makes their rounds comparable.
    each = 1 if waits_for is None or not plan.redispatch else max(1, agents // waits_for)
    check_positive(merges=each if merges is None else merges)
    noise = of_simulation(federation, plan, reproducible)
    loop = Loop(meeting, team, plan, clock_state, steps, each if merges is None else merges, noise)
    return replace(loop.simulation(), reproducible_noise=reproducible)


def fitting(group: np.ndarray) -> int | None:
    """Return the block size with the least cost over several groups: seats, and two seats more for each block."""
    counts = np.unique(group, return_counts=True)[1]
    if len(counts) == 1:
        return None
    return min(range(LARGEST_BLOCK, 0, -1), key=lambda size: int((size + 2) * (-(-counts // size)).sum()))


def _agents_of(fleet: PyTree) -> int:
    """Return the number of agents of a fleet.

    Raises:
        ConfigError: It is no fleet; the message has its value and a call that returns one.
    """
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(fleet)}
    if len(counts) != 1 or counts == {()}:
        raise ConfigError(
            f"fleet is {textwrap.shorten(repr(fleet), 80)}. It needs to be the parameters of the agents' environments, "
            "with an agent axis on every leaf. Pass what fedrl.fleet(environment, agents) returns."
        )
    return int(counts.pop()[0])
