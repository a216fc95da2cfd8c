"""Recurrent policies through whole runs: executors, baselines, policy files, acting, films, and what is refused."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import fedrl
from fedrl.core.errors import ConfigError
from fedrl.environments import probe_memory
from fedrl.environments.adapters import pettingzoo
from fedrl.runs.run import resume

GRU = {"name": "gru", "units": 4}
A2C = {"name": "a2c", "network": GRU, "num_envs": 2, "num_steps": 6}
MORTAL = "tests.support.parallel_worlds:Mortal"


def config(environment: Any, learner: Any = A2C, **changes: Any) -> dict[str, Any]:
    return {
        "name": "recurrent",
        "rounds": 2,
        "seeds": [3],
        "baselines": {},
        "environment": environment,
        "learner": learner,
        "federation": {"agents": 2},
        "evaluation": {"episodes": 2},
        **changes,
    }


def test_a_run_is_complete_and_its_policy_acts_by_episodes(tmp_path: Path) -> None:
    pulled = [{"name": "fedprox", "strength": 0.1}, {"name": "adam", "learning_rate": 0.01}]
    learner = {"name": "normalize", "learner": {**A2C, "optimizer": pulled}}
    # Without communication there is no pull, so that this learner is built anew.
    table = config({"name": "probe_memory", "delay": 2}, learner, baselines={"independent": True})
    fedrl.run(table, tmp_path / "run")
    policy = fedrl.load(tmp_path / "run")
    assert policy.observation_space.shape == (1,)
    with pytest.raises(ConfigError, match=r"policy\.episode"):
        policy.predict(np.float32([1.0]))
    with pytest.raises(ConfigError, match="function of"):
        policy.export(tmp_path / "policy.py")
    assert (tmp_path / "run" / "film.gif").exists()
    found = policy.evaluate(episodes=4, seed=1)
    assert found.lengths.tolist() == [3] * 4
    again = policy.evaluate(probe_memory(2), episodes=2, seed=1)
    film = policy.render(tmp_path / "one.gif", probe_memory(2), seed=1)
    assert (film.returned, film.steps) == (again.returns[0], 3)


def test_acting_in_an_episode_is_acting_in_the_environment(tmp_path: Path) -> None:
    table = config({"name": "gymnasium", "id": "Pendulum-v1", "max_steps": 8}, {**A2C, "trajectory_clip": 1.0})
    fedrl.run(table, tmp_path / "run")
    policy = fedrl.load(tmp_path / "run")
    inside = policy.evaluate("Pendulum-v1", episodes=2, seed=1)
    assert inside.lengths.tolist() == [200, 200]
    with gymnasium.make("Pendulum-v1", max_episode_steps=8) as outside:
        seen, _ = outside.reset(seed=0)
        act, fresh, pair = policy.episode(), policy.episode(), policy.episode()
        first = act(seen)
        np.testing.assert_array_equal(fresh(seen), first)
        np.testing.assert_allclose(pair(np.stack([seen, seen])), [first, first], rtol=1e-5)
        # A second look at the same state is another one: the policy remembers the first.
        assert np.abs(act(seen) - first).max() > 1e-4
        np.testing.assert_allclose(policy.episode(deterministic=False, seed=1)(seen).shape, first.shape)
        assert policy.evaluate(outside, episodes=2).lengths.tolist() == [8, 8]


def test_players_of_a_common_world_remember_and_may_leave_it(tmp_path: Path) -> None:
    world = {"name": "common_world", "world": {"name": "navigation", "max_steps": 5}, "absent": "leave"}
    several = {"agents": 3, "clock": {"step_s": 1.0, "drop_out": 0.3}}
    fedrl.run(config(world, federation=several), tmp_path / "run")
    assert (tmp_path / "run" / "film.gif").exists()
    returns = fedrl.load(tmp_path / "run").evaluate(episodes=2).returns
    assert np.isfinite(returns).all()


def test_players_of_a_world_on_the_host_remember(tmp_path: Path) -> None:
    network = {"name": "per_player", "network": GRU, "players": 3}
    critic = {"name": "mlp", "hidden": [4]}
    learner = {"name": "mappo", "network": network, "critic": critic, "num_envs": 2, "num_steps": 5}
    learner |= {"num_epochs": 1, "num_minibatches": 2}
    fedrl.run(config({"name": "pettingzoo", "id": MORTAL}, learner), tmp_path / "run")
    policy = fedrl.load(tmp_path / "run", trust=True)
    found = policy.evaluate(pettingzoo(MORTAL), episodes=2, seed=5)
    film = policy.render(tmp_path / "one.gif", pettingzoo(MORTAL), seed=5)
    np.testing.assert_allclose(film.returned, found.returns[0], rtol=1e-6)


PLACES = {
    "gossip": {"agents": 3, "topology": "ring"},
    "a tree": {"agents": 4, "local_steps": 2, "hierarchy": {"name": "tree", "branching": [2], "periods": [1, 2]}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_goes_on_remembers_what_its_episodes_have_shown(place: str, tmp_path: Path) -> None:
    # Episodes have three steps, and rollouts four: rounds end within an episode.
    learner = {**A2C, "num_steps": 4}
    table = config({"name": "probe_memory", "delay": 2}, learner, federation=PLACES[place])
    fedrl.run(table, tmp_path / "whole", overrides=["rounds=4"])
    fedrl.run(table, tmp_path / "parted")
    resume(tmp_path / "parted", rounds=4)
    one, other = ((tmp_path / name / "params.safetensors").read_bytes() for name in ("whole", "parted"))
    assert one == other


def test_the_mixture_of_policies_with_memories_is_refused_before_the_run(tmp_path: Path) -> None:
    table = config("probe_memory", baselines={"mixture": True})
    with pytest.raises(ConfigError, match=r"memory, and the baseline mixture lets another policy act in each step"):
        fedrl.run(table, tmp_path / "run")
    assert not (tmp_path / "run").exists()
