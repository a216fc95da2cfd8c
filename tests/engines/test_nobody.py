"""A round of nobody merges nothing, and where the server adds noise it releases that noise all the same, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.learner import Learner, nothing_gathered, same_stream
from fedrl.core.stage import Noise, Stage
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.server import fedavgm, greedy, oort, poisson
from fedrl.server.decisions import Selection
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_buff, synchronous
from fedrl.stages import clip, top_k
from fedrl.topologies import metropolis, ring, tree
from tests.support.quadratic import Valley, quadratic, valley

AGENTS, SIZE, ROUNDS, DIVISOR = 4, 3, 3, 7.0
FLEET = Valley(np.ones((AGENTS, 1), np.float32), np.zeros((AGENTS, 1), np.float32))


def at_rest(fault: float = 0.0) -> Learner:
    """A learner that learns nothing, or comes to what is not finite."""
    return Learner(
        init=lambda key, env_params: jnp.zeros(SIZE),
        collect=nothing_gathered,
        learn=lambda key, state, experience, context: (state + fault, {"loss": jnp.float32(0.0)}),
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[-1:], jnp.int32),
        params=lambda state: state,
        adopt=lambda state, params: params,
        environment=valley(1),
        samples=1,
        split_key=same_stream,
    )


def untouched(key, context, shared, local, update):
    return update, local


def noise_of_the_server() -> Stage:
    def finish(key, shared, update):
        total = update.value * update.weight + jax.random.normal(key, (SIZE,))
        return update._replace(value=total / DIVISOR), (shared[0] + 1, update.weight)

    return Stage(
        untouched,
        lambda value: ((jnp.int32(0), jnp.float32(-1.0)), ()),
        finish=finish,
        noise=Noise("a DpEvent", 1.0, "server"),
    )


def beyond_range() -> Stage:
    """Enlarges nothing that a federation is tried with when it is built, and what agents at rest send."""

    def encode(key, context, shared, local, update):
        return update._replace(value=jnp.where(update.value == 0.0, 1e30, update.value)), local

    return Stage(encode)


NOISY = federate(at_rest(), mean("uniform"), clip(1.0), noise_of_the_server())
NOBODY = Selection(lambda rng, ids, number, state: ids[:0])
WHERE = {
    "a server": {},
    "a tree of relays": {"topology": tree([2, 1])},
    "a clock": {"clock": clock(step_s=[1.0, 2.0, 3.0, 4.0])},
    "delays": {"scheduler": Scheduler(synchronous(), delay_rounds=1)},
}


def ran(federation, cohort=None, rounds: int = ROUNDS, **options):
    """The server after each round, and what was seen of it."""
    options |= {"devices": jax.devices()[:1], "reproducible_noise": True}
    with simulate(federation, FLEET, **options) as simulation:
        run_state, servers, seen = simulation.init(3), [], []
        for _ in range(rounds):
            run_state, record = simulation.round(run_state, cohort=cohort)
            servers.append(jax.tree.map(np.asarray, run_state.server))
            seen.append(record)
    return servers, seen


def check_released(servers) -> None:
    """Each round has noise of its own, and the next version."""
    assert [int(each.version) for each in servers] == list(range(1, len(servers) + 1))
    assert [int(each.stage_states[1][0]) for each in servers] == list(range(1, len(servers) + 1))
    assert len(np.unique(np.stack([each.params for each in servers]))) == len(servers) * SIZE


@pytest.mark.parametrize("where", WHERE)
def test_a_round_of_nobody_is_one_in_which_all_send_zeros(where: str) -> None:
    zeros, heard = ran(NOISY, **WHERE[where])
    nobody, silent = ran(NOISY, cohort=[], **WHERE[where])
    assert all(each.weight == AGENTS for each in heard)
    assert all(each.weight == 0.0 and not len(each.arrivals.sender) and not each.bytes_up for each in silent)
    check_released(nobody)
    for full, empty in zip(zeros, nobody, strict=True):
        for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(empty), strict=True):
            np.testing.assert_array_equal(a, b)


EMPTY = {
    "nobody is selected": {"scheduler": Scheduler(selection=NOBODY)},
    "a sample of nobody": {"scheduler": Scheduler(selection=poisson(1e-9))},
    "a sample of nobody on a clock": {"scheduler": Scheduler(selection=poisson(1e-9)), "clock": clock()},
    "samples of nobody in a tree": {"scheduler": Scheduler(selection=poisson(1e-9)), "topology": tree([2, 1])},
    "a sample of nobody, delayed": {"scheduler": Scheduler(selection=poisson(1e-9), delay_rounds=1)},
    "no quorum": {"scheduler": synchronous(quorum=3), "cohort": [0, 2]},
    "all drop out": {"clock": clock(drop_out=0.999999)},
    "no message can be read": {"clock": clock(malformed=0.999999)},
}


@pytest.mark.parametrize("how", EMPTY)
def test_noise_is_released_however_nobody_came_to_be_merged(how: str) -> None:
    expected, _ = ran(NOISY, cohort=[])
    servers, seen = ran(NOISY, **EMPTY[how])
    assert all(each.weight == 0.0 for each in seen)
    check_released(servers)
    for a, b in zip(expected, servers, strict=True):
        np.testing.assert_array_equal(a.params, b.params)


def test_noise_is_released_where_all_training_fails() -> None:
    failing = federate(at_rest(np.nan), mean("uniform"), clip(1.0), noise_of_the_server())
    servers, seen = ran(failing)
    assert all(len(each.rejected) == AGENTS for each in seen)
    check_released(servers)


def test_noise_is_released_where_the_server_leaves_all_updates_out() -> None:
    far = federate(at_rest(), mean("uniform"), clip(1.0), noise_of_the_server(), beyond_range())
    servers, seen = ran(far)
    assert all(len(each.rejected) == AGENTS and "reaches" in each.rejected[0].reason for each in seen)
    check_released(servers)
    for a, b in zip(ran(NOISY, cohort=[])[0], servers, strict=True):
        np.testing.assert_array_equal(a.params, b.params)


LEARNER = quadratic(sgd(0.1))
MANY = {
    "a server": {},
    "a tree of relays": {"topology": tree([2])},
    "a tree with periods": {"topology": tree([2], [1, 2])},
    "neighbours": {"topology": gossip(ring(), metropolis())},
    "isolated agents": {"topology": isolated()},
    "a clock": {"clock": clock()},
    "a budget": {"scheduler": Scheduler(upload_budget=greedy(1000))},
}


@pytest.mark.parametrize("where", MANY)
def test_without_noise_an_empty_cohort_changes_nothing_but_the_version(where: str) -> None:
    federation = federate(LEARNER, mean(), reports=["norm"])
    fleet = Valley(np.ones((AGENTS, SIZE), np.float32), np.ones((AGENTS, SIZE), np.float32))
    with simulate(federation, fleet, devices=jax.devices()[:1], **MANY[where]) as simulation:
        run_state, _ = simulation.round(simulation.init(0))
        before = jax.tree.map(np.array, (run_state.server.params, simulation.held(run_state)))
        version = int(run_state.server.version)
        run_state, seen = simulation.round(run_state, cohort=[])
        after = jax.tree.map(np.array, (run_state.server.params, simulation.held(run_state)))
        assert int(run_state.server.version) == version + 1
        assert not seen.steps.any()
        assert seen.weight == 0.0
        if where != "a tree with periods":  # whose root merges what came before
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
                np.testing.assert_array_equal(a, b)
        run_state, seen = simulation.round(run_state)
        assert seen.steps.any()


def test_without_noise_a_stage_and_an_optimiser_do_nothing_in_a_round_of_nobody() -> None:
    fleet = Valley(np.ones((AGENTS, SIZE), np.float32), np.ones((AGENTS, SIZE), np.float32))
    federation = federate(LEARNER, mean("uniform"), clip(1.0), server_optimizer=fedavgm())
    with simulate(federation, fleet, devices=jax.devices()[:1]) as simulation:
        run_state, _ = simulation.round(simulation.init(0))
        before = jax.tree.map(np.array, run_state.server.params)
        run_state, _ = simulation.round(run_state, cohort=[])
        for name, held in before.items():
            np.testing.assert_array_equal(run_state.server.params[name], held)


def test_a_buffer_is_filled_by_those_still_at_work_and_then_by_nobody() -> None:
    fleet = Valley(np.ones((AGENTS, SIZE), np.float32), np.ones((AGENTS, SIZE), np.float32))
    timing = {"scheduler": fed_buff(2), "clock": clock(), "merges": 1, "devices": jax.devices()[:1]}
    with simulate(federate(LEARNER, mean()), fleet, **timing) as simulation:
        run_state, _ = simulation.round(simulation.init(0))
        came = []
        for _ in range(4):
            run_state, seen = simulation.round(run_state, cohort=[])
            came.append(int(seen.turns.sum()))
        assert came == [2, 1, 0, 0]
        assert int(run_state.server.version) == 5


def test_who_decides_by_answers_hears_of_a_round_in_which_nobody_answered() -> None:
    federation = federate(LEARNER, mean(), top_k(0.5), reports=["norm"])
    fleet = Valley(np.ones((AGENTS, SIZE), np.float32), np.ones((AGENTS, SIZE), np.float32))
    devices, asking = clock(drop_out=0.999999), Scheduler(selection=oort(2))
    with simulate(federation, fleet, scheduler=asking, clock=devices, devices=jax.devices()[:1]) as simulation:
        run_state = simulation.init(0)
        for _ in range(2):
            run_state, seen = simulation.round(run_state)
            assert seen.clock_stats.dropped == 2
