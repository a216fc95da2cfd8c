"""Hidden sums in a tree: each server with parameters of its own opens the sum of its own agents, or keeps its state."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.component import component
from fedrl.core.errors import UnsoundError
from fedrl.core.stage import Stage
from fedrl.core.summation import exact_sum
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import hierarchy
from fedrl.engines.topologies.tree import lowest
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.privacy import distributed_skellam
from fedrl.secure.grid import bits_below, ring_sum
from fedrl.server import poisson, round_robin, spaced, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.topologies import tree
from fedrl.topologies.trees import Tree
from tests.support.quadratic import Valley, quadratic

LARGEST, SIZE = 8.0, 4
LEARNER, UNIFORM = quadratic(sgd(0.1), size=SIZE), mean("uniform")


def fleet_of(agents: int, seed: int = 0) -> Valley:
    draws = np.random.default_rng(seed)
    shape = agents, SIZE
    return Valley(draws.uniform(0.2, 2.0, shape).astype(np.float32), draws.normal(size=shape).astype(np.float32))


@component("test double")
def onto_grid(bits: int) -> Stage:
    """Round towards zero to whole multiples of 2^-bits, as the hidden sum does."""

    def encode(key, context, server_state, agent_state, update):
        value = jax.tree.map(lambda x: jnp.trunc(x * 2.0**bits) * 2.0**-bits, update.value)
        return update._replace(value=value), agent_state

    return Stage(encode)


def drawn_tree(draws: np.random.Generator) -> Tree:
    """Up to three levels of servers below the root, at least one of which merges more often than the next."""
    levels = int(draws.integers(1, 4))
    branching = [int(draws.integers(2, 5)), *(int(x) for x in draws.integers(1, 4, levels - 1))]
    factors = draws.integers(1, 3, levels)
    factors[draws.integers(levels)] = 2
    return tree(branching, [1, *np.cumprod(factors).tolist()])


def servers_of(simulation, state) -> list[np.ndarray]:
    """The parameters of the root and of every server with parameters of its own."""
    levels, _ = state.engine_state.topology
    servers = [state.server, *(holder.server for level in levels for holder in level)]
    return [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(server.params)]) for server in servers]


def trained(federation, where: Tree, agents: int, rounds: int, fleet=None, cohort=lambda i: None, **options):
    """The parameters of all servers after each round, `[rounds + 1, servers, entries]`, and what each round showed."""
    fleet = fleet_of(agents) if fleet is None else fleet
    found, shown = [], []
    with simulate(
        federation, fleet, topology=hierarchy(where), devices=jax.devices()[:1], reproducible_noise=True, **options
    ) as simulation:
        state = simulation.init(0)
        found.append(servers_of(simulation, state))
        for i in range(rounds):
            state, seen = simulation.round(state, cohort(i))
            found.append(servers_of(simulation, state))
            shown.append(seen)
    return np.array(found), shown


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("protocol", ["none", "masks"])
def test_the_sum_of_each_server_is_the_plain_sum_on_the_grid_bit_for_bit(seed: int, protocol: str) -> None:
    draws = np.random.default_rng(seed)
    where = drawn_tree(draws)
    agents = int(math.prod(where.call.arguments["branching"])) * int(draws.integers(2, 5))
    group = lowest(where, agents)

    def cohort(i: int) -> np.ndarray:
        """Two or more agents of each server, others in each round."""
        mine = [
            np.random.default_rng((seed, i)).permutation(np.flatnonzero(group == k)) for k in range(group.max() + 1)
        ]
        return np.concatenate([ids[: draws.integers(2, len(ids) + 1)] for ids in mine])

    cohorts = [cohort(i) for i in range(5)]
    hiding = ring_sum(agents, LARGEST, minimum=2, protocol=protocol)
    plain = federate(LEARNER, UNIFORM, onto_grid(bits_below(agents, LARGEST)), summation=exact_sum())
    hidden = federate(LEARNER, UNIFORM, summation=hiding)
    expected, _ = trained(plain, where, agents, 5, cohort=cohorts.__getitem__)
    found, _ = trained(hidden, where, agents, 5, cohort=cohorts.__getitem__)
    np.testing.assert_array_equal(found, expected)
    # One step of each agent from zero, and the mean of those of each server.
    step = np.prod([np.float64(x) for x in fleet_of(agents)], axis=0) * 0.1
    means = [step[cohorts[0][group[cohorts[0]] == k]].mean(axis=0) for k in range(group.max() + 1)]
    np.testing.assert_allclose(found[1][1 : len(means) + 1], means, atol=1e-6)


WHERE, AGENTS = tree([3], [1, 2]), 9


def test_a_server_that_too_few_updates_reach_keeps_its_parameters_and_this_is_said() -> None:
    federation = federate(LEARNER, UNIFORM, summation=ring_sum(AGENTS, LARGEST, minimum=3))
    group = lowest(WHERE, AGENTS)
    assert np.bincount(group).tolist() == [3, 3, 3]
    lacking = np.flatnonzero(np.arange(AGENTS) != np.flatnonzero(group == 1)[0])
    found, shown = trained(federation, WHERE, AGENTS, 2, cohort=lambda i: lacking)
    root, first, second, third = range(4)
    np.testing.assert_array_equal(found[1, second], found[0, second])
    assert (found[1, [first, third]] != found[0, [first, third]]).any(axis=1).all()
    assert shown[0].skipped.startswith("edge 1: 2 of at least 3 updates arrived")
    # The root merges the changes of the others alone.
    mean_of_two = np.mean([found[1, k] for k in (first, third)], axis=0)
    assert shown[0].weight == 6.0
    assert not np.array_equal(found[2, root], found[0, root])
    assert np.isfinite(mean_of_two).all()


def test_a_round_in_which_too_few_updates_reach_every_server_changes_nothing() -> None:
    federation = federate(LEARNER, UNIFORM, summation=ring_sum(AGENTS, LARGEST, minimum=3))
    alone = [int(np.flatnonzero(lowest(WHERE, AGENTS) == i)[0]) for i in range(3)]
    found, shown = trained(federation, WHERE, AGENTS, 2, cohort=lambda i: alone)
    np.testing.assert_array_equal(found[2], found[0])
    assert all(seen.skipped.count("1 of at least 3 updates arrived") == 3 for seen in shown)
    assert all(seen.weight == 0.0 for seen in shown)


@pytest.mark.parametrize("selection", [uniform(2), round_robin(2), spaced(2, uniform(2))], ids=repr)
def test_a_cohort_below_the_minimum_is_refused_when_it_is_built(selection) -> None:
    for topology in (None, hierarchy(WHERE)):
        federation = federate(LEARNER, UNIFORM, summation=ring_sum(AGENTS, LARGEST, minimum=3))
        with pytest.raises(UnsoundError, match=r"ring_sum\(.* opens sums of 3 updates or more"):
            simulate(federation, fleet_of(AGENTS), topology=topology, scheduler=Scheduler(selection=selection))
    enough = federate(LEARNER, UNIFORM, summation=ring_sum(AGENTS, LARGEST, minimum=2))
    with simulate(enough, fleet_of(AGENTS), topology=hierarchy(WHERE), scheduler=Scheduler(selection=selection)):
        pass


@pytest.mark.parametrize("where", [tree([3]), WHERE], ids=["relays", "servers of their own"])
def test_a_cohort_that_is_drawn_below_the_minimum_is_counted_as_a_round_without_a_merge(where: Tree) -> None:
    federation = federate(LEARNER, UNIFORM, summation=ring_sum(AGENTS, LARGEST, minimum=3))
    scheduler = Scheduler(selection=poisson(0.5))
    found, shown = trained(federation, where, AGENTS, 20, scheduler=scheduler)
    group = lowest(where, AGENTS)
    too_few = 0
    for before, after, seen in zip(found[:-1], found[1:], shown, strict=True):
        came = np.bincount(group[seen.uploads.messages > 0], minlength=int(group.max()) + 1)
        said = int(((came > 0) & (came < 3)).sum())
        assert seen.skipped.count("updates arrived that") == said
        assert seen.weight == came[came >= 3].sum()
        if not (came >= 3).any() and where is not WHERE:
            np.testing.assert_array_equal(before, after)
        too_few += said
    assert too_few > 0


# Noise that agents add together.


def test_each_server_has_the_noise_of_the_price_in_the_sum_that_it_opens() -> None:
    stage = distributed_skellam(clip=0.5, noise_multiplier=2.0, least=3)
    assert stage.noise is not None
    assert stage.noise.grid is not None
    still = Valley(np.ones((AGENTS, SIZE), np.float32), np.zeros((AGENTS, SIZE), np.float32))
    summation = ring_sum(AGENTS, stage.noise.grid.largest(), minimum=3)
    # Agents at their minimum have nothing to send but noise, until the root has spread some.
    quiet = federate(quadratic(sgd(1e-9), size=SIZE), UNIFORM, stage, summation=summation)
    found, _ = trained(quiet, tree([3], [1, 400]), AGENTS, 300, fleet=still)
    noise = 3.0 * np.diff(found[:, 1:], axis=0)  # of each edge's sum, [rounds, edges, entries]
    whole = noise / stage.noise.grid.unit
    np.testing.assert_allclose(whole, np.rint(whole), atol=0.05)
    for edge in range(3):
        assert noise[:, edge].std() == pytest.approx(2.0 * 0.5, rel=4.0 / math.sqrt(2 * noise[:, edge].size))
    together = np.corrcoef(noise.transpose(1, 0, 2).reshape(3, -1))[np.triu_indices(3, 1)]
    assert np.abs(together).max() < 5.0 / math.sqrt(300 * SIZE)


def tables(least: int | None = None, minimum: int | None = None, **federation):
    return {
        "name": "x",
        "environment": "gridworld",
        "learner": "q_table",
        "rounds": 10,
        "seeds": 1,
        "federation": {
            "agents": 12,
            "trust": "honest_but_curious_coordinator",
            "hierarchy": {"name": "tree", "branching": [4], "periods": [1, 2]},
            "aggregator": {"name": "mean", "weighting": "uniform"},
            "summation": {"name": "ring_sum"} | ({} if minimum is None else {"minimum": minimum}),
            "privacy": {
                "epsilon": 8.0,
                "delta": 1e-3,
                "mechanism": {"name": "distributed_skellam", "clip": 0.5} | ({} if least is None else {"least": least}),
            },
            **federation,
        },
    }


def test_a_budget_in_a_tree_counts_on_the_agents_of_the_smallest_server() -> None:
    experiment = build(load(tables()))
    (stage,) = experiment.federation.stages
    assert stage.noise is not None
    assert stage.noise.grid is not None
    fewest = int(np.bincount(lowest(experiment.coordination.topology.tree, 12)).min())
    assert fewest == 4
    assert stage.noise.grid.least == experiment.federation.summation.minimum == fewest
    drawn = build(load(tables(selection={"name": "uniform", "cohort": 2})))
    assert drawn.federation.summation.minimum == 2
    # Each agent is in one sum of a round: the price is that of a round, whatever the other servers open.
    assert experiment.guarantee is not None
    assert 7.99 < experiment.guarantee.epsilon(0, 10) <= 8.0
    for wrong in (tables(least=5, minimum=5), tables(least=4, minimum=5)):
        with pytest.raises(UnsoundError, match=r"opens sums of 5 updates or more, and in tree.* of 4 agents at the sm"):
            build(load(wrong))
    with pytest.raises(UnsoundError, match="counts on the noise of 4 agents"):
        build(load(tables(least=4, minimum=3)))
    central = tables()
    central["federation"]["privacy"]["mechanism"] = {"name": "central_gaussian", "clip": 0.5}
    central["federation"] |= {"trust": "trusted_coordinator", "summation": {"name": "exact_sum"}}
    with pytest.raises(UnsoundError, match="This is not there yet"):
        build(load(central))


def played(federation, agents: int, rounds: int = 4):
    with simulate(federation, fleet_of(agents), topology=tree([4], [1, 2])) as simulation:
        state = simulation.init(0)
        for _ in range(rounds):
            state, seen = simulation.round(state)
    return jax.tree.map(np.asarray, state.server.params), seen


@pytest.mark.parametrize("protocol", ["masks", "additive"])
def test_the_sum_of_each_server_is_opened_by_the_protocol(protocol: str) -> None:
    def federation(protocol: str):
        return federate(LEARNER, UNIFORM, summation=ring_sum(10, LARGEST, minimum=2, protocol=protocol))

    (plain, before), (run, seen) = played(federation("none"), 10), played(federation(protocol), 10)
    jax.tree.map(np.testing.assert_array_equal, plain, run)
    assert seen.weight == before.weight == 10.0
    assert seen.uploads.messages.sum() == (50 if protocol == "masks" else 20)


def test_groups_lie_within_the_agents_of_a_server() -> None:
    federation = federate(LEARNER, median(), summation=ring_sum(8, LARGEST, group_size=4))
    run, seen = played(federation, 8, rounds=2)
    # One group for each server, so that its median is the mean of its agents.
    plain, _ = played(federate(LEARNER, UNIFORM), 8, rounds=2)
    assert seen.weight == 8.0
    # The root takes the median of two changes, which is their mean.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), plain, run)
