"""Agents and a server that meet as bytes alone, against the same federation in one simulation, to the last bit."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import afl, mean, median, q_ffl, weight_by_diversity, weight_by_environment
from fedrl.core.errors import RunError, UnsoundError, WireError
from fedrl.core.keys import agent_secret, keys_of, server_secret
from fedrl.core.summation import exact_sum
from fedrl.engines.halves import AgentHalf, ServerHalf, Verdict
from fedrl.engines.halves.saved import load, save
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole, gridworld, probe_memory
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.wire_digest import wire_digest
from fedrl.learners import a2c, add_correction, chain, gru, mlp, ppo, q_table, sgd
from fedrl.secure.grid import ring_sum
from fedrl.server import fedadam
from fedrl.stages import error_feedback, quantize, scaffold, top_k, weight_by_capacity
from tests.support.hidden import veil
from tests.support.quadratic import Valley, quadratic

AGENTS, SIZE, SEED, ROUNDS = 5, 8, 3, 10
draws = np.random.default_rng(1)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
VALLEY = quadratic(sgd(0.1), size=SIZE)
STEERED = quadratic(chain(add_correction(), sgd(0.1)), size=SIZE)
FLOOR = q_table(gridworld("S..G", max_steps=20), num_envs=2, num_steps=8)
POLE = ppo(cartpole(max_steps=20), network=mlp([8]), num_envs=2, num_steps=8, num_minibatches=2, num_epochs=2)

FEDERATIONS = {
    "mean": lambda learner: federate(learner, mean(), local_steps=2),
    "FedAdam": lambda learner: federate(learner, mean(), server_optimizer=fedadam(0.05)),
    "median of few": lambda learner: federate(learner, median(), error_feedback(top_k(0.3))),
    "q-FFL": lambda learner: federate(learner, q_ffl(2.0), local_steps=2),
    "8 bits": lambda learner: federate(learner, mean(), quantize(8), local_steps=2),
    "down": lambda learner: federate(learner, mean(), quantize(8), down_stages=(quantize(4),)),
    "gradients": lambda learner: federate(
        learner, mean(), payload="gradient", server_optimizer=sgd(0.5), local_steps=2
    ),
}
CASES = {
    **{f"valley, {name}": (VALLEY, FLEET, make) for name, make in FEDERATIONS.items() if name != "gradients"},
    "valley, SCAFFOLD": (STEERED, FLEET, lambda learner: federate(learner, mean(), scaffold(0.1))),
    "pole, mean": (POLE, None, FEDERATIONS["mean"]),
    "pole, 8 bits": (POLE, None, FEDERATIONS["8 bits"]),
    "pole, median of few": (POLE, None, FEDERATIONS["median of few"]),
    "pole, gradients": (
        a2c(cartpole(max_steps=20), network=mlp([8]), num_envs=2, num_steps=8),
        None,
        FEDERATIONS["gradients"],
    ),
    "a memory": (
        a2c(probe_memory(2), network=gru(4), num_envs=2, num_steps=4),
        None,
        FEDERATIONS["mean"],
    ),
}


def fleet_of(learner, fleet):
    if fleet is not None:
        return fleet
    like = learner.environment.params
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (AGENTS, *jnp.shape(x))), like)


class Apart:
    """The halves of a federation, and nothing else that they share."""

    def __init__(self, federation, fleet, seed=SEED, **options):
        keys, agents = keys_of(seed), jax.tree.leaves(fleet)[0].shape[0]
        root = keys.run.tobytes()
        settings = [jax.tree.map(lambda x, k=k: x[k], fleet) for k in range(agents)]
        steps = [federation.local_steps] * agents
        self.server = ServerHalf(federation, settings[0], steps, root, server_secret(keys))
        self.agents = [
            AgentHalf(federation, k, setting, root, agent_secret(keys, k), **options)
            for k, setting in enumerate(settings)
        ]
        self.server_run = self.server.start()
        self.runs = [half.start() for half in self.agents]

    def round(self, rng, ordered=None):
        """Updates arrive in an order of their own."""
        version = self.server.open(self.server_run, ordered)
        for k in rng.permutation(list(version.orders)).tolist():
            turn = self.agents[k].train(self.runs[k], version.broadcast, version.orders[k])
            self.runs[k] = turn.run
            assert version.take(k, turn.update) == ""
        closed = version.close()
        for k, verdict in closed.verdicts.items():
            self.runs[k] = self.agents[k].settle(self.runs[k], verdict)
        self.server_run = closed.run
        return closed

    def close(self):
        for half in self.agents:
            half.close()


def equal(one, other):
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.mark.parametrize("name", CASES)
def test_the_halves_by_themselves_are_the_simulation_to_the_last_bit(name):
    learner, given, make = CASES[name]
    federation, fleet = make(learner), fleet_of(learner, given)
    simulation = simulate(federation, fleet, block=1, devices=jax.devices()[:1])
    run_state, apart, rng = simulation.init(SEED), Apart(federation, fleet), np.random.default_rng(0)
    for _ in range(ROUNDS):
        run_state, _ = simulation.round(run_state)
        closed = apart.round(rng)
        assert set(closed.verdicts.values()) == {Verdict.MERGED}
        equal(run_state.server, apart.server_run.server)
    for k, run in enumerate(apart.runs):
        equal(run_state.blocks[k].learner, run.agents.blocks[0].learner)
        equal(run_state.blocks[k].stage_states, run.agents.blocks[0].stage_states)


def test_the_halves_in_gymnasium_are_the_simulation_to_the_last_bit():
    learner = a2c(gymnasium("CartPole-v1", max_steps=12), network=mlp([4]), num_envs=2, num_steps=6)
    federation = federate(learner, mean(), error_feedback(top_k(0.5)), local_steps=2)
    fleet, rng = fleet_of(learner, None), np.random.default_rng(0)
    apart = Apart(federation, fleet, workers=0)
    with simulate(federation, fleet, block=1, devices=jax.devices()[:1], workers=0) as simulation:
        run_state = simulation.init(SEED)
        for _ in range(4):
            run_state, _ = simulation.round(run_state)
            apart.round(rng)
            equal(run_state.server, apart.server_run.server)
    apart.close()


# --- verdicts --------------------------------------------------------------------------------------------------------


def apart(*stages, rule=None, **given):
    federation = federate(VALLEY, mean() if rule is None else rule, *stages, **given)
    return Apart(federation, FLEET)


def test_an_agent_adopts_its_work_when_its_update_was_merged_and_is_else_what_it_was():
    halves = apart(error_feedback(top_k(0.3)))
    version = halves.server.open(halves.server_run)
    agent, before = halves.agents[0], halves.runs[0]
    first = leaves(before.agents.blocks)
    turn = agent.train(before, version.broadcast, version.orders[0])
    equal(leaves(turn.run.agents.blocks), first)  # until the verdict
    lost, rejected, merged = (agent.settle(turn.run, verdict).agents.blocks[0] for verdict in VERDICTS)
    equal(leaves(lost), first)
    equal(lost.stage_states, rejected.stage_states)
    equal(rejected.learner, merged.learner)
    assert not np.array_equal(flat_of(rejected.learner), flat_of(lost.learner))
    assert not np.array_equal(flat_of(merged.stage_states), flat_of(lost.stage_states))


VERDICTS = (Verdict.DROPPED, Verdict.REJECTED, Verdict.MERGED)


def leaves(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def flat_of(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def test_a_version_that_an_agent_hears_again_is_another_turn_with_other_keys():
    halves = apart(quantize(4))
    version = halves.server.open(halves.server_run)
    agent, run = halves.agents[1], halves.runs[1]
    turns = []
    for _ in range(3):
        turn = agent.train(run, version.broadcast, version.orders[1])
        turns.append(turn.update)
        run = agent.settle(turn.run, Verdict.DROPPED)
    assert len(set(turns)) == 3
    assert agent.train(halves.runs[1], version.broadcast, version.orders[1]).update == turns[0]  # its state decides


def test_an_agent_whose_training_comes_to_nothing_sends_nothing_and_says_why():
    federation = federate(quadratic(sgd(1e30), size=SIZE), mean(), local_steps=4)
    halves = Apart(federation, FLEET)
    version = halves.server.open(halves.server_run)
    turn = halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0])
    assert turn.update == b""
    assert "not finite" in turn.failed
    closed = version.close()
    assert (closed.weight, set(closed.verdicts.values())) == (0.0, {Verdict.DROPPED})
    assert int(closed.run.server.version) == 1


def test_a_cohort_of_some_is_the_simulation_with_that_cohort():
    federation = federate(VALLEY, mean(), error_feedback(top_k(0.3)), local_steps=2)
    simulation, rng = simulate(federation, FLEET, block=1, devices=jax.devices()[:1]), np.random.default_rng(0)
    run_state, halves = simulation.init(SEED), Apart(federation, FLEET)
    for cohort in ([0, 3], [1], [2, 3, 4], [0, 1, 2, 3, 4]):
        run_state, _ = simulation.round(run_state, cohort)
        halves.round(rng, dict.fromkeys(cohort, 2))
        equal(run_state.server, halves.server_run.server)


# --- lies ------------------------------------------------------------------------------------------------------------


def decoded(halves, turn):
    return halves.server.sent.decode(turn.update)


def with_value(update, change):
    return update._replace(value=jax.tree.map(change, update.value))


LIES = {
    "no number": lambda u: with_value(u, lambda x: np.full_like(x, np.nan)),
    "infinite": lambda u: with_value(u, lambda x: np.full_like(x, np.inf)),
    "beyond all sums": lambda u: with_value(u, lambda x: np.full_like(x, 3e38)),
    "a weight of 1e5": lambda u: u._replace(weight=np.float32(1e5)),
    "a negative weight": lambda u: u._replace(weight=-u.weight),
    "no weight": lambda u: u._replace(weight=np.float32(0.0)),
    "a weight that is no number": lambda u: u._replace(weight=np.float32(np.nan)),
    "another version": lambda u: u._replace(version=np.int32(u.version + 1)),
    "a version of before": lambda u: u._replace(version=np.int32(u.version - 1)),
    "a loss that is no number": lambda u: u._replace(report=u.report | {"loss": np.float32(np.nan)}),
    "an infinite loss": lambda u: u._replace(report=u.report | {"loss": np.float32(np.inf)}),
    "a negative norm": lambda u: u._replace(report=u.report | {"norm": np.float32(-1.0)}),
}
BYTES = {
    "too short": lambda data: data[:-1],
    "too long": lambda data: data + b"\0",
    "nothing": lambda data: b"",
    "far too long": lambda data: data * 1000,
}
RULES = {
    "mean": mean(),
    "uniform": mean("uniform"),
    "median": median(),
    "q-FFL": q_ffl(2.0),
    "AFL": afl(AGENTS),
    "diversity": weight_by_diversity(),
    "environment": weight_by_environment(["slip"]),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_lie_is_refused_and_the_others_are_merged_as_if_it_had_not_been_told(rule):
    # A valley has no scalar by which agents could be compared.
    learner, fleet = (FLOOR, None) if rule == "environment" else (VALLEY, FLEET)
    federation = federate(learner, RULES[rule], reports=["loss", "norm"], local_steps=2)
    halves = Apart(federation, fleet_of(learner, fleet))
    for _ in range(2):  # lies about the version need one before
        halves.round(np.random.default_rng(0))
    asked = halves.server.open(halves.server_run)
    turns = [half.train(halves.runs[k], asked.broadcast, asked.orders[k]) for k, half in enumerate(halves.agents)]
    honest = halves.server.open(halves.server_run)
    for k in range(1, AGENTS):
        assert honest.take(k, turns[k].update) == ""
    expected = honest.close()
    told = {name: halves.server.sent.encode(lie(decoded(halves, turns[0]))) for name, lie in LIES.items()}
    told |= {name: change(turns[0].update) for name, change in BYTES.items()}
    for name, data in told.items():
        version = halves.server.open(halves.server_run)
        assert version.take(1, turns[1].update) == ""
        why = version.take(0, data)
        for k in range(2, AGENTS):
            assert version.take(k, turns[k].update) == ""
        found = version.close()
        assert [agent for agent, _ in found.rejected] == [0], name
        assert found.verdicts[0] is Verdict.REJECTED, name
        assert why, name
        assert why.startswith("the message has") == (name == "far too long"), name
        assert (why == "it reports norm = -1, and 0 to 1e+15 is allowed") == (name == "a negative norm"), name
        equal(expected.run.server, found.run.server)


def test_who_was_not_asked_and_who_has_sent_before_is_refused():
    halves = apart()
    version = halves.server.open(halves.server_run, {0: 1, 2: 1})
    turn = halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0])
    assert version.take(0, turn.update) == ""
    assert version.take(0, turn.update) == "agent 0 has sent its update before"
    assert version.take(1, turn.update) == "agent 1 was not asked for version 0"
    assert version.take(99, turn.update) == "agent 99 was not asked for version 0"
    closed = version.close()
    assert closed.verdicts == {0: Verdict.MERGED, 2: Verdict.DROPPED}
    assert [agent for agent, _ in closed.rejected] == [0, 1, 99]


def test_a_stage_that_reweights_declares_how_far_and_is_held_to_it():
    federation = federate(VALLEY, mean(), weight_by_capacity([1.0, 2.0, 4.0, 4.0, 8.0]))
    halves = Apart(federation, FLEET)
    version = halves.server.open(halves.server_run)
    turn = halves.agents[1].train(halves.runs[1], version.broadcast, version.orders[1])
    said = decoded(halves, turn)
    assert float(said.weight) == 0.5
    for weight in (1.01, 0.124, -0.5):
        lied = halves.server.sent.encode(said._replace(weight=np.float32(weight)))
        assert "0.125 to 1 follows from the 1 local steps" in version.take(1, lied)
    assert version.take(1, turn.update) == ""


def test_a_server_forgets_no_memory_with_more_agents():
    """What an open version keeps is as large as the model: one sum, and fewer than 16 updates that wait."""
    halves = apart()
    version = halves.server.open(halves.server_run)
    turn = halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0])
    version.orders.update(dict.fromkeys(range(100), version.orders[0]))
    for k in range(100):
        assert version.take(k, turn.update) == ""
        assert len(version._adding._waiting) < 16
    assert version._adding._sums.updates.shape == (6, SIZE + 1)
    assert not version._adding._updates
    alone = halves.server.open(halves.server_run)
    assert alone.take(0, turn.update) == ""
    equal(version.close().run, alone.close().run)  # a mean of a hundred alike


# --- files -----------------------------------------------------------------------------------------------------------


def test_each_half_goes_on_from_its_file_to_the_last_bit(tmp_path):
    federation = federate(VALLEY, mean(), error_feedback(top_k(0.3)), server_optimizer=fedadam(0.05), local_steps=2)
    digest = wire_digest(federation, jax.tree.map(lambda x: x[0], FLEET)).digest
    halves, again, rng = Apart(federation, FLEET), Apart(federation, FLEET), np.random.default_rng(0)
    for _ in range(3):
        halves.round(rng)
    save(tmp_path / "server", "server", digest, halves.server_run)
    again.server_run = load(tmp_path / "server", "server", digest, again.server_run)
    for k, run in enumerate(halves.runs):
        save(tmp_path / f"agent{k}", "agent", digest, run)
        again.runs[k] = load(tmp_path / f"agent{k}", "agent", digest, again.runs[k])
    for _ in range(3):
        halves.round(rng)
        again.round(rng)
    equal(halves.server_run, again.server_run)
    equal(halves.runs, again.runs)


def test_a_file_of_another_half_federation_or_content_is_refused_and_holds_no_secret(tmp_path):
    halves, path = apart(), tmp_path / "agent"
    save(path, "agent", "f" * 64, halves.runs[0])
    for kind, federation, words in (("server", "f" * 64, "kind 'agent'"), ("agent", "0" * 64, "has the federation")):
        with pytest.raises(RunError, match=words):
            load(path, kind, federation, halves.runs[0])
    with pytest.raises(RunError, match="differ in"):
        load(path, "agent", "f" * 64, halves.server_run)
    content = path.read_bytes()
    keys = keys_of(SEED)
    for secret in (keys.run.tobytes(), keys.secrets.tobytes(), agent_secret(keys, 0)):
        assert secret not in content
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match="damaged"):
        load(path, "agent", "f" * 64, halves.runs[0])
    path.write_bytes(content[:100])
    with pytest.raises(RunError, match="can't be read"):
        load(path, "agent", "f" * 64, halves.runs[0])
    with pytest.raises(RunError, match="does not exist"):
        load(tmp_path / "nothing", "agent", "f" * 64, halves.runs[0])


def test_neither_half_sends_or_takes_one_by_one_what_a_sum_is_to_hide():
    federation, keys = federate(VALLEY, mean("uniform"), summation=veil()), keys_of(0)
    setting, roots = jax.tree.map(lambda x: x[0], FLEET), (keys.run.tobytes(), bytes(32))
    for half, given in ((AgentHalf, (0, setting)), (ServerHalf, (setting, [1]))):
        with pytest.raises(UnsoundError, match=r"veil\(\) opens the sum of updates alone.*Use exact_sum"):
            half(federation, *given, *roots)


def vectors_of(federation):
    """The jobs of all agents from the first broadcast, as vectors for a secure sum."""
    halves = Apart(replace(federation, summation=exact_sum()), FLEET)
    version = halves.server.open(halves.server_run)
    run = halves.server._run
    for k, order in version.orders.items():
        setting = jax.tree.map(lambda x, k=k: x[k], FLEET)
        half = AgentHalf(federation, k, setting, run, agent_secret(keys_of(SEED), k), vectors=True)
        yield half, half.train(half.start(), version.broadcast, order)


def test_an_agent_that_takes_part_in_secure_sums_gives_the_codes_that_a_simulation_adds():
    federation = federate(VALLEY, mean("uniform"), local_steps=2, summation=ring_sum(AGENTS, 8.0))
    turns = [turn for _, turn in vectors_of(federation)]
    assert all(turn.update == b"" and turn.vector.dtype == np.int32 for turn in turns)
    total = federation.summation.total([turn.vector[None] for turn in turns])
    simulation = simulate(federation, FLEET, block=1)
    state, _ = simulation.round(simulation.init(SEED))
    moved = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.server.params)])
    np.testing.assert_array_equal(moved, (total[:-1] / total[-1]).astype(np.float32))


def test_a_vector_that_would_wrap_around_is_not_made():
    """The agent has learned, as after any update that is rejected for its numbers."""
    federation = federate(VALLEY, mean("uniform"), local_steps=2, summation=ring_sum(AGENTS, 0.01))
    for half, turn in vectors_of(federation):
        assert turn.vector is None
        assert not turn.failed
        assert re.fullmatch(
            r"update\['\w+'\], times its weight, reaches .*, and sums are exact below 0.01.*", turn.beyond
        )
        rejected = half.settle(turn.run, Verdict.REJECTED)
        before, after = (half.executor.params_of(run.agents) for run in (half.start(), rejected))
        assert not np.array_equal(before["tail"], after["tail"])


@pytest.mark.parametrize("steps", [0, 2, 10**6])
def test_an_agent_takes_no_order_beyond_what_its_federation_does(steps):
    halves = apart()
    version = halves.server.open(halves.server_run)
    with pytest.raises(WireError, match=f"The order has {steps} local steps, and this federation takes from 1 to 1"):
        halves.agents[0].train(halves.runs[0], version.broadcast, version.orders[0]._replace(steps=steps))
