"""Halves that believe nothing: whatever comes to one is refused in words, and leaves nothing behind."""

import inspect
import os

import jax
import numpy as np
import pytest

from fedrl.core.errors import ConfigError, RunError, WireError
from fedrl.core.keys import agent_secret, keys_of
from fedrl.engines.halves import AgentHalf, ServerHalf, Verdict
from fedrl.engines.halves.saved import load, save
from fedrl.engines.halves.server import NAMED, Version
from fedrl.learners import normalize
from fedrl.stages import error_feedback, quantize, scaffold, top_k
from tests.engines.test_halves import (
    AGENTS,
    FLEET,
    POLE,
    STEERED,
    VALLEY,
    Apart,
    apart,
    equal,
    federate,
    fleet_of,
    leaves,
    mean,
    median,
)

KEYS = keys_of(0)
RUN, SECRET = KEYS.run.tobytes(), agent_secret(KEYS, 0)
SETTING = jax.tree.map(lambda x: x[0], FLEET)


def as_in_use(function, *given):
    """Call it without the checks of types that tests put on it."""
    return inspect.unwrap(function)(*given)


def built(kind, *given):
    half = object.__new__(kind)
    as_in_use(kind.__init__, half, *given)
    return half


def opened(*stages):
    halves = apart(*stages)
    version = halves.server.open(halves.server_run)
    return halves, version, [half.train(halves.runs[k], version.broadcast, version.orders[k]).update
                             for k, half in enumerate(halves.agents)]  # fmt: skip


# --- what comes to a server ------------------------------------------------------------------------------------------

NOBODIES = [True, 1.0, 0.5, float("nan"), "0", b"0", None, [0], {}, (0,), 2**70, 10**5000, np.array(3)]


def test_nothing_that_comes_with_a_message_stops_the_server():
    halves, version, updates = opened()
    for nobody in NOBODIES:
        assert as_in_use(Version.take, version, nobody, updates[0]) == "no number of an agent came with it"
    for data in (None, "", 0, [1, 2], "x" * 5, np.zeros(3, np.uint8)):
        assert "came, and a message is bytes" in as_in_use(Version.take, version, 0, data)
    assert as_in_use(Version.take, version, np.int64(1), bytearray(updates[1])) == ""
    assert version.take(-1, updates[0]) == "agent -1 was not asked for version 0"
    closed = version.close()
    assert closed.verdicts[0] is Verdict.REJECTED
    assert closed.verdicts[1] is Verdict.MERGED
    assert len(closed.rejected) == len(NOBODIES) + 6 + 1
    alone = halves.server.open(halves.server_run)
    alone.take(1, updates[1])
    equal(closed.run, alone.close().run)


def test_an_update_of_random_bytes_is_read_or_refused_in_words():
    draws = np.random.default_rng(0)
    for stages in ((), (quantize(1),), (quantize(3),), (top_k(0.3), quantize(8))):
        halves, version, updates = opened(*stages)
        for _ in range(100):
            data = bytearray(updates[0])
            data[draws.integers(len(data))] = draws.integers(256)
            version = halves.server.open(halves.server_run)
            version.take(0, bytes(data))
            version.take(1, draws.bytes(len(data)))
            version.close()


def test_a_weight_within_rounding_is_the_servers_own_and_numbers_far_below_zero_are_refused():
    halves, version, updates = opened()
    said = [halves.server.sent.decode(update) for update in updates]
    near = said[0]._replace(weight=np.float32(said[0].weight * (1.0 + 5e-6)))
    far = said[1]._replace(value=jax.tree.map(lambda x: np.full_like(x, -1e16), said[1].value))
    assert near.weight != said[0].weight
    assert version.take(0, halves.server.sent.encode(near)) == ""
    assert "reaches 1e+16, and 1e+15 is the most" in version.take(1, halves.server.sent.encode(far))
    honest = halves.server.open(halves.server_run)
    assert (honest.take(0, updates[0]), version.take(2, updates[2]), honest.take(2, updates[2])) == ("", "", "")
    equal(version.close().run, honest.close().run)


def test_messages_that_are_refused_take_no_memory_however_many_there_are():
    _, version, updates = opened()
    for k in range(NAMED + 500):
        assert version.take(k + AGENTS, b"")
    assert version.take(0, b"")
    assert version.take(1, updates[1]) == ""
    closed = version.close()
    assert (len(closed.rejected), closed.unnamed) == (NAMED, 501)
    assert closed.verdicts[0] is Verdict.REJECTED  # though it is not named


def test_a_version_that_is_closed_takes_nothing_and_stays_as_it_was_closed():
    _, version, updates = opened()
    assert version.take(0, updates[0]) == ""
    closed = version.close()
    assert version.take(1, updates[1]) == "version 0 is closed"
    assert version.close() is closed
    assert version.taken == [0]


@pytest.mark.parametrize("asked", [{True: 1}, {"a": 1}, {0.5: 1}, {0: True}, {0: 1.0}, {5: 1}, {-1: 1}, {0: 2}])
def test_a_server_orders_whole_numbers_of_agents_it_has(asked):
    halves = apart()
    with pytest.raises(ConfigError, match=r"is ordered .* local steps. Agents are integers from 0 to 4"):
        as_in_use(ServerHalf.open, halves.server, halves.server_run, asked)


# --- what comes to an agent ------------------------------------------------------------------------------------------

ORDERS = [
    *({"cohort": value} for value in (0, -1, 2**40, 1.5, True)),
    *({"share": value} for value in (float("nan"), 1e30, -1.0, "1")),
    *({"steps": value} for value in (1.0, float("nan"), "1", True)),
    *({"version": value} for value in (-1, 0.0, False, 2**40)),
]


@pytest.mark.parametrize("said", ORDERS, ids=str)
def test_an_agent_takes_no_order_that_no_server_of_its_federation_gives(said):
    halves = apart()
    version = halves.server.open(halves.server_run)
    with pytest.raises(WireError, match="Compare the configurations of server and agent"):
        halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0]._replace(**said))


def test_an_agent_goes_back_to_no_version_lest_it_draws_by_one_key_twice():
    halves = apart(quantize(4))
    old = halves.server.open(halves.server_run)
    halves.round(np.random.default_rng(0))
    new, agent = halves.server.open(halves.server_run), halves.agents[0]
    run = agent.train(halves.runs[0], new.broadcast, new.orders[0]).run
    with pytest.raises(WireError, match="The order has version 0, and this agent has received version 1 before"):
        agent.train(run, old.broadcast, old.orders[0])
    assert agent.train(run, new.broadcast, new.orders[0]).update  # the same once more, by other keys


def test_an_agent_takes_no_broadcast_for_another_version_than_it_was_ordered():
    halves = apart()
    version = halves.server.open(halves.server_run)
    with pytest.raises(WireError, match="The broadcast has version 0, and the order version 1"):
        halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0]._replace(version=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_parameters_that_break_the_training_leave_an_agent_what_it_was(value):
    halves = apart(error_feedback(top_k(0.3)))
    version, agent, run = halves.server.open(halves.server_run), halves.agents[0], halves.runs[0]
    heard = agent._broadcasts.decode(version.broadcast)
    bad = agent._broadcasts.encode(heard._replace(params=jax.tree.map(lambda x: np.full_like(x, value), heard.params)))
    turn = agent.train(run, bad, version.orders[0])
    assert (turn.update, turn.run.pending) == (b"", ())
    for before, after in zip(run.agents.blocks, turn.run.agents.blocks, strict=True):
        equal(leaves((before.learner, before.stage_states)), leaves((after.learner, after.stage_states)))


# --- what a half is built of -----------------------------------------------------------------------------------------

ROOTS = [
    (b"", SECRET, "run is 0 bytes"),
    (RUN, b"", "secret is 0 bytes"),
    (RUN, SECRET[:31], "secret is 31 bytes"),
    (RUN, SECRET.hex(), "secret is of type str"),
    (RUN, RUN, "run and secret are the same bytes"),
]


@pytest.mark.parametrize(("run", "secret", "words"), ROOTS, ids=[words for *_, words in ROOTS])
def test_a_half_takes_no_root_that_others_could_guess(run, secret, words):
    federation = federate(VALLEY, mean())
    for half, given in ((AgentHalf, (0, SETTING)), (ServerHalf, (SETTING, [1]))):
        with pytest.raises(ConfigError, match=words):
            built(half, federation, *given, run, secret)


@pytest.mark.parametrize("setting", [FLEET, None, {"length": 0.5}, "a pole"], ids=["a fleet", "none", "other", "text"])
def test_a_half_has_the_setting_of_one_environment(setting):
    federation = federate(VALLEY, mean())
    for half, given in ((AgentHalf, (0, setting)), (ServerHalf, (setting, [1]))):
        with pytest.raises(ConfigError, match=r"setting has .*, and .* takes .*Give environment.params"):
            built(half, federation, *given, RUN, SECRET)


@pytest.mark.parametrize(("number", "steps"), [(-1, 1), (True, 1), (0.0, 1), ("0", 1), (0, 0), (0, 2), (0, 1.0)])
def test_the_numbers_of_a_half_are_checked_before_anything_is_compiled(number, steps):
    federation = federate(VALLEY, mean())
    with pytest.raises(ConfigError, match="Give whole numbers within that"):
        built(AgentHalf, federation, number, SETTING, RUN, SECRET, steps)
    if type(number) is int and number == 0:
        with pytest.raises(ConfigError, match="Give numbers in these ranges"):
            built(ServerHalf, federation, SETTING, [1, steps], RUN, SECRET)


# --- what an agent goes on from --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_agent_that_stops_before_it_hears_of_its_update_goes_on_as_if_it_had_not(tmp_path, verdict):
    halves = apart(error_feedback(top_k(0.3)))
    version, agent, path = halves.server.open(halves.server_run), halves.agents[0], tmp_path / "agent"
    run = agent.train(halves.runs[0], version.broadcast, version.orders[0]).run
    save(path, "agent", "f" * 64, run)
    found = load(path, "agent", "f" * 64, agent.start())
    equal(found, run)
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(run), strict=True):
        assert getattr(own, "committed", None) == getattr(other, "committed", None)  # no program compiles again
    equal(agent.settle(found, verdict), agent.settle(run, verdict))
    save(path, "agent", "f" * 64, agent.settle(found, verdict))
    settled = load(path, "agent", "f" * 64, found)  # whichever it is to be like
    assert settled.pending == ()


def no_room(file):
    raise OSError("no room")


def test_a_file_is_for_its_owner_and_one_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    halves, path = apart(), tmp_path / "agent"
    save(path, "agent", "f" * 64, halves.runs[0])
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(RunError, match="can't be written: no room"):
        save(path, "agent", "f" * 64, halves.runs[1])
    assert [each.name for each in tmp_path.iterdir()] == ["agent"]
    assert path.read_bytes() == before
    with pytest.raises(RunError, match="can't be written"):
        save(tmp_path / "nowhere" / "agent", "agent", "f" * 64, halves.runs[0])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="is no file"):
        load(tmp_path / "pipe", "agent", "f" * 64, halves.runs[0])


# --- what agents count -----------------------------------------------------------------------------------------------

NORMAL = normalize(POLE)
COUNTED = {
    "fewer samples": ("samples", lambda x: x - 1, "counts 15 samples, and 16 follow"),
    "less than none": ("samples", lambda x: -1e6 * np.ones_like(x), "counts -1e+06 samples, and 16 follow"),
    "a far sum": ("first", lambda x: np.full_like(x, 1e17), "has samples beyond 1e+15"),
    "far squares": ("second", lambda x: np.full_like(x, 1e32), "1e+32, and 1e+30 is the most"),
    "negative squares": ("second", lambda x: -x, "a sum of squares below"),
    "hidden negative squares": ("second_rest", lambda x: x - 1e6, "a sum of squares below"),
    "a sum that its squares do not hold": ("first", lambda x: x + 1e3, "a sum of squares below"),
}


@pytest.mark.parametrize("lie", COUNTED)
@pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
def test_what_an_agent_counts_is_of_the_samples_that_it_was_asked_for(rule, lie):
    halves = Apart(federate(NORMAL, rule), fleet_of(NORMAL, None))
    halves.round(np.random.default_rng(0))
    asked, honest = (halves.server.open(halves.server_run) for _ in range(2))
    turns = [
        half.train(halves.runs[k], asked.broadcast, asked.orders[k]).update for k, half in enumerate(halves.agents)
    ]
    part, change, words = COUNTED[lie]
    said = halves.server.sent.decode(turns[0])
    for name, parts in said.statistics["learner"].items():
        told = {"learner": {**said.statistics["learner"], name: parts._replace(**{part: change(getattr(parts, part))})}}
        why = asked.take(0, halves.server.sent.encode(said._replace(statistics=told)))
        assert words in why
    for k in range(1, AGENTS):
        assert (asked.take(k, turns[k]), honest.take(k, turns[k])) == ("", "")
    equal(asked.close().run, honest.close().run)


def test_what_a_stage_sums_up_is_no_larger_than_an_update():
    halves = Apart(federate(STEERED, mean(), scaffold(0.1)), FLEET)
    version = halves.server.open(halves.server_run)
    update = halves.server.sent.decode(
        halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0]).update
    )
    far = update._replace(statistics=jax.tree.map(lambda x: np.full_like(x, 1e16), update.statistics))
    assert "statistics['scaffold']['head'] reaches 1e+16" in version.take(0, halves.server.sent.encode(far))
