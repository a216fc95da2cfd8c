"""What is said to leave agents is what a simulation counts: to whom, and to the byte."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.engines.simulate import simulate
from fedrl.engines.soundness import outgoing
from fedrl.engines.topologies.choices import gossip, hierarchy, isolated, server
from fedrl.federation.federate import federate
from fedrl.learners import add_correction, chain, sgd
from fedrl.server import greedy, oort, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.stages import download_only, hard_threshold, quantize, scaffold, top_k
from fedrl.topologies import average, gradient_tracking, metropolis, push_sum, ring, tree
from fedrl.topologies.mixing import column_stochastic
from tests.support.quadratic import FLEET, quadratic

AGENTS = 4
LEARNER = quadratic(chain(add_correction(), sgd(0.1)))


def listed(federation, topology=None, scheduler=None, devices=None):
    return outgoing(federation, FLEET, topology or server(), scheduler or Scheduler(), devices)


def one_round(federation, rounds: int = 1, **options):
    """The last of so many rounds."""
    with simulate(federation, FLEET, devices=jax.devices()[:1], **options) as simulation:
        run_state = simulation.init(0)
        for _ in range(rounds):
            run_state, seen = simulation.round(run_state)
        return seen


def sent(found, sender="agent", without=()) -> int:
    return sum(each.size_bytes for each in found if each.sender == sender and each.name not in without)


@pytest.mark.parametrize(
    ("stages", "options"),
    [((), {}), ((quantize(4),), {"reports": ["norm", "loss"]}), ((scaffold(0.1),), {})],
    ids=["plain", "coded, with reports", "with statistics"],
)
@pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
def test_messages_to_a_server_are_as_large_as_they_are_said_to_be(rule, stages, options) -> None:
    if rule.needs == "each" and stages and stages[0].sums:
        rule = mean("uniform")
    federation = federate(LEARNER, rule, *stages, **options)
    found = listed(federation)
    assert sent(found) * AGENTS == one_round(federation).bytes_up
    assert {each.to for each in found} == {"server"}


def test_bids_are_said_apart_from_what_follows_them() -> None:
    federation, asking = federate(LEARNER, mean(), reports=["norm"]), Scheduler(upload_budget=greedy(10_000))
    found = listed(federation, scheduler=asking)
    assert "report/norm" not in [each.name for each in found]
    assert "greedy" in next(each.note for each in found if each.name == "bid")
    assert sent(found) * AGENTS == one_round(federation, scheduler=asking).bytes_up


TREES = {
    "relays": tree([2, 1]),
    "edges of their own": tree([2, 1], [1, 2, 2]),
    "regions of their own": tree([2, 1], [1, 1, 2]),
    "every level of its own": tree([2, 1], [1, 2, 4]),
}


@pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
@pytest.mark.parametrize("which", TREES)
def test_each_level_of_a_tree_sends_what_it_is_said_to(which, rule) -> None:
    where, federation = hierarchy(TREES[which]), federate(LEARNER, rule)
    found, seen = listed(federation, where), one_round(federation, max(TREES[which].periods), topology=where)
    assert {each.to for each in found if each.sender == "agent"} == {"servers of level 1"}
    assert sent(found) * AGENTS == seen.levels[0][0]
    below = sent(found) * AGENTS
    for level, nodes in ((1, 2), (2, 2)):
        (up,) = [each for each in found if each.sender == f"servers of level {level}"]
        assert up.to == ("root" if level == 2 else "servers of level 2")
        below = below if up.size_bytes is None else up.size_bytes * nodes
        assert seen.levels[level][0] == below


def test_a_relay_above_servers_of_their_own_sends_what_those_hold_and_not_what_agents_send() -> None:
    where, federation = hierarchy(tree([2, 1], [1, 2, 2])), federate(LEARNER, mean(), download_only(["head"]))
    sizes = {each.name: each.size_bytes for each in listed(federation, where)}
    seen = one_round(federation, 2, topology=where)
    assert [up for up, _ in seen.levels[1:]] == [2 * sizes["change"], 2 * sizes["sum"]]


def test_the_change_of_a_server_has_the_sums_that_stages_keep() -> None:
    where, plain = hierarchy(tree([2], [1, 2])), federate(LEARNER, mean())
    federation = federate(LEARNER, mean(), scaffold(0.1))
    found = [{each.name: each.size_bytes for each in listed(made, where)} for made in (plain, federation)]
    assert found[1]["change"] == found[0]["change"] + 4 * 3
    assert one_round(federation, 2, topology=where).levels[1][0] == 2 * found[1]["change"]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("rule", "mixing"),
    [(average(), metropolis()), (push_sum(), column_stochastic()), (gradient_tracking(0.1), metropolis())],
    ids=["average", "push_sum", "gradient_tracking"],
)
def test_neighbours_send_whole_parameters(rule, mixing, steps) -> None:
    where, federation = gossip(ring(), mixing, rule, consensus_steps=steps), federate(LEARNER, mean())
    found, seen = listed(federation, where), one_round(federation, topology=where)
    sizes = [each.size_bytes for each in found if each.name in ("parameters", "sums")]
    assert len(sizes) == steps
    assert seen.bytes_up == seen.messages_up // steps * sum(sizes)
    assert {each.to for each in found} == {"neighbours"}


def test_neighbours_who_compress_send_differences_and_now_and_then_a_copy() -> None:
    where, federation = gossip(ring(), metropolis()), federate(LEARNER, mean(), top_k(0.5))
    found = {each.name: each.size_bytes for each in listed(federation, where)}
    seen = one_round(federation, topology=where)
    assert seen.bytes_up == seen.messages_up * found["difference"]
    with simulate(federation, FLEET, topology=where, devices=jax.devices()[:1]) as simulation:
        run_state, _ = simulation.round(simulation.init(0), cohort=[0, 1])
        _, seen = simulation.round(run_state)
    copies = int(seen.metrics["whole_copies"].sum())
    assert copies > 0
    assert seen.bytes_up == (seen.messages_up - copies) * found["difference"] + copies * found["parameters"]


def test_isolated_agents_send_nothing() -> None:
    assert listed(federate(LEARNER, mean()), isolated()) == []


def test_who_decides_who_takes_part_is_said() -> None:
    federation = federate(LEARNER, mean(), reports=["norm"])
    notes = [
        next(each.note for each in listed(federation, scheduler=plan, devices=clock()) if each.name == "participation")
        for plan in (Scheduler(selection=oort(2)), Scheduler(selection=uniform(2)))
    ]
    assert "oort(2)" in notes[0]
    assert "oort" not in notes[1]
    assert "arrival" in [each.name for each in listed(federation, devices=clock())]
    among = listed(federate(LEARNER, mean()), gossip(ring(), metropolis()), devices=clock())
    assert ("arrival", "neighbours") in [(each.name, each.to) for each in among]
    assert "arrival" not in [each.name for each in listed(federation)]


def test_what_varies_has_no_size() -> None:
    sizes = {each.name: each.size_bytes for each in listed(federate(LEARNER, mean(), hard_threshold(0.1)))}
    assert sizes["value"] is None
    assert sizes["weight"] == 4


@pytest.mark.parametrize(
    ("where", "opens"),
    [
        (server(), "the sum"),
        (hierarchy(tree([2, 1])), "the sum"),
        (hierarchy(tree([2], [1, 2])), "sums of subsets"),
        (gossip(ring(), metropolis()), "each"),
        (isolated(), "nothing"),
    ],
)
def test_topologies_say_what_they_open(where, opens) -> None:
    assert where.opens == opens
    assert np.isin(opens, ["the sum", "sums of subsets", "each", "nothing"])
