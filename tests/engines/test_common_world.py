"""The players of one world are the agents of the federation: rows, absences, checkpoints, topologies and refusals."""

import inspect
import tomllib
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl
from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.keys import agent_secret, keys_of
from fedrl.core.learner import explore
from fedrl.core.position import Position
from fedrl.core.stage import Noise
from fedrl.engines.distributed.choices import ray
from fedrl.engines.executors.common_rollout import collected
from fedrl.engines.executors.host import Host
from fedrl.engines.halves.agent import AgentHalf
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.environments import cartpole, climbing, common_world, fleet, held_out, matching_pennies, navigation
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import a2c, adam, mappo, mlp, per_player, ppo, q_table, reinforce
from fedrl.learners.parts.rollout import ACT, Sampler, collect
from fedrl.privacy import local_gaussian
from fedrl.records.folder import open_folder
from fedrl.runs.evaluate import played
from fedrl.server import uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_async, synchronous
from fedrl.topologies import metropolis, ring, tree
from tests.support.worlds import LENGTH, PLAYERS, mortal

SMALL = mlp(hidden=[4])
ACTING, NOISE = jax.random.split(jax.random.key(5), PLAYERS), jax.random.key(6)
EVERYONE = (True, True, True)


def small(environment, steps=7):
    return a2c(environment, network=SMALL, num_envs=2, num_steps=steps)


def attending():
    """A world of the dying from which players may be absent; nobody sees anybody there."""

    def attend(params, state, present):
        del params
        seen = jnp.stack([jnp.arange(3.0), jnp.full(3, state.state.time, jnp.float32)]) / LENGTH
        return seen, state._replace(present=present)

    return replace(mortal(), attend=attend)


def opened(learner):
    """The first position of the copies of a world, and parameters of three agents, each of its own seed."""
    environment, copies = learner.environment, learner.num_envs
    world = environment.common.world
    noise = world.draw_reset(jax.random.key(0), (copies,))
    timestep, state = jax.vmap(world.reset, (-1, None), -1, axis_size=copies)(noise, world.params)
    summed = {name: jnp.zeros(copies) for name, m in environment.measures.items() if (m.per, m.take) != ("step", "sum")}
    summed = {name: x for name, x in summed.items() if environment.measures[name].take != "last"}
    none, length, alive = jnp.zeros(timestep.reward.shape), jnp.zeros(copies, jnp.int32), timestep.alive
    alive = None if alive is None else jnp.ones_like(alive)
    states = jax.vmap(lambda key: learner.init(key, world.params))(jax.random.split(jax.random.key(9), PLAYERS))
    return Position(state, timestep.observation, none, length, summed, alive), (jax.vmap(learner.params)(states),)


def rolled(learner, position, params, present=EVERYONE):
    def roll(position, present):
        return collected(ACTING, NOISE, learner, params, learner.environment.params, present, position)

    return jax.jit(roll)(position, jnp.asarray(present))


def replayed(actions):
    """A policy that takes the actions of a trajectory: it knows each step by its key."""
    known = jax.random.key_data(jax.random.split(jax.random.fold_in(NOISE, ACT), len(actions)))

    def choose(drawn, shown):
        del shown
        return jnp.asarray(actions)[jnp.argmax((known == drawn).all(-1))]

    return Sampler(lambda key, batch: jax.random.key_data(key), choose)


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("world", [navigation(max_steps=5), mortal(filler=np.nan)], ids=["navigation", "mortal"])
def test_the_joint_trajectory_is_the_compiled_worlds_with_the_same_actions(world):
    learner = small(common_world(world))
    position, params = opened(learner)
    seen, after, sums = rolled(learner, position, params)
    whole = position._replace(returned=jnp.zeros(learner.num_envs))
    twin, reached, counts = jax.jit(
        lambda at: collect(NOISE, world, world.params, replayed(seen.action), learner.horizon, at)
    )(whole)
    same(seen, twin)  # observations, rewards, ends and deaths of every row, over the end of an episode
    same((after.state, after.observation, after.length), (reached.state, reached.observation, reached.length))
    assert np.asarray(seen.reward).any()
    assert (np.asarray(sums["episodes"]) == float(counts["episodes"])).all()
    assert float(sums["episode_return"].mean()) == pytest.approx(float(counts["episode_return"]), rel=1e-6)
    if world.picture is None:  # every player is rewarded differently
        returns = [float(counts[f"player_{k + 1}_return"]) for k in range(PLAYERS)]
        np.testing.assert_allclose(sums["episode_return"], returns, rtol=1e-6)
        assert len(set(returns)) == PLAYERS


def test_every_row_is_acted_in_by_its_own_agent_with_its_own_key():
    learner = small(common_world(navigation(max_steps=5)))
    position, params = opened(learner)
    seen, *_ = rolled(learner, position, params)
    for k in range(PLAYERS):
        own, mine = jax.tree.map(lambda x, k=k: x[k], params), slice(2 * k, 2 * k + 2)

        def acted(t, shown, k=k, own=own):
            return explore(learner, jax.random.fold_in(ACTING[k], t), own, shown)

        actions = jax.vmap(acted)(jnp.arange(learner.horizon), seen.observation[..., mine])
        np.testing.assert_array_equal(seen.action[:, mine], actions)


def test_who_leaves_is_not_there_and_who_comes_back_is_where_it_was():
    learner = small(common_world(navigation(max_steps=20), "leave"))
    position, params = opened(learner)
    present = (True, False, True)
    params_of_world = learner.environment.params
    attended = jax.vmap(learner.environment.common.world.attend, (None, -1, None), -1)
    position = position._replace(
        state=attended(params_of_world, position.state, jnp.ones(3, bool))[1], alive=jnp.ones((3, 2), bool)
    )
    seen, after, sums = rolled(learner, position, params, present)
    alive = np.asarray(seen.alive).reshape(7, 3, 2)
    assert not alive[:, 1].any()
    assert alive[:, [0, 2]].all()
    assert not np.asarray(seen.reward).reshape(7, 3, 2)[:, 1].any()
    # The others are two, and see nobody in the place of the third: their last four numbers are two players'.
    near = np.asarray(seen.observation).reshape(7, 14, 3, 2)[:, 10:]
    assert not near[:, [0, 2], 0].any()
    assert near[:, [1, 3], 0].any()
    assert (np.asarray(sums["players_present"]) == 2 * np.asarray(sums["steps"])).all()
    where = np.asarray(position.state.state.position)
    np.testing.assert_array_equal(after.state.state.position[:, 1], where[:, 1])
    back, _, sums = rolled(learner, after, params)
    assert np.asarray(back.alive).all()
    np.testing.assert_array_equal(
        np.asarray(back.observation).reshape(7, 14, 3, 2)[0, 2:4, 1], np.asarray(after.state.state.position)[:, 1]
    )
    assert (np.asarray(sums["players_present"]) == 3 * np.asarray(sums["steps"])).all()


def test_the_dead_stay_dead_when_they_come_back_and_live_with_the_next_episode():
    learner = small(common_world(attending(), "leave"), steps=2)
    position, params = opened(learner)
    position = position._replace(alive=jnp.ones((3, 2), bool))
    alive = []
    for present in (EVERYONE, (True, False, True), EVERYONE, (False, True, True)):
        seen, position, _ = rolled(learner, position, params, present)
        alive.append(np.asarray(seen.alive).reshape(2, 3, 2)[:, :, 0])
    # Player 1 dies in the first step and player 2 in the second; the episode ends with the fifth.
    np.testing.assert_array_equal(
        np.concatenate(alive[:3]).astype(int), [[1, 1, 1], [1, 0, 1], *[[1, 0, 0]] * 3, [1] * 3]
    )
    # In the fourth stretch, player 0 is out: player 2 is alone, and with its death nobody is left, so a new one begins.
    np.testing.assert_array_equal(alive[3].astype(int), [[0, 0, 1], [0, 1, 1]])


def table(world=None, absent="act"):
    """Agents with Q-tables in the world of the dying, where player k sees cells of its own, from k * LENGTH on."""
    world = mortal(table=True) if world is None else world
    learner = q_table(common_world(world, absent), num_envs=2, num_steps=7)
    return federate(learner, mean(), local_steps=2)


def leaving():
    """The same where players may be absent."""

    def attend(params, state, present):
        del params
        return jnp.arange(PLAYERS, dtype=jnp.int32) * LENGTH + state.state.time, state._replace(present=present)

    return table(replace(mortal(table=True), attend=attend), "leave")


def run(federation, rounds=2, state=None, **given):
    """The state, the last results, and the acting parameters of a simulation, in copies."""
    environment = federation.learner.environment
    with simulate(federation, fleet(environment, environment.common.world.players), **given) as simulation:
        state = simulation.init(0) if state is None else copied(state)
        for _ in range(rounds):
            state, seen = simulation.round(state)
        params = simulation.params_of(simulation.adopt(state))
        return copied(state), seen, jax.tree.map(np.array, params)


def copied(state):
    return jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else jnp.array(x), state)


def learned_cells(params):
    """For each agent the cells in which its table is not what it was, zero."""
    (tables,) = [x for x in jax.tree.leaves(params) if np.ndim(x) == 3]
    cells = PLAYERS * LENGTH + 1
    tables = np.moveaxis(tables, list(tables.shape).index(cells), 1).reshape(len(tables), cells, -1)
    return [set(np.flatnonzero(own.any(1)).tolist()) for own in tables]


def test_every_agent_learns_from_the_rows_of_its_own_player_and_while_it_lives():
    _, seen, params = run(table(), topology=isolated())
    # Player 0 lives for five steps, player 1 for one and player 2 for two.
    assert learned_cells(params) == [{0, 1, 2, 3, 4}, {5}, {10, 11}]
    sums = {name: np.asarray(x) for name, x in seen.metrics.items()}
    np.testing.assert_array_equal(sums["episode_return"], [sums[f"player_{k + 1}_return"][k] for k in range(PLAYERS)])
    assert len(set(sums["episode_return"].tolist())) == PLAYERS
    # Of 14 steps a round, an episode has five, and it goes on into the next round.
    assert (sums["episodes"] == 2 * 3).all()


def test_neither_blocks_nor_their_order_change_what_agents_learn():
    given = {"topology": isolated(), "local_steps": [1, 2, 2]}
    one = run(table(), block=1, **given)
    for other, order in ((2, [2, 0, 1]), (1, [1, 2, 0])):
        again = run(table(), block=other, order=order, **given)
        same((one[2], one[1].metrics), (again[2], again[1].metrics))
        same(one[0].engine_state.team.world, again[0].engine_state.team.world)


@pytest.mark.parametrize("make", [table, leaving])
def test_a_checkpoint_continues_to_the_last_bit_in_the_middle_of_an_episode(make):
    given = {"clock": clock(step_s=[1.0, 1.5, 2.0], drop_out=0.3), "scheduler": Scheduler(synchronous(), uniform(2))}
    half, *_ = run(make(), rounds=2, **given)
    assert half.engine_state.team.world.any()
    whole, *_ = run(make(), rounds=4, **given)
    same(run(make(), rounds=2, state=half, **given)[0], whole)


@pytest.mark.parametrize("make", [table, leaving])
def test_agents_that_are_not_selected_act_on_or_leave_and_do_not_learn(make):
    with simulate(make(), fleet(mortal(table=True), PLAYERS), topology=isolated()) as simulation:
        state, seen = simulation.round(simulation.init(0), cohort=[0, 2])
        params = simulation.params_of(state)
    assert [bool(cells) for cells in learned_cells(params)] == [True, False, True]
    counts = {name: np.asarray(x)[[0, 2]] for name, x in seen.metrics.items()}
    assert counts["episodes"].all()
    assert counts["episode_return"].all()
    if make is leaving:
        # Two begin, and one is left after two steps of five; over 14 steps of two copies.
        assert counts["players_present"].tolist() == [2 * (14 + 6)] * 2
        assert not counts["player_2_return"].any()
    else:
        assert counts["player_2_return"].any()  # it has acted


def test_players_leave_and_join_with_the_drop_outs_of_the_clock():
    present = []
    with simulate(leaving(), fleet(mortal(table=True), PLAYERS), clock=clock(step_s=1.0, drop_out=0.2)) as simulation:
        state = simulation.init(0)
        for _ in range(12):
            state, seen = simulation.round(state)
            here = np.flatnonzero(seen.steps)
            assert len(here) + seen.clock_stats.dropped == PLAYERS
            present.append(len(here))
            if len(here):
                most = len(here) * np.asarray(seen.metrics["steps"])[here]
                assert (np.asarray(seen.metrics["players_present"])[here] > 0).all()
                assert (np.asarray(seen.metrics["players_present"])[here] <= most).all()
    assert min(present) < PLAYERS == max(present)  # some drop out, and join again


TOPOLOGIES = {
    "server": {},
    "tree": {"topology": tree([2], periods=[1, 2])},
    "gossip": {"topology": gossip(ring(), metropolis())},
    "asynchronous": {"scheduler": fed_async(), "clock": clock(step_s=[1.0, 1.3, 1.7])},
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_topology_and_clock_merges_updates_of_players(name):
    _, seen, params = run(table(), rounds=4, **TOPOLOGIES[name])
    assert not seen.rejected
    # What the players have learned apart is in the tables of all, each in cells of its own.
    assert learned_cells(params)[0] >= {0, 1, 2, 3, 4, 5, 10, 11}


def test_learners_of_whole_episodes_begin_them_together():
    learner = reinforce(common_world(navigation(max_steps=5)), network=SMALL, episodes_per_step=2)
    _, seen, _ = run(federate(learner, mean(), local_steps=2), rounds=1)
    np.testing.assert_array_equal(seen.metrics["episodes"], [4.0] * 3)
    assert np.asarray(seen.metrics["episode_return"]).all()


def test_all_agents_are_evaluated_together_each_with_its_own_policy():
    # The second player wins if both show different sides: agents that always show one side are told apart.
    learner = small(common_world(matching_pennies()), steps=4)
    state = learner.init(jax.random.key(0), learner.environment.params)
    zero = jax.tree.map(jnp.zeros_like, learner.params(state))

    def showing(side):
        layer = zero["actor"][-1]
        return {**zero, "actor": (*zero["actor"][:-1], {**layer, "bias": layer["bias"].at[side].set(5.0)})}

    for sides, won in (((0, 0), 1.0), ((0, 1), -1.0)):
        params = jax.tree.map(lambda *x: jnp.stack(x), *map(showing, sides))
        found = played(learner, fleet(learner.environment, 2), params, 3, 0, stacked=True)
        np.testing.assert_array_equal(found.returns, [[won] * 3, [-won] * 3])


def test_a_common_world_is_refused_where_it_can_not_be():
    world = common_world(navigation(max_steps=5))
    federation = federate(small(world), mean())
    with pytest.raises(ConfigError, match=r"agents is 4, and .* has 3 players"):
        simulate(federation, fleet(world, 4))
    with pytest.raises(ConfigError, match=r"damping is .*, which differs between agents, and in .* one world"):
        fleet(world, 3, {"damping": {"range": [0.1, 0.3]}})
    several = fleet(navigation(), 3, {"damping": [0.1, 0.2, 0.3]})
    with pytest.raises(ConfigError, match=r"The parameter 'damping' of .* differs between agents"):
        simulate(federation, several)
    with pytest.raises(ConfigError, match=r"share one world.*held_out = 0"):
        held_out(world, 2, {}, jax.random.key(0))
    with pytest.raises(ConfigError, match=r"worker processes, and the players of .* meet in every step"):
        simulate(federation, fleet(world, 3), executor=ray(2))
    with pytest.raises(ConfigError, match=r"The players of .* are the agents, and Host steps"):
        simulate(federation, fleet(world, 3), executor=Host)
    keys = keys_of(0)
    with pytest.raises(ConfigError, match="processes of their own, and the players of"):
        AgentHalf(federation, 0, world.params, keys.run.tobytes(), agent_secret(keys, 0))
    noisy = replace(federation.learner, noise=Noise(None, 1.0, "agent", "trajectory", "add-remove"))
    for found in (federate(small(world), mean(), local_gaussian(1.0, 0.5)), replace(federation, learner=noisy)):
        with pytest.raises(UnsoundError, match="an agent's actions change what all others observe"):
            simulate(found, fleet(world, 3))
    timed = {"scheduler": fed_async(), "clock": clock(step_s=1.0)}
    with pytest.raises(UnsoundError, match=r"absent is 'leave'.*there are no rounds"):
        simulate(leaving(), fleet(mortal(table=True), PLAYERS), **timed)
    with pytest.raises(ConfigError, match=r"absent is 'leaves', .*'leave'"):
        inspect.unwrap(common_world)(navigation(), absent="leaves")  # without the checks of types that tests put on it
    with pytest.raises(ConfigError, match="does not say what it is without one of its players"):
        common_world(climbing(), "leave")
    with pytest.raises(ConfigError, match="has a single agent"):
        common_world(cartpole())
    with pytest.raises((ConfigError, TypeError), match="world"):
        common_world(gymnasium("CartPole-v1"))
    with pytest.raises(ConfigError, match="has no overview, which a centralised critic reads"):
        mappo(world)
    with pytest.raises(ConfigError, match=r"parameters for 3 players, and in .* each agent is one player"):
        a2c(world, network=per_player(mlp(), 3))


RUN = """
name = "players"
rounds = 2
seeds = 1
environment = { name = "common_world", world = { name = "navigation", max_steps = 6 }, absent = "leave" }
fleet.damping = 0.3
learner = { name = "a2c", network = { name = "mlp", hidden = [4] }, num_envs = 2, num_steps = 6 }
federation = { agents = 3, topology = "ring", clock = { step_s = 1.0, drop_out = 0.2 } }
evaluation = { episodes = 2, every = 0 }
"""


def test_a_run_of_players_is_complete_and_says_who_was_there(tmp_path: Path) -> None:
    fedrl.run(tomllib.loads(RUN), tmp_path / "run")
    folder = open_folder(tmp_path / "run")
    summary, (first, *_) = folder.summary(), folder.records()
    assert all(agent["return"] is not None for agent in summary["agents"])
    assert {"covered", "collisions", "players_present"} <= set(summary["measures"])
    assert 0 < first["measures"]["players_present"] <= 3
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"report.html", "film.gif", "params.safetensors"}
    policy = fedrl.load(tmp_path / "run", agent=1)
    with pytest.raises(ConfigError, match=r"the policy of agent 1, and in .* the other players act by policies"):
        policy.evaluate(episodes=1)
    assert np.isfinite(policy.evaluate(navigation(), episodes=2).returns).all()
    table = tomllib.loads(RUN) | {"baselines": {"centralised": True}}
    with pytest.raises(ConfigError, match=r"baselines.centralised is true, and in .* each agent is one player"):
        build(load(table))
    with pytest.raises(ConfigError, match="worker processes, and the players of"):
        build(load(tomllib.loads(RUN) | {"executor": "ray"}))
    with pytest.raises(ConfigError, match="on_environment_error is 'restart'"):
        build(load(tomllib.loads(RUN) | {"on_environment_error": "restart"}))


def test_players_learn_navigation_together_better_than_alone_and_than_chance():
    learner = ppo(common_world(navigation()), optimizer=adam(0.0015, max_norm=0.5), num_envs=4, num_steps=50)
    last = {}
    for name, topology in {"alone": isolated(), "server": None, "ring": gossip(ring(), metropolis())}.items():
        with simulate(federate(learner, mean()), fleet(learner.environment, 3), topology=topology) as simulation:
            last[name] = [returns_of_rounds(simulation, seed, 100)[-20:].mean() for seed in (0, 1, 2)]
    # At random -26. Measured: alone -23.4 to -23.6, ring -20.3 to -21.1, and the server likewise.
    assert min(last["server"]) > -22.0 < min(last["ring"])
    for together in ("server", "ring"):
        assert (np.subtract(last[together], last["alone"]) > 1.0).all()


def returns_of_rounds(simulation, seed, rounds):
    """The mean return of the episodes of each round."""
    state, found = simulation.init(seed), []
    for _ in range(rounds):
        state, seen = simulation.round(state)
        found.append(seen.metrics["episode_return"].sum() / seen.metrics["episodes"].sum())
    return np.array(found)


def test_isolated_agents_settle_where_independent_policies_of_one_learner_do():
    """As `tests/learners/test_games.py` finds for `per_player` networks: 7 of 11."""
    learner = a2c(
        common_world(climbing()),
        network=mlp(hidden=[]),
        optimizer=adam(0.02),
        num_envs=64,
        num_steps=1,
        entropy_coef=0.5,
    )
    given = {"topology": isolated(), "local_steps": None}
    for seed in range(3):
        with simulate(federate(learner, mean(), local_steps=50), fleet(learner.environment, 2), **given) as simulation:
            state = simulation.init(seed)
            for _ in range(20):
                state, _ = simulation.round(state)
            params = simulation.params_of(state)
        found = played(learner, fleet(learner.environment, 2), params, 1, 0, stacked=True)
        np.testing.assert_array_equal(found.returns, [[7.0], [7.0]])
