"""Parts of the parameters with a rule, a server optimiser and a period of their own, against NumPy and whole runs."""

import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl
from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.config.build import build
from fedrl.config.loading import dump, load
from fedrl.core.errors import ConfigError, UnsoundError, WireError
from fedrl.engines.messages import messages
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, hierarchy, isolated
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.parts import part
from fedrl.learners import a2c, add_correction, mlp, normalize, personal, ppo, sgd
from fedrl.learners.parts.optimizers import chain
from fedrl.server import fedadam, fedavgm
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_buff
from fedrl.stages import clip, error_feedback, lag, scaffold, sign, top_k, weight_by_signal
from fedrl.topologies import metropolis, ring, tree
from fedrl.wire.codec import codec
from tests.support.hidden import veil
from tests.support.quadratic import FLEET, Valley, flat, quadratic, simulated_rounds

RATE, STEPS, EVERY, ROUNDS = 0.1, 2, 3, 11
HEAD, TAIL = slice(0, 1), slice(1, 3)


def some(version: int) -> list[int]:
    """Who takes part: now and then one is away when the head is due."""
    return [k for k in range(4) if (version + k) % 5]


def by_hand(rounds: int, cohort, momentum: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """What the server and the agents hold after so many rounds in which the head is merged in every third."""
    curvature, minimum = np.asarray(FLEET.curvature, float), np.asarray(FLEET.minimum, float)
    server, velocity = np.zeros(3), np.zeros(1)
    own, last = np.zeros((4, 3)), np.full(4, -1)
    for version in range(rounds):
        there = cohort(version)
        for k in there:
            own[k, TAIL] = server[TAIL]
            if last[k] < 0 or last[k] // EVERY != version // EVERY:
                own[k, HEAD] = server[HEAD]
            last[k] = version
            own[k] = minimum[k] + (1.0 - RATE * curvature[k]) ** STEPS * (own[k] - minimum[k])
        change = (own[there] - server).mean(axis=0)
        server[TAIL] += change[TAIL]
        if (version + 1) % EVERY == 0:
            velocity = momentum * velocity + change[HEAD]
            server[HEAD] += velocity
    return server, own


def ran(*parts, cohort=None, rounds=ROUNDS, stages=(), fleet=FLEET, learner=None, **options):
    """A simulation of four quadratics, and where it stands after so many rounds."""
    learner = quadratic(sgd(RATE)) if learner is None else learner
    simulation = simulate(federate(learner, mean("uniform"), *stages, local_steps=STEPS, parts=parts), fleet, **options)
    return simulation, simulated_rounds(simulation, rounds, cohort=cohort)


def flattened(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("cohort", [lambda version: [0, 1, 2, 3], some], ids=["all", "some"])
def test_a_part_that_is_not_due_stays_with_its_agent_and_the_server(momentum, cohort):
    own = fedavgm(1.0, momentum) if momentum else None
    for rounds in range(1, ROUNDS):
        simulation, run_state = ran(part("head", server_optimizer=own, every=EVERY), cohort=cohort, rounds=rounds)
        server, agents = by_hand(rounds, cohort, momentum)
        np.testing.assert_allclose(flat(run_state.server.params), server, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(flat(simulation.params_of(run_state)), agents, rtol=1e-5, atol=1e-6)


def test_each_part_has_its_rule_and_its_optimiser():
    """Coordinates of a quadratic do not touch each other, so each part is what it is where its rule is of all."""
    expected = {
        "head": federate(quadratic(sgd(RATE)), median(), server_optimizer=fedadam(0.1), local_steps=STEPS),
        "tail": federate(quadratic(sgd(RATE)), mean(), local_steps=STEPS),
    }
    mixed = federate(
        quadratic(sgd(RATE)), mean(), local_steps=STEPS, parts=[part("head", median(), server_optimizer=fedadam(0.1))]
    )
    assert mixed.aggregator.needs == "each"
    found = simulated_rounds(simulate(mixed, FLEET), 5).server.params
    for name, whole in expected.items():
        np.testing.assert_array_equal(found[name], simulated_rounds(simulate(whole, FLEET), 5).server.params[name])
    assert not np.allclose(found["head"], simulated_rounds(simulate(expected["tail"], FLEET), 5).server.params["head"])


def test_parts_that_weigh_alike_are_one_sum_and_others_are_not():
    learner = quadratic(sgd(RATE))
    assert federate(learner, mean(), parts=[part("head", mean())]).aggregator.needs == "sum"
    assert federate(learner, mean("uniform"), parts=[part("head", mean("uniform"))]).aggregator.needs == "sum"
    apart = federate(learner, mean(), local_steps=2, parts=[part("head", mean("uniform"))])
    assert apart.aggregator.needs == "each"
    steps = [1, 2, 2, 1]
    found = simulated_rounds(simulate(apart, FLEET, local_steps=steps), 3).server.params
    for name, rule in {"head": mean("uniform"), "tail": mean()}.items():
        whole = simulated_rounds(simulate(federate(learner, rule, local_steps=2), FLEET, local_steps=steps), 3)
        np.testing.assert_allclose(found[name], whole.server.params[name], rtol=1e-6)


def test_a_part_with_nothing_of_its_own_changes_nothing():
    _, plain = ran()
    _, divided = ran(part("head"), part("tail", mean("uniform")))
    np.testing.assert_allclose(flat(divided.server.params), flat(plain.server.params), rtol=1e-6)


def test_what_is_not_due_costs_a_byte():
    simulation, _ = ran(part("head", every=EVERY), rounds=0)
    run_state, beside = simulation.init(0), 4 + 4 + 1  # weight, version, whether the head follows
    for version in range(2 * EVERY):
        run_state, seen = simulation.round(run_state)
        assert seen.bytes_up == 4 * (beside + 4 * 2 + (4 if (version + 1) % EVERY == 0 else 0))
        assert seen.messages_up == 4


def test_stages_of_a_part_remember_nothing_of_versions_in_which_it_is_not_due():
    """With all of it sent in the end: what the server read and what agents still hold is what they meant to send."""
    stages = [error_feedback(top_k(0.5))]
    simulation, run_state = ran(part("tail", every=2), rounds=0, stages=stages)
    run_state = simulation.init(0)
    memories = []
    for _ in range(4):
        run_state, _ = simulation.round(run_state)
        (groups, *_), *_ = [block.stage_states for block in run_state.blocks]
        memories.append([flattened(group) for group in groups])
    tails = [memory[0] for memory in memories]
    assert not tails[0].any()
    assert tails[1].any()
    np.testing.assert_array_equal(tails[1], tails[2])
    assert not np.array_equal(tails[2], tails[3])


def test_a_message_in_which_a_part_is_not_due_travels():
    federation = federate(quadratic(sgd(RATE)), mean(), parts=[part("head", every=2)])
    wire = messages(federation, FLEET)
    update = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), wire.update)
    way = codec(wire.update)
    assert way.size_bytes is None
    for due, size in ((True, 21), (False, 17)):
        head, tail = update.value
        sent = update._replace(value=(type(head)(np.bool_(due), head.value), tail))
        data = way.encode(sent)
        assert len(data) == size
        back = way.decode(data)
        assert bool(back.value[0].due) == due
        assert np.asarray(back.value[0].value["head"]).tolist() == [float(due)]
    with pytest.raises(WireError, match="whether a part follows is 7"):
        way.decode(b"\x07" + data[1:])


@pytest.mark.parametrize("options", [{"block": 1}, {"block": 3}, {"devices": jax.devices()[:1]}], ids=repr)
def test_blocks_and_devices_are_of_no_consequence(options):
    parts = (part("head", median(), every=2), part("tail", server_optimizer=fedadam(0.1)))
    expected = flat(ran(*parts)[1].server.params)
    found = flat(ran(*parts, **options)[1].server.params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_tree_that_merges_all_is_one_server():
    parts = (part("head", every=2), part("tail", server_optimizer=fedavgm(1.0, 0.5)))
    _, one = ran(*parts)
    _, many = ran(*parts, topology=hierarchy(tree([2], [1, 1])))
    np.testing.assert_array_equal(flat(many.server.params), flat(one.server.params))


def test_edges_of_a_tree_with_periods_keep_a_part_that_is_not_due():
    simulation, _ = ran(part("head", every=2), rounds=0, topology=hierarchy(tree([2], [1, 4])))
    run_state, heads = simulation.init(0), []
    for _ in range(4):
        run_state, _ = simulation.round(run_state)
        held = simulation.states_of(simulation.adopt(run_state)).params["head"]
        heads.append(np.asarray(held).ravel())
    np.testing.assert_array_equal(heads[0], 0.0)
    assert heads[1].all()
    np.testing.assert_array_equal(heads[1], heads[2])
    assert not np.array_equal(heads[2], heads[3])


def test_change_is_counted_from_what_agents_adopted_although_their_copy_goes_on():
    """What a difference on the way down lost comes in versions in which the part is not due, and nobody adopts it."""
    size, rate, every = 6, 0.2, 4
    draws = np.random.default_rng(0)
    fleet = Valley(
        draws.uniform(0.3, 1.5, (3, size)).astype(np.float32), draws.normal(size=(3, size)).astype(np.float32)
    )
    learner = quadratic(sgd(rate), size=size)
    federation = federate(
        learner, mean("uniform"), parts=[part("tail", every=every)], down_stages=(top_k(0.3),), local_steps=STEPS
    )
    simulation = simulate(federation, fleet)
    run_state, own, adopted = simulation.init(0), np.zeros((3, size)), np.zeros(size)
    for version in range(3 * every):
        before, copy = flat(run_state.server.params), flat(run_state.server.down.held)
        own[:, 0] = copy[0]
        if version % every == 0:
            own[:, 1:], adopted = copy[1:], copy
        run_state, _ = simulation.round(run_state)
        after = flat(run_state.server.params)
        own = fleet.minimum + (1.0 - rate * fleet.curvature) ** STEPS * (own - fleet.minimum)
        due = (version + 1) % every == 0
        expected = before[1:] + (own.mean(axis=0) - adopted)[1:] * due
        np.testing.assert_allclose(after[1:], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(copy[1:], adopted[1:])


@pytest.mark.parametrize(("every", "periods"), [(2, [1, 3]), (4, [1, 2, 6]), (3, [1, 1, 2])])
def test_periods_that_do_not_divide_each_other_are_refused(every, periods):
    """Servers above would hand down a part in versions in which agents keep their own."""
    federation = federate(quadratic(sgd(RATE)), mean(), parts=[part("head", every=every)])
    shape = tree([2] * (len(periods) - 1), periods)
    with pytest.raises(UnsoundError, match="two periods a multiple of the other") as found:
        simulate(federation, FLEET, topology=hierarchy(shape))
    assert found.value.reason == "private"
    simulate(federation, FLEET, topology=hierarchy(tree([2], [1, 2 * every])))


def test_ppo_averages_its_critic_in_every_round_and_its_actor_in_every_second():
    environment = cartpole()
    learner = normalize(ppo(environment, num_envs=2, num_steps=8, num_minibatches=2, num_epochs=1))
    federation = federate(learner, mean(), parts=[part("actor", every=2), part("critic", median())])
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, *jnp.shape(leaf))), environment.params)
    simulation = simulate(federation, fleet)
    run_state = simulation.init(0)
    before = run_state.server.params
    for due in (False, True):
        run_state, seen = simulation.round(run_state)
        after = run_state.server.params
        moved = {
            name: not np.array_equal(flattened(before["learner"][name]), flattened(after["learner"][name]))
            for name in ("actor", "critic")
        }
        assert moved == {"actor": due, "critic": True}
        assert float(after["moments"]["observation"].samples) > float(before["moments"]["observation"].samples)
        assert not seen.rejected
        before = after


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: ran(part("body")), ConfigError, "parts has 'body', which is no part of the parameters"),
        (lambda: ran(part("head"), part("head/0", every=2)), ConfigError, "no part of the parameters"),
        (lambda: ran(part("head"), part("head", every=2)), ConfigError, "have parameters in common"),
        (lambda: part("head", every=0), ConfigError, "every is 0"),
        (
            lambda: federate(quadratic(sgd(RATE)), mean(), payload="gradient", parts=[part("head", every=2)]),
            UnsoundError,
            "payload='gradient' they take no steps",
        ),
        (
            lambda: ran(part("head", every=2), scheduler=fed_buff(2), clock=clock()),
            UnsoundError,
            "stays with its agent in all versions but those",
        ),
        (
            lambda: ran(part("head", every=2), scheduler=bounded_staleness(1), clock=clock()),
            UnsoundError,
            "stays with its agent",
        ),
        (lambda: ran(part("head", every=2), scheduler=Scheduler(delay_rounds=1)), UnsoundError, "stays with its agent"),
        (lambda: ran(part("head"), topology=gossip(ring(), metropolis())), UnsoundError, "is merged by a server"),
        (lambda: ran(part("head"), topology=isolated()), UnsoundError, "is merged by a server"),
        (lambda: ran(part("head", every=2), stages=[lag(sign())]), UnsoundError, "decides when to send"),
        (
            lambda: federate(quadratic(sgd(RATE)), mean(), weight_by_signal(), parts=[part("head", every=2)]),
            UnsoundError,
            "is not sent in every round",
        ),
        (
            lambda: federate(
                quadratic(chain(add_correction(), sgd(RATE))), mean(), scaffold(RATE), parts=[part("head", every=2)]
            ),
            UnsoundError,
            "is not sent in every round",
        ),
        (
            lambda: federate(normalize(ppo(cartpole())), mean(), parts=[part("moments", every=2)]),
            UnsoundError,
            "moments that agents count",
        ),
        (
            lambda: federate(quadratic(sgd(RATE)), mean(), lag(sign()), parts=[part("head", median())]),
            UnsoundError,
            "reads each update",
        ),
    ],
)
def test_what_does_not_go_with_parts_is_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_parts_with_a_rule_go_where_versions_mix():
    """Without periods, parts meet on any schedule; here each is what it is where its rule is of all."""
    options = {"scheduler": fed_buff(2), "clock": clock(step_s=[1.0, 1.5, 2.0, 5.0]), "rounds": 6}
    _, mixed = ran(part("head", server_optimizer=fedavgm(1.0, 0.5)), **options)
    learner = quadratic(sgd(RATE))
    whole = simulate(
        federate(learner, mean("uniform"), local_steps=STEPS, server_optimizer=fedavgm(1.0, 0.5)),
        FLEET,
        scheduler=fed_buff(2),
        clock=clock(step_s=[1.0, 1.5, 2.0, 5.0]),
    )
    found = simulated_rounds(whole, 6)
    np.testing.assert_allclose(mixed.server.params["head"], found.server.params["head"], rtol=1e-6)
    _, plain = ran(**options)
    np.testing.assert_allclose(mixed.server.params["tail"], plain.server.params["tail"], rtol=1e-6)


def test_what_is_personal_is_in_no_part():
    environment = cartpole()
    learner = personal(ppo(environment), local=["actor/-1"])
    federate(learner, mean(), parts=[part("actor", every=2)])
    with pytest.raises(ConfigError, match="no part of the parameters"):
        federate(learner, mean(), parts=[part("actor/2", every=2)])


def test_clipping_is_of_each_part():
    """A part passes the stages by itself only if some part has a period: else an update is one message."""
    _, whole = ran(part("head", mean("uniform")), stages=[clip(0.1)], rounds=2)
    _, plain = ran(stages=[clip(0.1)], rounds=2)
    np.testing.assert_allclose(flat(whole.server.params), flat(plain.server.params), rtol=1e-6)


def test_environments_on_the_host_have_parts_too():
    walk = gymnasium("tests.support.walks:Walk-v0")
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, *jnp.shape(leaf))), walk.params)
    learner = a2c(walk, num_envs=1, num_steps=4, network=mlp([2]))
    federation = federate(learner, mean(), parts=[part("actor", median(), every=2)])
    with simulate(federation, fleet, workers=0) as simulation:
        run_state = simulation.init(0)
        before, sizes = run_state.server.params, []
        for due in (False, True, False):
            run_state, seen = simulation.round(run_state)
            after = run_state.server.params
            assert np.array_equal(flattened(before["actor"]), flattened(after["actor"])) != due
            assert not np.array_equal(flattened(before["critic"]), flattened(after["critic"]))
            held = simulation.params_of(run_state)["actor"]
            assert np.ptp(np.asarray(jax.tree.leaves(held)[0]), axis=0).any()
            sizes.append(seen.bytes_up)
            before = after
    actor = 4 * flattened(before["actor"]).size
    assert sizes == [sizes[0], sizes[0] + 3 * actor, sizes[0]]


def test_a_file_describes_parts():
    config = fedrl.Config(
        environment={"name": "cartpole"},
        learner={"name": "ppo"},
        federation=fedrl.FederationConfig(
            agents=2,
            parts={"critic": {"aggregator": "median", "server_optimizer": "fedadam"}, "actor/-1": {"every": 5}},
        ),
        rounds=1,
        name="parts",
    )
    experiment = build(config)
    assert experiment.federation.parts == (
        part("critic", median(), fedadam()),
        part("actor/-1", every=5),
    )
    again = build(load(tomllib.loads(dump(experiment.config))))
    assert again.federation == experiment.federation
    assert again.config == experiment.config


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"critic": {"rule": "median"}}, "federation.parts.critic.rule is 'median', but it is not a key of a part"),
        ({"critic": 3}, "federation.parts.critic is 3. It needs to be a table"),
        ({"critic": {"every": 0}}, "federation.parts.critic.every is 0"),
        ({"critic": {"every": 1.5}}, "federation.parts.critic.every is 1.5"),
        ({"critic": {"aggregator": "medain"}}, "median"),
        ({"kritic": {}}, "Did you mean 'critic'"),
    ],
)
def test_a_wrong_section_of_parts_is_told(parts, words):
    config = {
        "name": "parts",
        "rounds": 1,
        "environment": {"name": "cartpole"},
        "learner": {"name": "ppo"},
        "federation": {"agents": 2, "parts": parts},
    }
    with pytest.raises(ConfigError, match=words):
        build(load(config))


def test_a_hidden_sum_and_a_part_with_a_period_are_refused():
    with pytest.raises(UnsoundError, match=r"veil\(\) hides updates in the sum of all parameters in every round"):
        federate(quadratic(sgd(0.1)), mean("uniform"), parts=[part("head", every=2)], summation=veil())
