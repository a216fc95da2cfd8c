"""Refuse parts with which a coordinator could read more than the trust model of a federation says.

| trust model | a coordinator may read |
|---|---|
| trusted_coordinator | the update of each agent |
| honest_but_curious_coordinator | sums that hide their terms, or updates to which agents have added noise |
| no_coordinator | nothing, as there is none; neighbours read each other's parameters |

Here it is required that there is a protection. What the protection excludes, such as reports in the clear, is refused
wherever there is one: `fedrl.federation.private` and `fedrl.engines.soundness`.
"""

from __future__ import annotations

from fedrl.core.component import written
from fedrl.core.errors import UnsoundError
from fedrl.core.summation import hidden
from fedrl.engines.topologies.choices import GossipTopology, Hierarchy, IsolatedTopology, Topology
from fedrl.federation.federation import Federation
from fedrl.federation.soundness import LOCAL_NOISE, NOISE
from fedrl.federation.trust_models import CURIOUS, NOBODY, TRUSTED, TrustModel
from fedrl.server.schedules import Schedule

WHO = {
    TRUSTED: "The coordinator is trusted",
    CURIOUS: "The coordinator is honest but curious",
    NOBODY: "There is no coordinator",
}


def check_trust(trust: TrustModel, federation: Federation, topology: Topology, schedule: Schedule) -> None:
    """Refuse a coordinator that could read more than the trust model says.

    Args:
        trust: The trust model.
        federation: The federation.
        topology: Where updates are aggregated.
        schedule: When servers merge.

    Raises:
        UnsoundError: There is a coordinator where there is to be none, or nothing protects updates from it.
    """
    if isinstance(topology, IsolatedTopology) or trust == TRUSTED:
        return
    if trust == NOBODY:
        _check_nobody(topology)
    else:
        _check_curious(federation, topology, schedule)


def _check_nobody(topology: Topology) -> None:
    if isinstance(topology, GossipTopology):
        return
    who = written(topology.tree) if isinstance(topology, Hierarchy) else "a server"
    raise UnsoundError(
        f"federation.trust is {NOBODY!r}, and {who} receives and merges what agents send. Let agents exchange "
        f"parameters with their neighbours, such as federation.topology = 'ring', or use the trust model {CURIOUS!r}.",
        reason="hidden",
    )


def _check_curious(federation: Federation, topology: Topology, schedule: Schedule) -> None:
    hiding = hidden(federation.summation)
    if hiding is not None and (hiding.group_size or hiding.minimum) < 2:
        raise UnsoundError(
            f"federation.trust is {CURIOUS!r}, and {hiding!r} opens also the sum of a single update, which is the "
            "update. Set its minimum to 2 or more.",
            reason="hidden",
        )
    if hiding is not None or _noises(federation):
        return
    if isinstance(topology, GossipTopology):
        raise UnsoundError(
            f"federation.trust is {CURIOUS!r}, and over {topology.graph!r} neighbours read each other's whole "
            f"parameters, without a coordinator. Use {NOBODY!r} if they may, or a learner that adds noise in its local "
            "steps, such as reinforce with a trajectory_clip and a noise_multiplier.",
            reason="hidden",
        )
    central = next((stage for stage in federation.stages if stage.noise is not None), None)
    reader = (
        f"{central!r} adds its noise at the coordinator, which has received the update of each agent by then"
        if central is not None
        else f"{federation.aggregator!r} reads the update of each agent"
        if federation.aggregator.needs == "each"
        else f"{federation.summation!r} shows the coordinator the update of each agent, without noise"
    )
    raise UnsoundError(
        f"federation.trust is {CURIOUS!r}, and {reader}. {_cure(federation, schedule)}", reason="in the clear"
    )


def _cure(federation: Federation, schedule: Schedule) -> str:
    """Return what protects updates with this rule and this schedule."""
    if schedule.redispatch:
        return (
            f"Under {schedule!r} no sum of a known cohort hides updates: use a learner that adds noise in its local "
            "steps, such as reinforce with a trajectory_clip and a noise_multiplier, or synchronous() with ring_sum."
        )
    if federation.aggregator.needs == "each":
        return "Use noise that agents add, such as local_gaussian, or mean(weighting='uniform') and ring_sum."
    return "Use summation = ring_sum, which hides them in their sum, or noise that agents add, such as local_gaussian."


def statement(trust: TrustModel, federation: Federation, topology: Topology) -> str:
    """Return what the trust model means with these parts, as a sentence.

    Args:
        trust: The trust model.
        federation: The federation.
        topology: Where updates are aggregated.
    """
    added = " and ".join(_noises(federation))
    noisy, hiding = f", with {added}" if added else "", hidden(federation.summation)
    if isinstance(topology, IsolatedTopology):
        return f"{WHO[trust]}: the agents are isolated and send nothing."
    if isinstance(topology, GossipTopology):
        return f"{WHO[trust]}: neighbours read each other's whole parameters{noisy}."
    if hiding is not None:
        fewest = hiding.group_size or hiding.minimum
        return f"{WHO[trust]}: it reads sums of {fewest} updates or more{noisy}, and no single update."
    return f"{WHO[trust]}: it reads the update of each agent{noisy}."


def _noises(federation: Federation) -> list[str]:
    """Return the noise that agents add to what they send, in words."""
    found = [LOCAL_NOISE] if federation.learner.noise is not None else []
    found += [NOISE["agent"] for stage in federation.stages if stage.noise is not None and stage.noise.at == "agent"]
    return list(dict.fromkeys(found))
