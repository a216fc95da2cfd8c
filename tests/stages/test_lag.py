"""Lazy agents: nothing is lost by waiting, and what is held back costs a byte and no message."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.aggregators import mean, median
from fedrl.core.aggregator import on_time
from fedrl.core.errors import ConfigError, UnsoundError, WireError
from fedrl.core.stage import Noise, Stage
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.stages import error_feedback, lag, scaffold, sign, top_k
from fedrl.wire.codec import codec
from tests.support.hidden import veil
from tests.support.quadratic import FLEET, flat, quadratic
from tests.support.turns import keys_of_server, turns_of

RATE, FACTOR, MEMORY = 0.1, 20.0, 4
HEAD = 8  # weight and version
DEVICE = jax.devices()[:1]
KEY = jax.random.key(0)
CONTEXT = UpdateContext(jnp.int32(0), jnp.int32(0), jnp.int32(1), jnp.int32(1))


def twin(rounds: int) -> tuple[np.ndarray, list[int]]:
    """Lazy gradient descent on the quadratics in NumPy: where the server gets to, and how many spoke in each round."""
    curvature, minimum = FLEET.curvature.astype(np.float64), FLEET.minimum.astype(np.float64)
    x, held, moved, messages_sent = np.zeros(3), np.zeros((4, 3)), 0.0, []
    for _ in range(rounds):
        held = held - RATE * curvature * (x - minimum)
        loud = (held**2).sum(1) > FACTOR * moved
        step = np.where(loud[:, None], held, 0.0).mean(0)
        held = np.where(loud[:, None], 0.0, held)
        x, moved = x + step, moved + ((step**2).sum() - moved) / MEMORY
        messages_sent.append(int(loud.sum()))
    return x, messages_sent


def test_rounds_are_those_of_plain_numpy_and_take_the_messages_and_bytes_they_should():
    federation = federate(quadratic(sgd(RATE)), mean(), lag(factor=FACTOR, memory=MEMORY))
    simulation = simulate(federation, FLEET, devices=DEVICE)
    run_state, rounds = simulation.init(0), []
    for _ in range(40):
        run_state, seen = simulation.round(run_state)
        rounds.append(seen)
    expected, messages_sent = twin(40)
    assert [seen.messages_up for seen in rounds] == messages_sent
    assert 30 < sum(messages_sent) < 80  # of 160: most are silent
    assert [seen.bytes_up for seen in rounds] == [4 * (HEAD + 1) + 12 * loud for loud in messages_sent]
    assert all(seen.messages_down == 4 and seen.weight == 4.0 for seen in rounds)
    np.testing.assert_allclose(flat(run_state.server.params), expected, rtol=1e-4, atol=1e-6)


def test_held_back_updates_arrive_and_the_minimum_is_reached_nearly():
    federation = federate(quadratic(sgd(RATE)), mean(), lag(factor=FACTOR, memory=MEMORY))
    simulation = simulate(federation, FLEET, devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(400):
        run_state, _ = simulation.round(run_state)
    curvature, minimum = FLEET.curvature.astype(np.float64), FLEET.minimum.astype(np.float64)
    optimum = (curvature * minimum).sum(0) / curvature.sum(0)
    np.testing.assert_allclose(flat(run_state.server.params), optimum, atol=0.1)


@given(st.lists(st.floats(-4.0, 4.0, width=16), min_size=1, max_size=12), st.floats(0.0, 9.0))
def test_what_was_read_and_what_is_held_back_add_up_to_what_was_meant(meant, moved):
    stage = lag(factor=1.0)
    (inside, _), agent_state = stage.init(jnp.zeros(1))
    server_state, arrived = (inside, jnp.float32(moved)), 0.0
    for x in meant:
        update, agent_state = stage.encode(
            KEY, CONTEXT, server_state, agent_state, Update(jnp.array([x]), jnp.float32(5.0), jnp.int32(0))
        )
        read = stage.decode(server_state, update)
        assert read.weight == 5.0
        assert bool(update.value.messages_sent) == (read.value[0] != 0.0)
        arrived += float(read.value[0])
    assert arrived + float(agent_state[1][0]) == pytest.approx(sum(meant), abs=1e-4)


def test_stages_inside_stand_still_while_the_agent_is_silent():
    stage = lag(error_feedback(top_k(0.5)), factor=1.0)
    (inside, _), agent_state = stage.init(jnp.zeros(2))
    given_ = Update(jnp.array([3.0, 1.0]), jnp.float32(1.0), jnp.int32(0))
    _, messages_sent = stage.encode(KEY, CONTEXT, (inside, jnp.float32(0.0)), agent_state, given_)
    assert (messages_sent[0][0][1].tolist(), messages_sent[1].tolist()) == (
        [0.0, 1.0],
        [0.0, 0.0],
    )  # the residual, and what is held
    _, silent = stage.encode(KEY, CONTEXT, (inside, jnp.float32(99.0)), messages_sent, given_)
    assert (silent[0][0][1].tolist(), silent[1].tolist()) == ([0.0, 1.0], [3.0, 1.0])


def test_an_update_that_is_not_finite_is_sent_for_the_server_to_refuse_and_then_forgotten():
    stage = lag()
    (inside, _), agent_state = stage.init(jnp.zeros(1))
    sick = Update(jnp.array([jnp.nan]), jnp.float32(1.0), jnp.int32(0))
    update, agent_state = stage.encode(KEY, CONTEXT, (inside, jnp.float32(99.0)), agent_state, sick)
    assert update.value.messages_sent
    assert agent_state[1].tolist() == [0.0]


def test_compressed_or_not_the_simulator_reports_the_bytes_that_would_travel():
    """Three rounds by hand, every update as bytes in between, against three rounds of the engine."""
    federation = federate(quadratic(sgd(RATE)), mean(), lag(error_feedback(sign()), factor=FACTOR, memory=2))
    simulation = simulate(federation, FLEET, devices=DEVICE)
    run_state, lengths = simulation.init(0), set()
    each = jax.jit(jax.vmap(federation.agent, (0, None, 0, None)))
    for _ in range(5):
        server = run_state.server
        agents = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *run_state.blocks)
        updates, _, _ = each(turns_of(run_state, 4), federation.broadcast(server), agents, jnp.int32(4))
        sent = [jax.tree.map(lambda x, k=k: x[k], updates) for k in range(4)]
        wire = codec(sent[0])
        bytes_up = [wire.encode(update) for update in sent]
        arrived = jax.tree.map(lambda *leaves: np.stack(leaves), *map(wire.decode, bytes_up))
        expected = federation.server(keys_of_server(run_state), on_time(np.arange(4)), server, arrived)
        run_state, seen = simulation.round(run_state)
        assert seen.uploads.size_bytes.tolist() == list(map(len, bytes_up))
        assert seen.messages_up == sum(len(data) > HEAD + 1 for data in bytes_up)
        np.testing.assert_allclose(flat(run_state.server.params), flat(expected.params), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run_state.server.stage_states[0][1], expected.stage_states[0][1], rtol=1e-5)
        lengths |= set(map(len, bytes_up))
    assert lengths == {HEAD + 1, HEAD + 1 + (4 + 1) + (4 + 1)}  # two arrays, a scale and a byte of signs each


def test_a_flag_that_is_neither_is_refused():
    stage = lag()
    server_state, agent_state = stage.init(jnp.zeros(3))
    update, _ = stage.encode(
        KEY, CONTEXT, server_state, agent_state, Update(jnp.ones(3), jnp.float32(1.0), jnp.int32(0))
    )
    wire = codec(update)
    sent = bytearray(wire.encode(update))
    sent[0] = 2
    with pytest.raises(WireError, match="whether an update follows is 2, and must be 0 or 1"):
        wire.decode(bytes(sent))


def untouched(key, context, server_state, agent_state, update):
    return update, agent_state


NOISY = Stage(untouched, noise=Noise("a DpEvent", 1.0, "agent"))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: lag(factor=0.0), ConfigError, "factor is 0.0"),
        (lambda: lag(memory=0), ConfigError, "memory is 0"),
        (lambda: lag(scaffold(0.1)), UnsoundError, r"work in every round\. Put scaffold"),
        (lambda: lag(lag()), UnsoundError, "skips uploads itself"),
        (lambda: lag(NOISY), UnsoundError, "adds noise"),
        (lambda: error_feedback(lag()), UnsoundError, r"lag\(error_feedback\(sign\(\)\)\)"),
        (
            lambda: federate(quadratic(sgd(0.1)), median(), lag()),
            UnsoundError,
            r"median\(\) reads each update.*mean\(\)",
        ),
        (
            lambda: federate(quadratic(sgd(0.1)), mean("uniform"), lag(), NOISY),
            UnsoundError,
            "sends an update or none depending on the data",
        ),
        (
            lambda: federate(quadratic(sgd(0.1)), mean("uniform"), lag(), summation=veil()),
            UnsoundError,
            r"lag\(.*is decoded update by update, and veil\(\)",
        ),
    ],
)
def test_what_would_not_do_what_it_promises_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
