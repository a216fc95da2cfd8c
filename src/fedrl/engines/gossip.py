"""The engine without a server: agents train in the same compiled blocks and meet their neighbours only.

    nodes --> [block 0 | device 0] [block 1 | device 1] ...     every agent from what it holds itself
                     +-----------> trained --W x, ...--> meet --> nodes        on the host, in float64

An agent runs both halves: it trains, and it merges what its neighbours send. What it keeps of the second half has a
place in `Population.server`, whose parameters (and the memory of the rule, as `aggregator`) have a leading agent axis.
The order in which agents are seated and the number of devices are of no consequence for a single bit of the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import on_time
from fedrl.core.checks import check_positive
from fedrl.core.component import written
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import UnsoundError
from fedrl.core.federation import AgentState, Federation, ServerState, federate
from fedrl.core.learner import follows_corrections
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Broadcast, Params, PyTree, Update
from fedrl.engines.blocks import Trained, training
from fedrl.engines.compute import compute_of
from fedrl.engines.merging import messages
from fedrl.engines.simulation import (
    QUICK,
    Population,
    Round,
    Simulation,
    Uploads,
    assigning,
    chosen_size,
    iterations,
    params_held,
    seated,
    starting,
)
from fedrl.topologies import average
from fedrl.topologies.consensus import messages_sent, mixer, weighing
from fedrl.topologies.graph import Graph
from fedrl.topologies.rules import Rule
from fedrl.topologies.spectrum import distances
from fedrl.topologies.weights import Mixing


def gossip(
    federation: Federation,
    fleet: PyTree,
    graph: Graph,
    mixing: Mixing,
    rule: Rule | None = None,
    *,
    consensus_steps: int = 1,
    local_steps: Sequence[int] | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    order: Sequence[int] | None = None,
) -> Simulation:
    """Prepare a federation to be simulated without a server.

    The rounds are those of `fedrl.engines.blocks.simulate`. An agent that sits a round out keeps what it has, and its
    edges are absent; so does one whose training ends in a number that is not finite. `params_of` gives what every agent
    acts with after it has met its neighbours. `Round.bytes_up` is all that agents send to each other, and nothing comes
    down; besides the learner's metrics there are `drift` and `consensus_distance`, how far an agent is from the mean of
    all before and after it has met its neighbours, and `messages`, how many it sent.

    Args:
        federation: What to run: a learner, `mean()`, and `local_steps`; weights are `mixing`'s.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        graph: Who hears whom.
        mixing: How much weight an agent gives to what it hears.
        rule: How neighbours meet; `average()` by default.
        consensus_steps: Messages over every edge in a round; of a graph that changes, each takes the next step.
        local_steps: Local iterations of each agent, at most `federation.local_steps`, which is the default.
        block: Agents per compiled block.
        devices: Where to train; all local devices by default.
        order: The order in which agents are seated in blocks; of no consequence for the result.

    Raises:
        ConfigError: An argument does not fit the fleet, the graph is not connected, or a step of consensus is too long.
        UnsoundError: The federation needs a server, or the weights do not suit the rule.
    """
    agents = jax.tree.leaves(fleet)[0].shape[0]
    size = chosen_size(agents, block)
    check_positive(consensus_steps=consensus_steps)
    meeting = average() if rule is None else rule
    check_serverless(federation, meeting)
    crew = _steered(federation) if meeting.correction is not None else federation
    places = list(jax.local_devices() if devices is None else devices)
    seats = seated(np.arange(agents) if order is None else np.asarray(order), size)
    steps = iterations(federation, agents, local_steps)
    weights = weighing(graph, mixing, meeting, agents)
    train = training(crew, fleet, seats, places, address=_own, hand_over=_parameters)
    begin = starting(crew, fleet, seats, steps, places)
    sent_params = messages(crew, fleet).sent.params
    size_bytes = meeting.vectors * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(sent_params))
    size_bytes += 4 * (meeting.numbers + 1)  # and the number of the round

    def init(seed: int) -> Population:
        first = begin(seed)
        params = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], agents, axis=0), first.server.params)
        nodes = ServerState(params, (), meeting.init(params), (), jnp.int32(0))
        return first._replace(server=nodes)

    def round(
        population: Population, cohort: Sequence[int] | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        nodes, version = population.server, int(population.server.version)
        hints = () if meeting.correction is None else (meeting.correction(nodes.aggregator),)
        began = time.perf_counter()
        work = train(population, Broadcast(nodes.params, hints, nodes.version), cohort, True)
        ended = time.perf_counter()
        trained = _gathered(work, nodes.params)
        params, memory, sent, skipped = trained, nodes.aggregator, np.zeros(agents, int), ""
        if talk:
            present = np.isin(np.arange(agents), work.agents)
            matrices = [weights(version * consensus_steps + i, present) for i in range(consensus_steps)]
            with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                params, memory = meeting.meet(mixer(matrices), steps, nodes.params, memory, trained)
                params = jax.tree.map(lambda x, like: x.astype(like.dtype), params, trained)
            sent = messages_sent(matrices)
            skipped = _fault(params, memory)
            if skipped:
                params, memory = trained, nodes.aggregator
        apart = {"drift": distances(trained), "consensus_distance": distances(params), "messages": sent}
        seen = Round(
            metrics=work.metrics | apart,
            weight=0.0 if skipped else float(steps[work.agents].sum() * federation.learner.samples),
            refused=work.failed,
            bytes_up=int(sent.sum()) * size_bytes,
            bytes_down=0,
            messages_up=int(sent.sum()),
            messages_down=0,
            uploads=Uploads(sent.astype(np.int64) * size_bytes, sent.astype(np.int64), {}),
            arrivals=on_time(np.zeros(0, int)),
            skipped=skipped,
            sums=compute_of(began, ended),
        )
        nodes = nodes._replace(params=params, aggregator=memory, version=jnp.int32(version + 1))
        return Population(nodes, work.blocks, population.key), seen

    adopt_block = jax.jit(jax.vmap(crew.learner.adopt), compiler_options=QUICK)

    def adopt(population: Population) -> Population:
        heard = []
        for held, ids in zip(population.blocks, seats, strict=True):
            own = jax.tree.map(lambda x, rows=np.maximum(ids, 0): x[rows], population.server.params)
            heard.append(held._replace(learner=adopt_block(held.learner, own)))
        return population._replace(blocks=tuple(heard))

    def params_of(population: Population) -> Params:
        if not federation.learner.personalised:
            return population.server.params
        return params_held(crew, adopt(population).blocks, seats)

    return Simulation(init, round, params_of, agents, size, adopt=adopt, assign=assigning(federation))


def check_serverless(federation: Federation, rule: Rule) -> None:
    """Refuse a federation of which something would be left undone without a server.

    Raises:
        UnsoundError: It names the part and the way out.
    """
    learner, optimizer = federation.learner, federation.server_optimizer
    needing: list[object] = [*federation.stages, *([] if optimizer is None else [optimizer])]
    needing += [] if federation.aggregator.sees == "sum" else [federation.aggregator]
    if needing:
        part = written(needing[0])
        raise UnsoundError(
            f"{part} works on updates where they meet, and without a server they do not. Neighbours exchange "
            f"parameters and average them. Leave {part} out, or run the federation with a server."
        )
    if federation.payload != "delta":
        raise UnsoundError(
            f"payload is {federation.payload!r}, and without a server nobody descends it. Agents take their own steps. "
            "Use payload='delta'; with plain SGD and one local step, it is the same."
        )
    if learner.statistics is not None:
        raise UnsoundError(
            f"{learner!r} counts about moments that all agents share, and without a server they share none. "
            "Leave normalize(...) out, or run the federation with a server."
        )
    if isinstance(learner.environment, HostEnvironment):
        raise UnsoundError(
            f"{learner.environment!r} is stepped on the host, and agents without a server train in compiled programs. "
            "Use a compiled environment, or run the federation with a server."
        )
    if rule.correction is not None and not follows_corrections(learner):
        raise UnsoundError(
            f"{rule!r} corrects local gradients, and the optimiser of {learner!r} does not read corrections. "
            "Use optimizer = chain(corrected(), sgd(...))."
        )


def _steered(federation: Federation) -> Federation:
    """The same federation, whose agents take a correction that comes with what they are sent."""

    def encode(*given: PyTree) -> tuple[Update, PyTree]:
        *_, local, update = given
        return update, local

    pilot = Stage(encode, lambda params: (zeros_like(params), ()), lambda shared, local: shared)
    return federate(federation.learner, federation.aggregator, pilot, local_steps=federation.local_steps)


def _own(sent: Broadcast, agent: AgentState) -> Broadcast:
    """The rows of what is sent that are this agent's; an empty seat gets the first."""
    row = jnp.maximum(agent.agent, 0)
    own = jax.tree.map(lambda x: x[row], (sent.params, sent.shared))
    params, shared = jax.lax.optimization_barrier(own)
    return sent._replace(params=params, shared=shared)


def _parameters(federation: Federation, agents: AgentState, updates: Update, here: jax.Array) -> Params:
    """What a block hands over: what its agents hold."""
    del updates, here
    return jax.vmap(federation.learner.params)(agents.learner)


def _fault(params: Params, memory: PyTree) -> str:
    """What of neighbours' parameters and their rule's memory is not finite after they have met; empty if all is."""
    for name, tree in (("parameters", params), ("the memory of the rule", memory)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not np.isfinite(leaf).all():
                return f"{name}{jax.tree_util.keystr(path)} of neighbours would not be finite"
    return ""


def _gathered(work: Trained, start: Params) -> Params:
    """What every agent holds after training; those whose training failed, what they held before."""
    held = [jax.tree.map(lambda x, here=here: np.asarray(x)[here], params) for params, here in work.outcomes]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *held)

    def placed(before: np.ndarray, now: np.ndarray) -> np.ndarray:
        after = before.copy()
        after[work.agents] = now
        return after

    return jax.tree.map(placed, start, joined)
