"""Sums by a protocol after the scheduler's decision: on clocks, in trees, with agents that leave, and their costs."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks.devices import clock
from fedrl.core.errors import ConfigError
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.secure.additive import AdditivePlan
from fedrl.secure.coordinator import PHASES
from fedrl.secure.drive import CostMeter, secure_sum
from fedrl.secure.drive_additive import additive_sum
from fedrl.secure.grid import ring_sum
from fedrl.secure.plan import sum_plan
from fedrl.secure.sizes import additive_phases, mask_phases
from fedrl.server.schedules import synchronous
from fedrl.topologies.trees import tree
from tests.support.quadratic import FLEET, Valley, quadratic

AGENTS = 12
MANY = Valley(*(np.concatenate([part] * 3) + np.arange(12, dtype=np.float32)[:, None] / 8 for part in FLEET))
SLOW = [0.1] * 10 + [3.0, 3.0]
"""Latencies: two agents need six seconds for an answer."""


def federation(protocol: str = "masks", **given):
    return federate(quadratic(sgd(0.1)), mean("uniform"), summation=ring_sum(AGENTS, 8.0, protocol=protocol, **given))


def played(built, rounds: int = 3, seed: int = 0, **parts):
    with simulate(built, MANY, **parts) as simulation:
        state, seen = simulation.init(seed), []
        for _ in range(rounds):
            state, found = simulation.round(state)
            seen.append(found)
        return jax.tree.map(np.asarray, state.server.params), seen, simulation.measures


def equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("verified", [True, False])
def test_phases_take_the_time_of_their_messages(verified: bool) -> None:
    given = clock(step_s=2.0, latency_s=0.5, up_bytes_per_s=1000.0, down_bytes_per_s=2000.0)
    plain, before, _ = played(federation("none"), clock=given)
    run, seen, measures = played(federation(verified=verified), clock=given)
    equal(plain, run)
    steps = mask_phases(sum_plan(b"", tuple(range(AGENTS)), 4, minimum=2, verified=verified))
    took_s = sum(1.0 + step.down / 2000.0 + step.up / 1000.0 for step in steps)
    assert {"left_sums", "sum_phases"} <= set(measures)
    assert seen[0].sums["sum_phases"] == pytest.approx(took_s)
    own_s = 1.0 + 2.0 + before[0].bytes_down / AGENTS / 2000.0  # training, without the update that phases send
    assert seen[0].clock_stats.time_s == pytest.approx(own_s + took_s)
    assert seen[1].clock_stats.time_s == pytest.approx(2 * (own_s + took_s))
    assert "left_sums" not in before[0].sums


def test_costs_are_those_of_the_messages_and_take_the_place_of_the_update() -> None:
    _, seen, _ = played(federation(), 1)
    _, plain, _ = played(federation("none"), 1)
    steps = mask_phases(sum_plan(b"", tuple(range(AGENTS)), 4, minimum=2))
    assert seen[0].uploads.size_bytes.tolist() == [sum(step.up for step in steps)] * AGENTS
    assert seen[0].uploads.messages.tolist() == [5] * AGENTS
    assert (seen[0].bytes_up, seen[0].messages_up) == (AGENTS * sum(step.up for step in steps), 5 * AGENTS)
    assert seen[0].bytes_down - plain[0].bytes_down == AGENTS * sum(step.down for step in steps)
    assert seen[0].messages_down - plain[0].messages_down == 4 * AGENTS
    _, shared, _ = played(federation("additive"), 1)
    (step,) = additive_phases(AdditivePlan(b"", tuple(range(AGENTS)), 4, 2, 2))
    assert shared[0].bytes_up == AGENTS * step.up


@pytest.mark.parametrize("count", [2, 7, 30])
def test_the_sizes_of_a_plan_are_those_of_its_messages(count: int) -> None:
    plan, meter = sum_plan(b"sizes", tuple(range(count)), 5, minimum=2), CostMeter()
    secure_sum(np.zeros((count, 5), np.int32), plan, meter=meter)
    for step in mask_phases(plan):
        assert (meter.costs[step.name].up_bytes, meter.costs[step.name].down_bytes) == (
            count * step.up,
            count * step.down,
        )
    for aggregators in (0, 2, 3):
        shared, meter = AdditivePlan(b"sizes", tuple(range(count)), 5, 2, aggregators), CostMeter()
        additive_sum(np.zeros((count, 5), np.int32), shared, meter=meter)
        for phase in additive_phases(shared):
            assert meter.sent[0] >= phase.up
            assert meter.costs[phase.name].up_bytes == count * phase.up


def test_slow_agents_leave_at_the_deadline_of_the_first_phase_and_the_sum_is_of_the_others() -> None:
    given = clock(latency_s=SLOW)
    run, seen, _ = played(federation(phase_s=2.0), 1, clock=given)
    assert [agent for agent, _ in seen[0].rejected] == [10, 11]
    assert seen[0].rejected[0].reason == "it left in the phase 'adverts' of the sum"
    assert (seen[0].weight, seen[0].sums["left_sums"]) == (10.0, 2.0)
    assert seen[0].sums["sum_phases"] == pytest.approx(2.0 + 4 * 0.2)
    built = federation("none")
    with simulate(built, MANY) as simulation:
        state, _ = simulation.round(simulation.init(0), without=[10, 11])
    equal(jax.tree.map(np.asarray, state.server.params), run)


def test_agents_that_leave_after_their_masked_vector_are_in_the_sum() -> None:
    """Over many rounds with drop-outs in all phases, each sum is that of those whose vectors had arrived."""
    built, given = federation(), clock(phase_drop_out=0.05)
    phases, later, whole = set(), 0, federation("none")
    with simulate(built, MANY, clock=given) as simulation, simulate(whole, MANY) as plain:
        state, other = simulation.init(3), plain.init(3)
        for _ in range(25):
            state, seen = simulation.round(state)
            left = {agent: reason.split("'")[1] for agent, reason in seen.rejected}
            phases |= set(left.values())
            later += int(seen.sums["left_sums"]) - len(left)
            missing = [agent for agent, phase in left.items() if phase in PHASES[:3]]
            assert bool(seen.skipped) or len(missing) == len(left)
            if seen.skipped:
                assert "given up" in seen.skipped
                assert seen.weight == 0.0
                other = other._replace(server=other.server._replace(version=other.server.version + 1))
            else:
                assert seen.weight == AGENTS - len(missing)
                other, _ = plain.round(other, without=missing)
            equal(state.server.params, other.server.params)
    assert set(PHASES[:3]) <= phases
    assert later > 0


def test_a_sum_that_is_given_up_changes_nothing_and_is_told() -> None:
    run, seen, _ = played(federation(minimum=11, phase_s=2.0), 1, clock=clock(latency_s=SLOW))
    assert seen[0].weight == 0.0
    assert "a sum was given up: 10 of 12 agents sent what the phase 'adverts' asks for, and 11" in seen[0].skipped
    assert seen[0].sums["sum_phases"] == pytest.approx(2.0)  # and no later phase
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(run))
    assert seen[0].uploads.messages.tolist() == [1] * 10 + [0, 0]


def test_rounds_on_the_clock_go_on_after_phases_in_which_agents_went_offline() -> None:
    given = clock(latency_s=0.2, online_s=20.0, offline_s=1.0)
    _, seen, _ = played(
        federation(phase_s=3.0), 20, clock=given, scheduler=synchronous(deadline_s=6.0, stragglers="cancel")
    )
    seconds = [each.clock_stats.time_s for each in seen]
    assert seconds == sorted(seconds)
    assert sum(each.sums["left_sums"] for each in seen) > 0
    assert sum(each.weight for each in seen) > 100


@pytest.mark.parametrize("protocol", ["masks", "additive", "ckks"])
def test_relays_forward_what_the_protocol_opens(protocol: str) -> None:
    relays = tree([3, 2])
    plain, _, _ = played(federation("none"), topology=relays)
    run, seen, _ = played(federation(protocol), topology=relays)
    equal(plain, run)
    assert seen[0].levels[0][0] == seen[0].uploads.size_bytes.sum()


def test_arguments_of_a_protocol_without_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"phase_s is 3 .* protocol is 'none', which has no phases"):
        ring_sum(4, 1.0, phase_s=3.0)
    with pytest.raises(ConfigError, match="verified is False, and protocol is 'additive', which has no tags"):
        ring_sum(4, 1.0, protocol="additive", verified=False)
    with pytest.raises(ConfigError, match=r"phase_drop_out is 0.1, and ring_sum\(.* has no protocol"):
        simulate(federation("none"), MANY, clock=clock(phase_drop_out=0.1))


def test_time_does_not_go_back_to_when_an_agent_came_back_while_phases_went_on() -> None:
    # Training takes 3 s and the phases 10 s, so agent 11 is back in the midst of them. The scheduler hears of it with
    # the next event, when the second round has begun.
    given = clock(step_s=1.0, latency_s=1.0, availability_trace=[[11, 6.0, 1e9]])
    _, seen, _ = played(federation(), 3, clock=given)
    assert [each.weight for each in seen] == [11.0, 11.0, 12.0]
    assert [each.clock_stats.time_s for each in seen] == pytest.approx([13.0, 26.0, 39.0])
