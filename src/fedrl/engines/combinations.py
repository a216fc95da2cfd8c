"""Checks that the parts of a simulation fit together, when the simulation is built.

Each refusal has one of the reasons in `fedrl.core.errors.REASONS`. "Not implemented" is not one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.clocks.availability import availability
from fedrl.clocks.devices import Clock, speeds_of
from fedrl.clocks.distributions import delays_of
from fedrl.core.component import written
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import check_gathers, follows_corrections
from fedrl.core.summation import hidden, opens_by_protocol
from fedrl.engines.common_worlds import check_common_world
from fedrl.engines.messages import Messages, messages
from fedrl.engines.momentum import normalized_alpha
from fedrl.engines.soundness import check_private
from fedrl.engines.topologies.choices import GossipTopology, Hierarchy, IsolatedTopology, Topology
from fedrl.engines.topologies.step_size import is_busy, step_size
from fedrl.engines.topologies.tree import holding, lowest
from fedrl.federation.federation import Federation
from fedrl.federation.parts import Part
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import Schedule, check_hangs
from fedrl.server.staleness import ignore_staleness
from fedrl.topologies.gossip import Rule
from fedrl.topologies.trees import Tree


def check(
    federation: Federation,
    agents: int,
    topology: Topology | None,
    scheduler: Scheduler,
    clock: Clock | None,
) -> None:
    """Refuse parts that do not fit together.

    Raises:
        ConfigError: The schedule waits for more agents than there are, or a part is set up for another number of
            agents.
        UnsoundError: Two parts contradict each other, or the schedule needs a clock and there is none.
    """
    if clock is None:
        _check_timeless(scheduler.schedule)
    else:
        speeds_of(clock, agents, 0, 0)
        availability(clock, agents)
        group = lowest(topology.tree, agents) if isinstance(topology, Hierarchy) else None
        check_hangs(clock, scheduler.schedule, len(replace(scheduler, group=group).first_cohort(agents)))
        _check_faults(federation, topology, clock)
    check_gathers(federation.learner)
    check_common_world(federation, agents, scheduler)
    check_private(federation, agents, topology, scheduler)
    _check_room(federation, agents, scheduler)
    _check_schedule(federation, scheduler.schedule, agents)
    if federation.parts:
        _check_parts(federation.parts, topology, scheduler)
    _check_delays(federation, agents, topology, scheduler)
    if isinstance(topology, Hierarchy):
        _check_tree(federation, topology.tree)
    if isinstance(topology, GossipTopology):
        _check_serverless(federation, topology.rule, scheduler)
        _check_compression(federation, topology, agents)
    if isinstance(topology, IsolatedTopology):
        _check_isolated(federation, scheduler)


def _check_timeless(schedule: Schedule) -> None:
    if schedule.redispatch or schedule.buffer_size is not None:
        raise UnsoundError(
            f"{schedule!r} merges the first updates that arrive, and without a clock all arrive at once: the agents "
            "with the lowest numbers would fill every merge. Set the speed of agents, clock(step_s=...), or use "
            "synchronous().",
            reason="no time",
        )
    if schedule.deadline_s != float("inf"):
        raise UnsoundError(
            f"{schedule!r} has a deadline of {schedule.deadline_s:g} s, and without a clock no time passes. Set the "
            "speed of agents, clock(step_s=...), or leave deadline_s out.",
            reason="no time",
        )


def _check_room(federation: Federation, agents: int, scheduler: Scheduler) -> None:
    """Refuse a rule that stores numbers for fewer agents, and parts that need reports the federation does not have."""
    room = federation.aggregator.agents
    if room is not None and room < agents:
        raise ConfigError(
            f"{federation.aggregator!r} stores a number for each of {room} agents, and there are {agents}. "
            f"Set its agents to {agents}."
        )
    for part in (scheduler.selection, scheduler.local_steps):
        missing = [] if part is None else [name for name in part.requested if name not in federation.reports]
        if missing:
            raise ConfigError(
                f"{part!r} needs {missing[0]!r} from agents, and this federation does not report it. "
                f"Write federate(..., reports={missing})."
            )


def _check_faults(federation: Federation, topology: Topology | None, clock: Clock) -> None:
    # SCAFFOLD's c and the corrections of gradient tracking are sums over all agents' memories. A restarted agent loses
    # its memory, and the sum would keep the old value for good.
    keeping: list[object] = [stage for stage in federation.stages if stage.sums is not None]
    if isinstance(topology, GossipTopology) and topology.rule.correction is not None:
        keeping += [topology.rule]
    if clock.restart and keeping:
        raise UnsoundError(
            f"restart is {clock.restart:g}, and {keeping[0]!r} stores on each agent one term of a sum over all agents. "
            "A restarted agent loses its term, and the sum is wrong from then on. Leave out one of the two.",
            reason="private",
        )
    if clock.phase_drop_out and not opens_by_protocol(federation.summation):
        raise ConfigError(
            f"phase_drop_out is {clock.phase_drop_out:g}, and {federation.summation!r} has no protocol with phases in "
            "which agents could leave. Use ring_sum with protocol='masks' or 'additive', or leave phase_drop_out out."
        )
    arriving = [(name, getattr(clock, name)) for name in ("duplicate", "malformed") if getattr(clock, name)]
    if isinstance(topology, IsolatedTopology) and arriving:
        name, chance = arriving[0]
        raise UnsoundError(
            f"{name} is {chance:g}. It concerns messages, and isolated agents send none. Leave it out, or use another "
            "topology.",
            reason="isolated",
        )


def _check_delays(federation: Federation, agents: int, topology: Topology | None, scheduler: Scheduler) -> None:
    delays, learner = delays_of(scheduler.delay_rounds, agents), federation.learner
    if not delays.any():
        return
    told = f"delay_rounds is {written(scheduler.delay_rounds)}"
    if isinstance(topology, IsolatedTopology):
        raise UnsoundError(
            f"{told}. It concerns broadcasts, and isolated agents receive none. Leave it out, or use another topology.",
            reason="isolated",
        )
    if isinstance(topology, GossipTopology):
        raise UnsoundError(
            f"{told}. It counts versions of a server's parameters, and neighbours have no server: each agent trains "
            "from its own parameters, without delay. Leave it out, or run the federation with a server.",
            reason="no server",
        )
    if learner.statistics is not None:
        raise UnsoundError(
            f"{told}, and the statistics of {learner!r} are relative to the moments its agents received, which the "
            "server has changed since. Let every agent keep its own, personal(learner, local=['moments']), or leave "
            "delay_rounds out.",
            reason="moments",
        )
    hiding = hidden(federation.summation)
    if hiding and len(np.unique(delays)) > 1:
        raise UnsoundError(
            f"{told}, and {hiding!r} hides updates in the sum of the agents that received the same version. Give all "
            "agents one delay, or leave it out.",
            reason="hidden",
        )


def _check_schedule(federation: Federation, schedule: Schedule, agents: int) -> None:
    learner, stages = federation.learner, federation.stages
    waited_for = max(schedule.quorum, 0 if schedule.buffer_size is None else schedule.buffer_size)
    if not schedule.redispatch and waited_for > agents:
        raise ConfigError(
            f"{schedule!r} waits for {waited_for} updates and there are {agents} agents, each of which sends one in a "
            "round. Wait for fewer."
        )
    hiding = hidden(federation.summation)
    if hiding and schedule.redispatch:
        raise UnsoundError(
            f"{hiding!r} hides updates in the sum of the agents that started together, and under {schedule!r} no two "
            "agents do. Use synchronous().",
            reason="hidden",
        )
    if schedule.mix_models and federation.payload == "gradient":
        raise UnsoundError(
            f"{schedule!r} mixes the parameters after local training, and with payload='gradient' agents don't change "
            "theirs. Use payload='delta', or a schedule that adds changes such as fed_buff().",
            reason="gradients",
        )
    withholding = [stage for stage in stages if stage.skips_uploads]
    if withholding and schedule.mix_models:
        raise UnsoundError(
            f"{schedule!r} mixes the parameters after local training, and would treat an update withheld by "
            f"{withholding[0]!r} as a return to the old parameters. Use a schedule that adds changes such as "
            "fed_buff().",
            reason="gradients",
        )
    if learner.statistics is not None and (schedule.redispatch or schedule.stragglers == "keep"):
        raise UnsoundError(
            f"The statistics of {learner!r} are relative to the moments its agents received, and under {schedule!r} "
            "the server may change those before an update arrives. Let every agent keep its own, "
            "personal(learner, local=['moments']), or use synchronous().",
            reason="moments",
        )
    if schedule.momentum < 1.0:
        _check_look_ahead(federation, schedule)
    if schedule.mix_models:
        alone = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], learner.environment.params)
        _check_mixable(schedule, messages(federation, alone))


def _check_look_ahead(federation: Federation, schedule: Schedule) -> None:
    """Refuse a look-ahead along another momentum than the server's."""
    alpha = schedule.momentum
    given = [
        federation.server_optimizer,
        *(p.server_optimizer for p in federation.parts if p.server_optimizer is not None),
    ]
    for optimizer in given:
        # Alpha is measured from float32 steps, so it is compared with a tolerance.
        found = None if optimizer is None else normalized_alpha(optimizer)
        if found is None or abs(found - alpha) > 1e-3:
            has = "has no optimiser of its own" if optimizer is None else f"has {written(optimizer)}"
            raise UnsoundError(
                f"{schedule!r} sends agents the parameters extrapolated by a momentum with alpha = {alpha:g}, and the "
                f"server {has}, which does not step along that momentum. Use the server optimiser "
                f"normalized_momentum(learning_rate, alpha={alpha:g}).",
                reason="momentum",
            )


def _check_mixable(schedule: Schedule, wire: Messages) -> None:
    """Refuse to mix parameters with decoded updates of another structure."""
    there = jax.tree.map(lambda leaf: leaf.shape, wire.sent.params)
    if jax.tree.map(lambda leaf: leaf.shape, wire.decoded.value) != there:
        raise UnsoundError(
            f"{schedule!r} mixes parameters, and a stage of this federation sends updates of another structure. "
            "Use a schedule that adds changes such as fed_buff().",
            reason="gradients",
        )


def _check_parts(parts: Sequence[Part], topology: Topology | None, scheduler: Scheduler) -> None:
    if isinstance(topology, GossipTopology | IsolatedTopology):
        raise UnsoundError(
            f"{parts[0]!r} is merged by a server, which applies its rule and its period, and this topology has no "
            "server. Leave it out, or run the federation with a server.",
            reason="no server" if isinstance(topology, GossipTopology) else "isolated",
        )
    lasting = [part for part in parts if part.every > 1]
    if lasting and scheduler.mixed:
        raise UnsoundError(
            f"{lasting[0]!r} stays with its agent in all versions but those in which it is due, and "
            f"{scheduler.schedule!r} merges updates of different versions: some with that part, some without. Give it "
            "the period 1, or use synchronous() without delays.",
            reason="private",
        )
    if isinstance(topology, Hierarchy):
        _check_periods(lasting, topology.tree)


def _check_periods(parts: Sequence[Part], tree: Tree) -> None:
    """Refuse a period for which a lower server would merge a part that its agents do not adopt."""
    for part in parts:
        apart = [often for often in tree.periods if often % part.every and part.every % often]
        if apart:
            raise UnsoundError(
                f"{part!r} is due every {part.every} versions, and servers of {tree!r} merge every {apart[0]}: in some "
                "versions they would merge changes of that part while agents keep their own values. Make one of the "
                "two periods a multiple of the other.",
                reason="private",
            )


def _check_tree(federation: Federation, tree: Tree) -> None:
    learner, aggregator, levels = federation.learner, federation.aggregator, len(holding(tree))
    if aggregator.requested and levels > 1:
        raise UnsoundError(
            f"{aggregator!r} needs {list(aggregator.requested)} from agents, and in this tree it would merge updates "
            "of servers, which report nothing. Let every level merge in every round (no periods), or use mean().",
            reason="only sums",
        )
    if learner.statistics is not None and levels > 1:
        raise UnsoundError(
            f"The statistics of {learner!r} are relative to moments that are constant between two merges of all "
            "agents, and in this tree lower servers merge more often. Let every level merge in every round (no "
            "periods), or let every agent keep its own: personal(learner, local=['moments']).",
            reason="moments",
        )


def _check_serverless(federation: Federation, rule: Rule, scheduler: Scheduler) -> None:
    learner, optimizer, schedule = federation.learner, federation.server_optimizer, scheduler.schedule
    if federation.down_stages:
        raise UnsoundError(
            f"{federation.down_stages[0]!r} is a down stage, which compresses a server's broadcasts, and there is no "
            "server. Neighbours compress their messages by stages. Leave down_stages out, or run the federation with a "
            "server.",
            reason="no server",
        )
    needing: list[object] = [stage for stage in federation.stages if is_busy(stage)]
    needing += [] if optimizer is None else [optimizer]
    needing += [] if federation.aggregator.needs == "sum" else [federation.aggregator]
    if needing:
        part = written(needing[0])
        raise UnsoundError(
            f"{part} works on updates that a server aggregates, and without a server there are none. Neighbours "
            f"exchange and average parameters. Leave {part} out, or run the federation with a server.",
            reason="no server",
        )
    # CHOCO: the copies converge to the parameters only if compression of each difference is a contraction, and the
    # difference to a copy already contains everything that was lost before (Koloskova et al., 2019).
    growing = [stage for stage in federation.stages if stage.contraction is None]
    if growing:
        raise UnsoundError(
            f"{growing[0]!r} is no contraction. Without a server, agents send compressed differences to copies that "
            "neighbours have of them, and these converge only if each difference shrinks. The next difference has the "
            "error of the last in it, so error feedback would add it twice, which diverges. Use a contraction alone, "
            f"as top_k(0.1), sign() or quantize(8), leave {growing[0]!r} out, or run the federation with a server.",
            reason="graph",
        )
    deciding: list[object] = [part for part in (scheduler.selection, scheduler.upload_budget) if part is not None]
    deciding += [schedule] if schedule.redispatch or schedule.buffer_size is not None else []
    deciding += [scheduler.local_steps] if scheduler.local_steps is not None and scheduler.local_steps.requested else []
    deciding += [] if schedule.staleness == ignore_staleness() else [schedule.staleness]
    if deciding:
        raise UnsoundError(
            f"{deciding[0]!r} needs a server's decision, and there is no server: neighbours wait for each other. "
            "Without waiting this would be AD-PSGD, in which pairs average and no version is merged. Leave it out, or "
            "run the federation with a server.",
            reason="no server",
        )
    if federation.payload != "delta":
        raise UnsoundError(
            f"payload is {federation.payload!r}, and there is no server to take the gradient step. Agents take their "
            "own steps. Use payload='delta'; with plain SGD and one local step, it is the same.",
            reason="no server",
        )
    if learner.statistics is not None:
        raise UnsoundError(
            f"The statistics of {learner!r} are relative to moments that all agents share, and without a server they "
            "share none. Leave normalize(...) out, or run the federation with a server.",
            reason="no server",
        )
    if rule.correction is not None and not follows_corrections(learner):
        raise UnsoundError(
            f"{rule!r} corrects local gradients, and the optimiser of {learner!r} does not read corrections. "
            "Use optimizer = chain(add_correction(), sgd(...)).",
            reason="gradients",
        )


def _check_compression(federation: Federation, where: GossipTopology, agents: int) -> None:
    if federation.stages:
        step_size(federation, where.graph, where.mixing, where.rule, where.gamma, agents)
    elif where.gamma is not None:
        raise ConfigError(
            f"gamma is {where.gamma}, the step size towards copies of neighbours, and without stages agents send their "
            "parameters, not copies. Leave it out, or compress the messages, for example by top_k(0.1)."
        )


def _check_isolated(federation: Federation, scheduler: Scheduler) -> None:
    schedule, steps_rule = scheduler.schedule, scheduler.local_steps
    talking: list[object] = [*federation.stages, scheduler.selection, scheduler.upload_budget]
    talking += [schedule] if schedule.redispatch or schedule.buffer_size is not None else []
    talking += [steps_rule] if steps_rule is not None and steps_rule.requested else []
    talking += [] if schedule.staleness == ignore_staleness() else [schedule.staleness]
    talking += [] if federation.aggregator.needs == "sum" else [federation.aggregator]
    for part in talking:
        if part is not None:
            raise UnsoundError(
                f"{part!r} concerns updates that agents send, and isolated agents send none. Leave it out, or use "
                "another topology.",
                reason="isolated",
            )
    if federation.payload != "delta":
        raise UnsoundError(
            "payload is 'gradient', and isolated agents have no server to take the gradient step. Use payload='delta'.",
            reason="isolated",
        )
    if federation.down_stages:
        raise UnsoundError(
            f"{federation.down_stages[0]!r} is a down stage, which compresses broadcasts, and isolated agents receive "
            "none. Leave down_stages out, or use another topology.",
            reason="isolated",
        )
