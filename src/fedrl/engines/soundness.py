"""List of everything that leaves an agent in a simulation, and refusal of whatever noise and hidden sums don't cover.

    federation's outgoing --topology: receivers, messages between servers--> + scheduler: bids, participation, arrival

A hidden sum hides as much as the topology leaves closed: with one server and its relays only "the sum" is opened, with
servers that have parameters of their own "sums of subsets", and among neighbours "each" message. The sums of one round
have no agent in common, so each is one of its own, of at least the minimum of agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrl.clocks.devices import Clock
from fedrl.core.component import written
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import Learner, parameters_of
from fedrl.core.stage import Noise, Stage
from fedrl.core.summation import Summation, hidden
from fedrl.core.types import PyTree
from fedrl.engines.messages import Messages, messages
from fedrl.engines.topologies.choco import NUMBER_BYTES, compressor
from fedrl.engines.topologies.choices import GossipTopology, Hierarchy, IsolatedTopology, Topology
from fedrl.engines.topologies.step_size import message_shapes
from fedrl.engines.topologies.tree import holding, lowest
from fedrl.engines.traffic import change_bytes, moved, sum_bytes, terms
from fedrl.engines.upload_bids import bids_of
from fedrl.federation.federation import Federation
from fedrl.federation.soundness import SERVER, Outgoing, protection
from fedrl.federation.soundness import outgoing as leaving_with
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import Schedule
from fedrl.topologies.consensus import message_bytes
from fedrl.topologies.trees import Tree
from fedrl.wire.codec import codec, size_bytes


def outgoing(
    federation: Federation, fleet: PyTree, topology: Topology, scheduler: Scheduler, clock: Clock | None = None
) -> list[Outgoing]:
    """Return everything that leaves an agent in a round, and a server below another one; empty for isolated agents.

    Args:
        federation: Federation of the agents.
        fleet: Parameters of each agent's environment, with a leading agent axis on every leaf.
        topology: Topology of the aggregation.
        scheduler: Scheduler, which selects the agents.
        clock: Clock, if the work of agents takes time.
    """
    if isinstance(topology, IsolatedTopology):
        return []
    wire = messages(federation, fleet)
    deciding = [
        p
        for p in (scheduler.selection, scheduler.local_steps, scheduler.upload_budget)
        if p is not None and p.requested
    ]
    note = f"by reports of agents: {deciding[0]!r}" if deciding else "by the server"
    # The time of arrival is listed because it reveals how long the work took, which depends on data.
    arrival = Outgoing("arrival", "agent", SERVER, 0, note="the time its update arrives, which depends on its work")
    if isinstance(topology, GossipTopology):
        found = [*_among_neighbours(federation, topology), Outgoing("participation", "agent", "neighbours", 0)]
        return (
            found if clock is None else [*found, arrival._replace(to="neighbours", note="the time its message arrives")]
        )
    found = leaving_with(federation, wire.update)
    if scheduler.upload_budget is not None:
        found = _with_bids(federation, wire, scheduler, found)
    found.append(Outgoing("participation", "agent", SERVER, 0, note=f"decided {note}"))
    if clock is not None:
        found.append(arrival)
    if isinstance(topology, Hierarchy):
        lowest_name = _named(topology.tree, 1)
        found = [each._replace(to=lowest_name) for each in found]
        found += _between_servers(federation, wire, topology.tree)
    return found


def _with_bids(federation: Federation, wire: Messages, scheduler: Scheduler, found: list[Outgoing]) -> list[Outgoing]:
    """Return the list under an upload budget: what a bid reports is not reported again with the update."""
    assert scheduler.upload_budget is not None
    cost = bids_of(federation, scheduler.upload_budget, wire)
    told = {f"report/{name}" for name in scheduler.upload_budget.requested}
    note = f"of the whole cohort, for {scheduler.upload_budget!r}: {', '.join(scheduler.upload_budget.requested)}"
    return [
        *(each for each in found if each.name not in told),
        Outgoing("bid", "agent", SERVER, cost.bid_bytes, note=note),
    ]


def _among_neighbours(federation: Federation, where: GossipTopology) -> list[Outgoing]:
    """Return the messages over an edge of the graph; each includes the number of the round or of a copy."""
    if federation.stages:
        like = message_shapes(federation, where.rule)
        encoded, alone = compressor(federation, like).encoded, protection((), None, federation.learner)
        protected = protection(federation.stages, None, federation.learner)
        size, whole = codec(encoded).size_bytes, int(size_bytes(like.tree)) + NUMBER_BYTES
        difference = Outgoing(
            "difference", "agent", "neighbours", None if size is None else size + NUMBER_BYTES, protected,
            "to the copy that they have of it",
        )  # fmt: skip
        return [difference, Outgoing("parameters", "agent", "neighbours", whole, alone, "to those whose copy is old")]
    alone = protection((), None, federation.learner)
    first, *rest = message_bytes(where.rule, parameters_of(federation.learner), where.consensus_steps)
    found = [Outgoing("parameters", "agent", "neighbours", first, alone, "whole, with the additions of the rule")]
    if rest:
        found.append(Outgoing("sums", "agent", "neighbours", rest[0], alone, "of messages it received, in later steps"))
    return found


def _between_servers(federation: Federation, wire: Messages, tree: Tree) -> list[Outgoing]:
    """Return the messages of each level of servers to the level above."""
    found, own, protected = [], holding(tree), protection(federation.stages, federation.summation, federation.learner)
    added_up = tuple(wire.sent.stage_states[i] for i, stage in enumerate(federation.stages) if stage.sums is not None)
    change = moved(wire, added_up)
    for level in range(1, len(tree.periods)):
        sender, to = _named(tree, level), _named(tree, level + 1)
        each: tuple[str, int | None, str]
        if level in own:
            each = ("change", change_bytes(change), "of its parameters, since it last adopted any")
        elif federation.aggregator.needs == "sum":
            each = ("sum", sum_bytes(change if level > own[0] else terms(wire)), "exact, of the updates from below")
        else:
            each = ("updates", None, "all updates from below")
        name, size, note = each
        found.append(Outgoing(name, sender, to, size, protected, note))
    return found


def _named(tree: Tree, level: int) -> str:
    return "root" if level == len(tree.periods) else f"servers of level {level}"


# --- checks ----------------------------------------------------------------------------------------------------------


def check_private(federation: Federation, agents: int, topology: Topology | None, scheduler: Scheduler) -> None:
    """Refuse parts that open, or decide by the content of, updates which noise or a hidden sum covers.

    Raises:
        UnsoundError: A part undoes the protection that another part promises.
    """
    hiding = hidden(federation.summation)
    if federation.learner.noise is not None:
        _check_answers(federation.learner, scheduler)
    for stage in federation.stages:
        if stage.noise is not None:
            _check_answers(stage, scheduler)
            # Such noise is calibrated for the sum of a known cohort; local noise without a hidden sum is not.
            summed = stage.noise.at == "server" or hiding is not None
            _check_noise_in_time(stage, stage.noise, summed, scheduler.schedule)
            if summed:
                _check_sampled(stage, stage.noise, scheduler, hiding)
            _check_noise_in_place(stage, stage.noise, summed, topology)
    if hiding is not None:
        _check_answers(hiding, scheduler)
        _check_hidden(hiding, agents, topology, scheduler)


def _check_answers(private: Stage | Summation | Learner, scheduler: Scheduler) -> None:
    covers = "its gradients" if isinstance(private, Learner) else "the value of an update"
    for part in (scheduler.selection, scheduler.local_steps, scheduler.upload_budget):
        if part is not None and part.requested:
            raise UnsoundError(
                f"{part!r} decides by what agents report, {list(part.requested)}, and {private!r} covers {covers} "
                "only, so that these reports and the decision reveal data. Use one that needs no reports, such as "
                f"uniform(...), or leave {private!r} out.",
                reason="in the clear",
            )


def _check_noise_in_time(stage: Stage, noise: Noise, summed: bool, schedule: Schedule) -> None:
    """Refuse noise where the merged agents depend on speed, unless the unit of privacy is a trajectory."""
    # How fast an agent is depends on its data (episode lengths), so the cohort of such a merge would reveal data.
    if noise.unit == "trajectory":
        return
    led = schedule.redispatch or schedule.buffer_size is not None or schedule.deadline_s != float("inf")
    if not led and schedule.stragglers != "keep":
        return
    if schedule.redispatch and not summed:
        raise UnsoundError(
            f"{stage!r} adds noise whose privacy loss is accounted per round, and under {schedule!r} an agent may send "
            "several updates between two merges. Accounting per job of an agent is not there yet. Use synchronous().",
            reason="hidden",
        )
    raise UnsoundError(
        f"{stage!r} adds noise for sums of a known number of agents, each once, and under {schedule!r} the agents in a "
        "sum, and how often each is, depend on their speed and hence on their data. Use synchronous(), which waits for "
        "the whole cohort.",
        reason="hidden",
    )


def _check_sampled(stage: Stage, noise: Noise, scheduler: Scheduler, hiding: Summation | None) -> None:
    """Refuse a quorum where the number of agents is drawn: one agent would decide whether all others are merged."""
    selection, schedule = scheduler.selection, scheduler.schedule
    if noise.unit != "agent" or selection is None or selection.sampling is None:
        return
    fewest: list[tuple[Schedule | Summation, int, str]] = [(schedule, schedule.quorum, "Use a quorum of 1.")]
    if hiding is not None:
        open_sum = ", or exact_sum()" if noise.at == "server" else ""
        fewest.append((hiding, hiding.minimum, f"Use a cohort of fixed size, such as uniform(...){open_sum}."))
    for part, count, cure in fewest:
        if count > 1:
            raise UnsoundError(
                f"{part!r} merges no fewer than {count} updates, and {selection!r} draws the number of agents: one "
                f"agent more or less decides whether those of all others are merged, and {stage!r} adds noise for the "
                f"change by one update. {cure}",
                reason="hidden",
            )


def _check_noise_in_place(stage: Stage, noise: Noise, summed: bool, topology: Topology | None) -> None:
    if isinstance(topology, GossipTopology):
        alone = noise.at == "agent" and noise.unit == "agent" and not summed
        missing = (
            "Noise for whole parameters, which neighbours send each other, is not there yet."
            if alone
            else "Neighbours send each other whole parameters, each to several, and no server sees only their sum."
        )
        raise UnsoundError(
            f"{stage!r} adds noise to updates for a server, and there is no server. {missing} Run the federation with "
            f"a server, or leave {stage!r} out.",
            reason="no server",
        )
    if topology is None or isinstance(topology, IsolatedTopology) or _opens(topology) == "the sum":
        return
    if noise.at == "server":
        found = (
            f"{topology.tree!r} has several with parameters of their own"
            if isinstance(topology, Hierarchy)
            else f"{topology!r} opens {_opens(topology)}"
        )
        raise UnsoundError(
            f"{stage!r} adds noise at the server, to the sum of all, and {found}, each of which would need noise of "
            "its own. This is not there yet. Let every level merge in every round (no periods), or use noise that "
            "agents add.",
            reason="hidden",
        )


def _check_hidden(stage: Summation, agents: int, topology: Topology | None, scheduler: Scheduler) -> None:
    schedule = scheduler.schedule
    if schedule.stragglers == "keep" and not schedule.redispatch:
        raise UnsoundError(
            f"{stage!r} hides updates in the sum of the agents that started together, and {schedule!r} merges late "
            "updates with those of another round. Use stragglers='cancel'.",
            reason="hidden",
        )
    if isinstance(topology, GossipTopology):
        raise UnsoundError(
            f"{stage!r} hides updates in a sum, and without a server agents send each other their parameters. Run the "
            f"federation with a server, or leave {stage!r} out.",
            reason="no server",
        )
    if isinstance(topology, IsolatedTopology):
        return
    if topology is not None and not isinstance(topology, Hierarchy) and _opens(topology) != "the sum":
        raise UnsoundError(
            f"{stage!r} hides updates in the sum of all, and {topology!r} opens {_opens(topology)}. Use one that opens "
            f"the sum, such as server(), or leave {stage!r} out.",
            reason="hidden",
        )
    if agents == 1:
        raise UnsoundError(
            f"{stage!r} hides updates in the sum of all, and there is one agent, whose update is the sum. Let two or "
            f"more agents take part, or leave {stage!r} out.",
            reason="hidden",
        )
    _check_fewest(stage, agents, topology, scheduler)


def _check_fewest(stage: Summation, agents: int, topology: Topology | None, scheduler: Scheduler) -> None:
    """Refuse a sum of fewer updates than may be opened, at the root or at a lower server with parameters of its own."""
    fewest, least = fewest_in_a_sum(agents, topology, scheduler), max(stage.minimum, stage.group_size, 2)
    if fewest >= least:
        return
    if isinstance(topology, Hierarchy) and _opens(topology) != "the sum":
        whose = "one agent" if fewest == 1 else f"{fewest} agents"
        raise UnsoundError(
            f"{stage!r} opens sums of {least} updates or more, and in {written(topology.tree)} servers below the root "
            f"open sums of their own agents, of {whose} at the smallest. Give each of them more agents or a larger "
            "cohort, set a smaller minimum of two or more, or let every level merge in every round (no periods).",
            reason="hidden",
        )
    if fewest == 1:
        raise UnsoundError(
            f"{stage!r} hides updates in the sum of the cohort, and {scheduler.selection!r} selects one agent, whose "
            f"update is the sum. Select two or more, or leave {stage!r} out.",
            reason="hidden",
        )
    if fewest < stage.group_size:
        raise UnsoundError(
            f"{stage!r} opens sums of groups of {stage.group_size} or more, and at most {fewest} agents take part in a "
            f"round, so that nothing would be learned. Set its group_size to {fewest} or fewer.",
            reason="hidden",
        )
    raise UnsoundError(
        f"{stage!r} opens sums of {stage.minimum} updates or more, and at most {fewest} agents take part in a "
        f"round, so that nothing would be learned. Set its minimum to {fewest} or fewer.",
        reason="hidden",
    )


def fewest_in_a_sum(agents: int, topology: Topology | None, scheduler: Scheduler) -> int:
    """Return how many agents are in the smallest sum that is opened, if all come that are selected first.

    Each server with parameters of its own opens the sum of the agents below it, an agent's update being in one of them.

    Args:
        agents: Number of agents.
        topology: Topology of the aggregation.
        scheduler: Scheduler, which selects the agents.
    """
    group = lowest(topology.tree, agents) if isinstance(topology, Hierarchy) else np.zeros(agents, int)
    ids = replace(scheduler, group=group).first_cohort(agents)
    return int(np.bincount(group[ids], minlength=int(group.max()) + 1).min())


def _opens(topology: Topology) -> str:
    """Return what a topology opens: each update, if it does not declare it."""
    return str(getattr(topology, "opens", "each"))


def cohort_ids(cohort: Sequence[int] | np.ndarray, agents: int, summation: Summation | None) -> np.ndarray:
    """Return the agents of a cohort that a caller names, each once.

    Args:
        cohort: Numbers of agents.
        agents: How many there are.
        summation: How updates are added up where they meet; None if they don't.

    Raises:
        ConfigError: It names an agent that does not exist.
        UnsoundError: It is one agent, and a sum is to hide its update.
    """
    ids = np.unique(np.asarray(cohort, int))
    if not len(ids):
        return np.full(1, agents)  # no agent's number: an empty array would leave the choice to the selection
    if ids[0] < 0 or ids[-1] >= agents:
        raise ConfigError(
            f"cohort is {ids.tolist()}. It names some of the {agents} agents, by numbers from 0 to {agents - 1}. "
            "Name those, or none of them."
        )
    if len(ids) == 1 and summation is not None and summation.opens == "sum":
        raise UnsoundError(
            f"cohort is {ids.tolist()}, one agent, and {summation!r} hides updates in the sum of the cohort, which "
            "would be that agent's update. Name two agents or more, or none of them."
        )
    return ids
