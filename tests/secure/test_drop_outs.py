"""Whenever enough agents are left in every phase a secure sum completes, and it is the sum of what was sent."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from fedrl.secure import SumPlan, sum_plan
from fedrl.secure.identity import new_identities
from tests.support.secure_sums import Tally, has_to_complete, outcome, phases_of

SIX = tuple(range(6))
IDENTITIES = new_identities(SIX)
VALUES = np.random.default_rng(0).integers(0, 2**32, (6, 5), dtype=np.uint32)
CONTEXTS = itertools.count()
STAYS = "stays"


def six(threshold: int, verified: bool) -> SumPlan:
    return sum_plan(b"sum %d" % next(CONTEXTS), SIX, 5, threshold=threshold, verified=verified)


def checked(patterns, threshold: int, verified: bool) -> Tally:
    """Run each pattern, and compare it with the claim: it completes if and only if the threshold is never missed.

    Agents that leave stay away, so the fewest are there in the last phase.
    """
    tally = Counter()
    for when in patterns:
        leaves = {agent: phase for agent, phase in enumerate(when) if phase != STAYS}
        completed = outcome(VALUES, six(threshold, verified), leaves, IDENTITIES) is not None
        assert completed == (when.count(STAYS) >= threshold), when
        tally[completed] += 1
    return Tally(tally[True], tally[False])


FOUR = (*phases_of(six(4, False)), STAYS)
FIVE = (*phases_of(six(4, True)), STAYS)


@pytest.mark.parametrize("first", [*itertools.product(FOUR, repeat=2)])
def test_all_patterns_of_six_agents_complete_or_abort_as_the_threshold_says(first):
    """All 5^6, in 25 parts."""
    tally = checked((first + rest for rest in itertools.product(FOUR, repeat=4)), threshold=3, verified=False)
    print(f"first two {first}: {tally.completed} completed, {tally.aborted} aborted")
    stay = first.count(STAYS)
    ways = {stays: len(list(itertools.combinations(range(4), stays))) * 4 ** (4 - stays) for stays in range(5)}
    assert tally.completed == sum(number for stays, number in ways.items() if stay + stays >= 3)
    assert sum(tally) == 625


@pytest.mark.parametrize(("threshold", "completed"), [(4, 15 + 5 + 1), (6, 1)])
def test_all_patterns_with_tags_up_to_the_order_of_agents(threshold, completed):
    """All 462 ways to distribute six agents over five phases and staying, each in a random order."""
    rng = random.Random(threshold)
    patterns = [tuple(rng.sample(when, 6)) for when in itertools.combinations_with_replacement(FIVE, 6)]
    tally = checked(patterns, threshold, verified=True)
    print(f"threshold {threshold}: {tally.completed} completed, {tally.aborted} aborted")
    assert tally == (completed, 462 - completed)


@pytest.mark.parametrize(("threshold", "verified"), [(2, False), (3, False), (4, True), (5, True)])
def test_a_sample_of_patterns_completes_or_aborts_as_the_threshold_says(threshold, verified):
    rng, phases = random.Random(threshold), FIVE if verified else FOUR
    patterns = [tuple(rng.choices(phases, [1] * (len(phases) - 1) + [len(phases)], k=6)) for _ in range(30)]
    tally = checked(patterns, threshold, verified)
    print(f"threshold {threshold}: {tally.completed} completed, {tally.aborted} aborted")
    assert min(tally) >= 2


def test_an_agent_holds_a_share_of_its_own_seed():
    """The threshold is left, and each of them is a holder of every seed."""
    leaves = {0: "opening", 1: "opening", 2: "opening"}
    assert outcome(VALUES, six(3, False), leaves, IDENTITIES) is not None


def sparse(agents: int, samples: int, rates: tuple[float, ...], **settings: int) -> Tally:
    members, tally = tuple(range(agents)), Counter()
    identities, rng = new_identities(members), random.Random(agents)
    values = np.random.default_rng(agents).integers(0, 2**32, (agents, 3), dtype=np.uint32)
    for number, rate in enumerate(rate for rate in rates for _ in range(samples)):
        plan = sum_plan(b"sparse %d" % number, members, 3, **settings)  # the same graph in every run
        assert plan.degree < agents - 1
        leaves = {agent: rng.choice(phases_of(plan)) for agent in members if rng.random() < rate}
        completed = outcome(values, plan, leaves, identities) is not None
        assert completed == has_to_complete(plan, leaves), leaves
        tally[completed] += 1
    print(f"{agents} agents: {tally[True]} completed, {tally[False]} aborted")
    return Tally(tally[True], tally[False])


def test_a_sample_in_a_sparse_graph_completes_if_the_holders_of_each_secret_are_left():
    assert min(sparse(24, 4, (0.0, 0.1, 0.3, 0.6), degree=6, threshold=5)) >= 2


def test_samples_of_a_hundred_agents_complete_if_the_holders_of_each_secret_are_left():
    assert min(sparse(100, 4, (0.05, 0.1, 0.2, 0.3, 0.5))) >= 2


def test_samples_of_a_thousand_agents_complete_if_the_holders_of_each_secret_are_left():
    assert min(sparse(1000, 1, (0.1, 0.4))) >= 1


def test_a_sum_of_fewer_than_the_minimum_stays_hidden():
    plan = sum_plan(b"minimum", SIX, 5, threshold=2, minimum=5, verified=False)
    assert outcome(VALUES, plan, {0: "masked", 1: "masked"}, IDENTITIES) is None
