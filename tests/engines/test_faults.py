"""A number that is not finite costs an agent the round, not the run, and costs the others nothing.

In one round of several the environment of the fifth of five agents pays NaN or infinity. The others have to end up, to
the last bit, where they would have ended up without it in that round; it has to be back in the next.
"""

from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import afl, mean, median, q_ffl, weight_by_diversity
from fedrl.clocks import clock
from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_uniform, first
from fedrl.engines.simulate import simulate
from fedrl.engines.state import Rejection
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.environments.adapters import gymnasium as adapted
from fedrl.federation.federate import federate
from fedrl.learners import (
    a2c,
    accept_if_better,
    adam,
    add_correction,
    apfl,
    chain,
    interpolate,
    mlp,
    normalize,
    personal,
    ppo,
    q_table,
    reinforce,
    sgd,
)
from fedrl.server import greedy
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, top_k
from fedrl.topologies import gradient_tracking, metropolis, ring, tree
from tests.support.quadratic import Valley, quadratic

AGENTS, SICK, ROUND, ROUNDS = 5, 4, 2, 5
OTHERS = [0, 1, 2, 3]
PAYS = 1.2345678
"""What the fifth agent's environment pays: a number that nothing else in a population is."""
ON_HOST = {"pays": PAYS}
"""The same on the host."""
ONE = jax.devices()[:1]
SMALL = mlp((4,))


class WalkParams(NamedTuple):
    """What a step pays."""

    pays: jax.Array


FLEET = WalkParams(np.array([1.0] * SICK + [PAYS], np.float32))


@component("test double")
def walk(cells: int = 0, lasting: bool = False) -> Environment:
    """A walk that ends by chance; discrete with `cells`. With `lasting`, what is not finite stays in the state."""

    def shown(state):
        return (state % 1.0 * cells).astype(jnp.int32) if cells else jnp.stack([state, -state])

    def reset(noise, params):
        del params
        return first(shown(noise[0])), noise[0]

    def step(noise, params, state, action):
        reward = params.pays * (1.0 + action)
        state = state * 0.5 + noise[0] + (0.0 * reward if lasting else 0.0)
        return Timestep(shown(state), reward, noise[1] < 0.1, jnp.bool_(False)), state

    spaces = Spaces(Discrete(cells) if cells else Box((2,)), Discrete(2))
    return Environment(WalkParams(jnp.float32(1.0)), spaces, draw_uniform(1), draw_uniform(2), reset, step, 12)


class Walk(gymnasium.Env):
    """The same on the host."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, pays: float = 1.0, observed: bool = False):
        self.sick, self.observed = pays != 1.0, observed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action):
        reward, seen = ON_HOST["pays"] if self.sick else 1.0, self.np_random.normal(size=2).astype(np.float32)
        if self.observed and not np.isfinite(reward):
            reward, seen = 1.0, np.full(2, reward, np.float32)
        return seen, reward * (1 + action), bool(self.np_random.random() < 0.1), False, {}


gymnasium.register("FaultyWalk-v0", Walk, max_episode_steps=12)

SIZES = {"num_envs": 2, "num_steps": 6}
BASIC = a2c(walk(), network=SMALL, **SIZES)
FEDERATION = federate(BASIC, mean(), error_feedback(top_k(0.3)), server_optimizer=adam(0.01), local_steps=2)

LEARNERS = {
    "a2c": BASIC,
    "ppo": ppo(walk(), network=SMALL, num_epochs=2, num_minibatches=1, **SIZES),
    "reinforce": reinforce(walk(), network=SMALL, episodes_per_step=3),
    "q_table": q_table(walk(cells=3), **SIZES),
    "normalize": normalize(BASIC),
    "personal": personal(BASIC, local=["actor"]),
    "personal moments": personal(normalize(BASIC), local=["moments"]),
    "interpolate": interpolate(BASIC, 0.5),
    "apfl": apfl(BASIC),
    "accept_if_better": accept_if_better(BASIC, trials=1),
    "lasting state": a2c(walk(lasting=True), network=SMALL, **SIZES),
}


UNLIKE = clock(step_s=[1.0, 1.1, 1.3, 1.6, 1.2])


def blocks(federation, **given):
    return simulate(federation, FLEET, devices=ONE, **given)


ENGINES: dict[str, Any] = {
    "blocks": partial(blocks, FEDERATION),
    "each": partial(blocks, federate(BASIC, median(), error_feedback(top_k(0.3)), local_steps=2)),
    "gradients": partial(blocks, federate(BASIC, mean(), payload="gradient", server_optimizer=adam(0.01))),
    "budget": partial(
        blocks,
        federate(BASIC, mean(), error_feedback(top_k(0.3)), reports=["norm"]),
        scheduler=Scheduler(upload_budget=greedy(budget_bytes=600)),
    ),
    "tree": partial(blocks, FEDERATION, topology=tree([3])),
    "tree with periods": partial(blocks, FEDERATION, topology=tree([3], periods=(1, 2))),
    "no server": partial(blocks, federate(BASIC, mean(), local_steps=2), topology=gossip(ring(), metropolis())),
    "clock": partial(blocks, FEDERATION, clock=clock()),
    "clock in a tree": partial(blocks, FEDERATION, topology=tree([3], periods=(1, 2)), clock=clock()),
    "buffer": partial(blocks, FEDERATION, scheduler=fed_buff(buffer_size=2), clock=UNLIKE),
    "asynchronous": partial(blocks, FEDERATION, scheduler=fed_async(), clock=UNLIKE),
}


def played(simulation, value: float = PAYS, without: bool = False):
    """Each round's population and what was seen of it; in `ROUND` the fifth is paid `value`, or is not there."""
    run_state, found = simulation.init(0), []
    for number in range(1, ROUNDS + 1):
        where = jax.tree.map(is_paid, run_state)
        if number == ROUND:
            run_state, ON_HOST["pays"] = jax.tree.map(partial(pay, value), where, run_state), value
        absent = without and number == ROUND
        run_state, seen = simulation.round(run_state, cohort=OTHERS if absent else None)
        if number == ROUND:
            run_state, ON_HOST["pays"] = jax.tree.map(partial(pay, PAYS), where, run_state), PAYS
        held = simulation.params_of(simulation.adopt(jax.tree.map(jnp.copy, run_state)))
        found.append((jax.tree.map(np.asarray, (run_state.server.params, held)), seen, done_of(run_state)))
    return found


def is_paid(leaf) -> np.ndarray:
    """Where `PAYS` stands in an array, or its bits in an array of words."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.zeros(leaf.shape, bool)
    return np.asarray(leaf) == (np.float32(PAYS) if leaf.dtype == np.float32 else np.float32(PAYS).view(np.uint32))


def pay(value: float, where: np.ndarray, leaf):
    if not where.any():
        return leaf
    number = np.float32(value) if leaf.dtype == np.float32 else np.float32(value).view(np.uint32)
    changed = np.where(where, number, np.asarray(leaf))
    return jax.device_put(changed, leaf.sharding) if isinstance(leaf, jax.Array) else changed


def done_of(run_state) -> int:
    """Turns that the fifth has ended."""
    return int(run_state.engine_state.board.done[SICK])


def of_the_others(held, everybody: bool):
    server, params = held
    return jax.tree.leaves((() if everybody else server, jax.tree.map(lambda x: x[OTHERS], params)))


def same(one, other, everybody: bool = False) -> None:
    for a, b in zip(of_the_others(one, everybody), of_the_others(other, everybody), strict=True):
        np.testing.assert_array_equal(a, b)


def check(found, absent, per_agent: bool = False) -> None:
    """What has to be true of a run with a fault, beside one in which the fifth was not there in that round."""
    for (held, seen, _), (expected, _, _) in zip(found[:ROUND], absent[:ROUND], strict=True):
        same(held, expected, per_agent)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(held))
        assert all(np.isfinite(x).all() for name, x in seen.metrics.items() if not name.startswith("told/"))
    at_fault = found[ROUND - 1][1]
    assert {agent for agent, _ in at_fault.rejected} == {SICK}
    assert all(reason.endswith("is not finite") for _, reason in at_fault.rejected)
    assert at_fault.skipped == ""
    for held, seen, _ in found[ROUND:]:
        assert seen.rejected == ()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(held))


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, np.nan) for name in sorted(set(ENGINES) - {"buffer", "asynchronous"})), ("blocks", np.inf)],
)
def test_the_others_go_on_as_if_it_had_sat_the_round_out_and_it_is_back_in_the_next(name, value):
    simulation = ENGINES[name]()
    found, absent = played(simulation, value), played(simulation, without=True)
    check(found, absent, per_agent=name == "no server")
    usual, after = (found[i][1] for i in (0, ROUND))
    if name != "budget":
        assert after.weight == usual.weight
    assert found[ROUND - 1][1].weight == absent[ROUND - 1][1].weight
    assert found[ROUND - 1][1].bytes_up == absent[ROUND - 1][1].bytes_up


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_and_wrapper_is_what_it_was_before_the_round(name):
    simulation = blocks(federate(LEARNERS[name], mean(), error_feedback(top_k(0.3))))
    found, absent = played(simulation, np.nan), played(simulation, without=True)
    check(found, absent)
    assert found[ROUND][1].weight == found[0][1].weight


@pytest.mark.parametrize("name", ["buffer", "asynchronous"])
def test_where_nobody_waits_a_fault_is_a_turn_that_came_to_nothing(name, monkeypatch):
    found = played(ENGINES[name](), np.nan)
    lost = range(found[ROUND - 2][2], found[ROUND - 1][2])
    assert len(lost) > 0
    from fedrl.clocks import virtual
    from fedrl.clocks.events import DROPPED

    def ending(devices, seed, ids, turns, end_s):
        due_s, kind = original(devices, seed, ids, turns, end_s)
        return due_s, np.where((np.asarray(ids) == SICK) & np.isin(turns, lost), DROPPED, kind)

    original = virtual.ending
    monkeypatch.setattr(virtual, "ending", ending)
    check(found, played(ENGINES[name]()))


@pytest.mark.parametrize("schedule", [fed_async(), fed_buff(buffer_size=3), synchronous()])
def test_where_everybody_fails_nobody_is_waited_for_and_rounds_go_by(schedule):
    broken = FLEET._replace(pays=np.full(AGENTS, np.nan, np.float32))
    simulation = simulate(FEDERATION, broken, scheduler=schedule, clock=clock(), devices=ONE)
    run_state = simulation.init(0)
    before = jax.tree.map(np.array, run_state.server.params)
    for _ in range(2):
        run_state, seen = simulation.round(run_state)
        assert {agent for agent, _ in seen.rejected} == set(range(AGENTS))
        assert (seen.weight, seen.clock_stats.arrived) == (0.0, 0)
    jax.tree.map(np.testing.assert_array_equal, run_state.server.params, before)


@pytest.mark.parametrize("agents", [1, 3])
@pytest.mark.parametrize("rule", [mean(), median(), q_ffl(2.0), weight_by_diversity(), afl(3)], ids=repr)
@pytest.mark.parametrize("topology", [None, tree([2])], ids=["flat", "tree"])
def test_a_round_in_which_everybody_fails_goes_by_whatever_the_rule(topology, rule, agents):
    broken = FLEET._replace(pays=np.full(agents, np.nan, np.float32))
    simulation = simulate(federate(BASIC, rule), broken, topology=topology, devices=ONE)
    run_state = simulation.init(0)
    before = jax.tree.map(np.array, run_state.server.params)
    run_state, seen = simulation.round(run_state)
    assert [agent for agent, _ in seen.rejected] == list(range(agents))
    assert seen.weight == 0.0
    jax.tree.map(np.testing.assert_array_equal, run_state.server.params, before)


@pytest.mark.parametrize("on_host", [False, True])
def test_who_fails_tells_nothing(on_host):
    if on_host:
        environment = adapted("FaultyWalk-v0", settings={"pays": 1.0}, options={"observed": False})
        fleet = environment.params._replace(pays=jnp.asarray(FLEET.pays))
        learner = a2c(environment, network=SMALL, **SIZES)
        simulation = simulate(federate(learner, mean(), reports=["loss", "norm"]), fleet, devices=ONE, workers=0)
    else:
        simulation = blocks(federate(BASIC, mean(), reports=["loss", "norm"]))
    with simulation:
        for number, (_, seen, _) in enumerate(played(simulation, np.nan), 1):
            known = [True] * SICK + [number != ROUND]
            for said in seen.uploads.report.values():
                np.testing.assert_array_equal(np.isfinite(said), known)


def test_neighbours_that_would_make_infinity_of_finite_numbers_go_on_from_what_they_have():
    huge = np.array([[3e38], [3e38], [3e38]], np.float32)
    learner = quadratic(chain(add_correction(), sgd(0.5)), size=1)
    valley = Valley(np.ones((3, 1), np.float32), huge * np.array([[1.0], [-1.0], [1.0]], np.float32))
    topology = gossip(ring(), metropolis(), gradient_tracking(1e-3))
    simulation = simulate(federate(learner, mean()), valley, topology=topology, devices=ONE, block=1)
    run_state = simulation.init(0)
    told = []
    for _ in range(3):
        run_state, seen = simulation.round(run_state)
        told.append(seen.skipped)
        assert all(
            np.isfinite(x).all() for x in jax.tree.leaves((run_state.server.params, run_state.server.aggregator))
        )
    assert any("would not be finite" in why for why in told)


def test_isolated_agents_lose_a_round_as_well_and_it_is_told():
    simulation = blocks(federate(BASIC, mean(), local_steps=2), topology=isolated())
    found, absent = played(simulation, np.nan), played(simulation, without=True)
    check(found, absent)
    for held, expected in zip(found[ROUND - 1][0], absent[ROUND - 1][0], strict=True):
        jax.tree.map(np.testing.assert_array_equal, held, expected)  # the fifth is where it was before, too


@pytest.mark.parametrize("wrapped", [lambda x: x, normalize], ids=["a2c", "normalize"])
@pytest.mark.parametrize("observed", [False, True], ids=["reward", "observation"])
@pytest.mark.parametrize("steps", [1, 2])
def test_gymnasium_environments_begin_anew_after_a_fault(wrapped, observed, steps):
    environment = adapted("FaultyWalk-v0", settings={"pays": 1.0}, options={"observed": observed})
    federation = federate(
        wrapped(a2c(environment, network=SMALL, **SIZES)), mean(), error_feedback(top_k(0.3)), local_steps=steps
    )
    fleet = environment.params._replace(pays=jnp.asarray(FLEET.pays))
    with simulate(federation, fleet, devices=ONE, workers=0) as simulation:
        found = played(simulation, np.nan)
        check(found, played(simulation, without=True))
        assert found[ROUND][1].weight == found[0][1].weight


COMPOSED = {
    "tree": {"topology": tree([3], periods=(1, 2))},
    "no server": {"topology": gossip(ring(), metropolis())},
    "clock": {"clock": UNLIKE},
}


@pytest.mark.parametrize("case", COMPOSED)
def test_so_they_do_whatever_is_composed(case):
    environment = adapted("FaultyWalk-v0", settings={"pays": 1.0}, options={"observed": False})
    fleet = environment.params._replace(pays=jnp.asarray(FLEET.pays))
    federation = federate(a2c(environment, network=SMALL, **SIZES), mean())
    with simulate(federation, fleet, **COMPOSED[case], devices=ONE, workers=0) as simulation:
        found = played(simulation, np.nan)
        check(found, played(simulation, without=True), per_agent=case == "no server")
        assert found[ROUND][1].weight == found[0][1].weight


def test_a_refusal_names_the_part():
    simulation = blocks(FEDERATION)
    seen = played(simulation, np.nan)[ROUND - 1][1]
    assert isinstance(seen.rejected[0], Rejection)
    assert "state.params['actor']" in seen.rejected[0].reason


def test_what_the_server_makes_of_good_updates_is_not_committed_unless_it_is_finite():
    simulation = blocks(federate(BASIC, mean(), server_optimizer=optax.adam(np.inf)))
    run_state = simulation.init(0)
    first_params = jax.tree.map(np.array, run_state.server.params)
    for number in range(1, 3):
        run_state, seen = simulation.round(run_state)
        assert "server.params" in seen.skipped
        assert seen.weight == 0.0
        assert int(run_state.server.version) == number
        jax.tree.map(np.testing.assert_array_equal, run_state.server.params, first_params)
