import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors.numpy

import fedrl
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.learner import Learner
from fedrl.environments import cartpole, pendulum
from fedrl.runs.evaluate import greedy_returns
from fedrl.runs.policy_file import KEY, PolicyFile
from fedrl.runs.spaces import space_of, space_table
from tests.support.made_policies import made_policy

PARAMS, CONFIG = "params.safetensors", "config.toml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run folder of a case, made once; tests leave it as it is."""
    root, there = tmp_path_factory.mktemp("policies"), {}

    def folder_of(case: str) -> Path:
        if case not in there:
            there[case] = made_policy(root / case.replace(" ", "-"), case)
        return there[case]

    return folder_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, of agents with policies of their own beside the server's."""
    out = tmp_path_factory.mktemp("run") / "corridor"
    fedrl.run(
        {
            "name": "corridor",
            "rounds": 1,
            "seeds": [3],
            "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
            "learner": {
                "name": "interpolate",
                "share": 0.3,
                "learner": {"name": "q_table", "num_steps": 16, "epsilon": 0.5},
            },
            "federation": {"agents": 2},
            "evaluation": {"episodes": 1, "film": False},
        },
        out,
    )
    return out


def forward(arrays: dict[str, np.ndarray], prefix: str, x: np.ndarray, row: Any = ...) -> np.ndarray:
    """The outputs of a network of tanh, from the arrays of the file."""
    for i in range(3):
        x = x @ arrays[f"{prefix}/{i}/weight"][row].astype(float).T + arrays[f"{prefix}/{i}/bias"][row]
        x = np.tanh(x) if i < 2 else x
    return x


def observations(count: int = 40, size: int = 4) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, size)).astype(np.float32)


def test_a_policy_acts_on_one_observation_or_a_batch_as_its_network_says(made):
    policy, seen = fedrl.load(made("softmax"), seed=1), observations()
    best = forward(safetensors.numpy.load_file(made("softmax") / PARAMS), "seed1/actor", seen).argmax(-1)
    actions = policy.predict(seen)
    np.testing.assert_array_equal(actions, best)
    assert actions.dtype == np.int64
    assert len(set(best.tolist())) == 2
    single = [policy.predict(each) for each in seen]
    assert single == best.tolist()
    assert all(type(action) is int for action in single)
    assert policy.predict(seen[0].tolist()) == best[0]
    assert policy.predict(seen[:0]).shape == (0,)
    assert policy.action_space == gym.spaces.Discrete(2)
    assert policy.observation_space.shape == (4,)


def test_each_agent_acts_with_its_own_parameters(made):
    seen = observations()
    arrays = safetensors.numpy.load_file(made("personal") / PARAMS)
    chosen = [fedrl.load(made("personal"), agent=k).predict(seen) for k in range(3)]
    for k in range(3):
        np.testing.assert_array_equal(chosen[k], forward(arrays, "seed0/actor", seen, k).argmax(-1))
    assert not np.array_equal(chosen[0], chosen[1])


def test_agents_with_a_policy_each_have_to_be_chosen_unless_the_server_has_one(made):
    with pytest.raises(
        ConfigError, match=r"agent is not given, and agents 0 to 2 of .* have a policy each.*Choose one"
    ):
        fedrl.load(made("personal"))
    seen, arrays = observations(), safetensors.numpy.load_file(made("interpolated") / PARAMS)
    common, own = fedrl.load(made("interpolated")), fedrl.load(made("interpolated"), agent=2)
    np.testing.assert_array_equal(common.predict(seen), forward(arrays, "common/seed0/actor", seen).argmax(-1))
    np.testing.assert_array_equal(own.predict(seen), forward(arrays, "seed0/actor", seen, 2).argmax(-1))


def test_continuous_actions_are_the_means_clipped_to_the_bounds(made):
    policy, arrays = fedrl.load(made("normalised")), safetensors.numpy.load_file(made("normalised") / PARAMS)
    mean, variance = (arrays[f"seed0/moments/observation/{name}"] for name in ("mean", "variance"))
    seen = (mean + 3.0 * np.sqrt(variance) * observations(200, 3)).astype(np.float32)
    normal = np.clip((seen - mean) / np.sqrt(variance), -10.0, 10.0)
    means = forward(arrays, "seed0/learner/actor/network", normal)
    actions = policy.predict(seen)
    np.testing.assert_allclose(actions, np.clip(means, -2.0, 2.0), atol=1e-5)
    assert actions.dtype == np.float32
    assert policy.predict(seen[0]).shape == (1,)
    wild = [policy.predict(s, deterministic=False, seed=i) for i, s in enumerate(seen[:50])]
    assert all(policy.action_space.contains(action) for action in wild)
    assert np.abs(wild).max() == 2.0


def test_bounds_of_each_entry_and_the_first_number_are_those_of_the_environment(tmp_path):
    for space in (
        gym.spaces.Discrete(3, start=-1),
        gym.spaces.Box(np.float32([-1, 0, -np.inf]), np.float32([1, 2, np.inf])),
        gym.spaces.Box(0, 255, (2, 3), np.uint8),
    ):
        assert space_of(json.loads(json.dumps(space_table(space)))) == space
    gym.register("Leaning-v0", entry_point=Leaning, max_episode_steps=5)
    try:
        folder = made_policy(tmp_path / "leaning", "gaussian", environment={"name": "gymnasium", "id": "Leaning-v0"})
        policy = fedrl.load(folder)
        assert policy.action_space == gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 0.5]))
        assert policy.observation_space == gym.spaces.Discrete(3, start=1)
        actions = np.stack([policy.predict(2, deterministic=False, seed=i) for i in range(50)])
        assert (actions.min(0) == [-1.0, 0.0]).all()
        assert (actions.max(0) == [1.0, 0.5]).all()
        for wrong in (0, 4):
            with pytest.raises(ConfigError, match=f"The observation is {wrong}.*the numbers 1 to 3"):
                policy.predict([wrong, 2])
        found = [policy.evaluate(where, episodes=3) for where in (None, "Leaning-v0", gym.make("Leaning-v0"))]
        for each in found:
            assert each.lengths.tolist() == [5, 5, 5]
            np.testing.assert_allclose(each.returns, found[0].returns, rtol=1e-5)
    finally:
        del gym.registry["Leaning-v0"]


class Leaning(gym.Env):
    """Whose reward is the sum of the action, and which refuses what is out of bounds."""

    observation_space = gym.spaces.Discrete(3, start=1)
    action_space = gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 0.5]))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 2, {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return 3, float(action.sum()), False, False, {}


def test_a_table_gives_the_best_action_and_the_same_one_where_actions_tie(made, tmp_path):
    folder = shutil.copytree(made("table"), tmp_path / "table")
    arrays, metadata = safetensors.numpy.load_file(folder / PARAMS), PolicyFile(folder / PARAMS).metadata
    q = arrays["seed0/q"]
    policy = fedrl.load(folder)
    assert [policy.predict(s) for s in range(4)] == q.argmax(-1).tolist()
    assert policy.predict(np.arange(4)).tolist() == q.argmax(-1).tolist()
    arrays["seed0/q"] = np.zeros_like(q)
    safetensors.numpy.save_file(arrays, folder / PARAMS, dict(metadata))
    tied = fedrl.load(folder)
    assert len(set(tied.predict(np.full(64, 2)).tolist())) == 1
    assert len(set(tied.predict(np.full(64, 2), deterministic=False, seed=0).tolist())) == 4


def test_sampled_actions_follow_their_seed_and_the_probabilities(made):
    policy, seen = fedrl.load(made("softmax")), np.repeat(observations(1), 4000, 0)
    logits = forward(safetensors.numpy.load_file(made("softmax") / PARAMS), "seed0/actor", seen[:1])[0]
    shares = np.exp(logits) / np.exp(logits).sum()
    one, again, other = (policy.predict(seen, deterministic=False, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.mean() == pytest.approx(shares[1], abs=4 * np.sqrt(shares.prod() / 4000))
    assert not np.array_equal(*(policy.predict(seen, deterministic=False) for _ in range(2)))


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (np.zeros(3), r"has the shape \(3,\).*one observation has the shape \(4,\)"),
        (np.zeros((2, 2, 4)), r"has the shape \(2, 2, 4\)"),
        (0.0, r"has the shape \(\)"),
        (["left"] * 4, "is of type <U4"),
        ([[1.0], [1.0, 2.0]], "is of type object"),
        ([0.0, np.nan, 0.0, 0.0], "an entry that is not a number"),
    ],
)
def test_an_observation_of_another_space_is_refused(made, seen, told):
    with pytest.raises(ConfigError, match=told):
        fedrl.load(made("softmax")).predict(seen)


@pytest.mark.parametrize(("seen", "told"), [(4, "is 4.*numbers 0 to 3"), (-1, "is -1"), (1.0, "type float64")])
def test_a_number_that_is_none_of_the_states_is_refused(made, seen, told):
    with pytest.raises(ConfigError, match=told):
        fedrl.load(made("table")).predict(seen)


@pytest.mark.parametrize(
    ("case", "chosen", "told"),
    [
        ("softmax", {"seed": 5}, "seed is 5, and .* holds seeds 0, 1. Choose one"),
        ("softmax", {"agent": 3}, "agent is 3, and the run has agents 0 to 2"),
        ("personal", {"agent": -1}, "agent is -1, and the run has agents 0 to 2"),
    ],
)
def test_a_seed_or_an_agent_that_is_not_there_is_refused(made, case, chosen, told):
    with pytest.raises(ConfigError, match=told):
        fedrl.load(made(case), **chosen)


def test_what_is_no_run_or_is_damaged_is_refused(made, tmp_path):
    with pytest.raises(RunError, match=r"does not exist"):
        fedrl.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is not a run folder: it has no config.toml"):
        fedrl.load(tmp_path)
    folder = shutil.copytree(made("softmax"), tmp_path / "run")
    whole = (folder / PARAMS).read_bytes()
    for content in (b"", b"x" * 50, whole[:-40], whole[:200]):
        (folder / PARAMS).write_bytes(content)
        with pytest.raises(RunError, match=r"params.safetensors is damaged"):
            fedrl.load(folder)
    (folder / PARAMS).unlink()
    with pytest.raises(RunError, match=r"params.safetensors does not exist.*fedrl run --resume"):
        fedrl.load(folder)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("{", "is damaged"),
        ('{"format": 1}', "is damaged"),
        (
            '{"format": 2, "version": "9.0"}',
            "is of format 2, and this fedrl reads format 1: it was written by fedrl 9.0",
        ),
    ],
)
def test_metadata_that_are_none_are_refused(made, tmp_path, metadata, told):
    file = tmp_path / "one.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(made("softmax") / PARAMS), file, {KEY: metadata})
    with pytest.raises(RunError, match=told):
        fedrl.load(file)


def test_parameters_that_are_not_finite_are_refused(made, tmp_path):
    folder = shutil.copytree(made("softmax"), tmp_path / "run")
    arrays, metadata = safetensors.numpy.load_file(folder / PARAMS), PolicyFile(folder / PARAMS).metadata
    arrays["seed1/actor/0/bias"][3] = np.inf
    safetensors.numpy.save_file(arrays, folder / PARAMS, dict(metadata))
    with pytest.raises(RunError, match=r"The parameters of seed 1 in .* are not finite"):
        fedrl.load(folder, seed=1)
    fedrl.load(folder, seed=0)


def test_a_file_alone_acts_and_needs_an_environment_to_be_evaluated(made, tmp_path):
    file = shutil.copy(made("softmax") / PARAMS, tmp_path / "mine.safetensors")
    policy, seen = fedrl.load(file), observations()
    np.testing.assert_array_equal(policy.predict(seen), fedrl.load(made("softmax")).predict(seen))
    with pytest.raises(RunError, match=r"without its run folder. Give an environment"):
        policy.evaluate()
    found = policy.evaluate(cartpole(), episodes=3)
    np.testing.assert_array_equal(found.returns, found.lengths)
    assert fedrl.load(made("softmax") / PARAMS).folder == made("softmax")


def test_a_file_of_an_earlier_version_needs_its_run_folder(made, tmp_path):
    folder, seen = shutil.copytree(made("normalised"), tmp_path / "run"), observations(9, 3)
    safetensors.numpy.save_file(safetensors.numpy.load_file(folder / PARAMS), folder / PARAMS)
    expected = fedrl.load(made("normalised")).predict(seen)
    for path in (folder, folder / PARAMS):
        np.testing.assert_array_equal(fedrl.load(path).predict(seen), expected)
    alone = shutil.copy(folder / PARAMS, tmp_path / PARAMS)
    with pytest.raises(RunError, match=r"has no description of its parameters.*Load its run folder"):
        fedrl.load(alone)


def test_a_configuration_that_was_changed_since_does_not_stand_for_the_run(made, tmp_path):
    folder = shutil.copytree(made("softmax"), tmp_path / "run")
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(
        text.replace('name = "softmax"', 'name = "another"').replace("episodes = 2", "episodes = 3")
    )
    assert len(fedrl.load(folder / PARAMS).evaluate(episodes=1).returns) == 1
    (folder / CONFIG).write_text(text.replace("rounds = 100", "rounds = 101"))
    assert fedrl.load(folder / PARAMS).folder is None
    policy = fedrl.load(folder)
    assert policy.predict(np.zeros(4)) in (0, 1)
    with pytest.raises(RunError, match=r"config.toml is not the configuration of these parameters"):
        policy.evaluate()


def altered(folder: Path, target: Path, old: str, new: str) -> Path:
    """The file of a run folder, with other words in its metadata."""
    text = PolicyFile(folder / PARAMS).metadata[KEY]
    assert old in text
    arrays = safetensors.numpy.load_file(folder / PARAMS)
    safetensors.numpy.save_file(arrays, target, {KEY: text.replace(old, new)})
    return target


def test_a_learner_that_is_not_known_is_named(made, tmp_path):
    file = altered(made("softmax"), tmp_path / "mine.safetensors", '"name": "ppo"', '"name": "pppo"')
    with pytest.raises(ConfigError, match=r"learner.name is 'pppo', which is no known learner.*nothing .* is imported"):
        fedrl.load(file)


def test_loading_imports_nothing_that_a_folder_names(made, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = shutil.copytree(made("softmax"), tmp_path / "run")
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace('name = "cartpole"', 'name = "gymnasium"\nid = "trap:Trap-v0"'))
    for name in ("trap", "trap:ppo", "trap.ppo"):
        file = altered(folder, tmp_path / "mine.safetensors", '"name": "ppo"', f'"name": "{name}"')
        with pytest.raises(ConfigError, match=r"is no known learner|nothing that a run folder names is imported"):
            fedrl.load(file)
    fedrl.load(folder).predict(np.zeros(4))
    assert "trap" not in sys.modules


def test_evaluation_goes_through_the_agents_in_turn_with_their_greedy_returns(tmp_path):
    folder = made_policy(tmp_path / "run", "table", fleet={"slip": 0.2, "goal_reward": [1.0, 5.0, 9.0]})
    arrays, metadata = safetensors.numpy.load_file(folder / PARAMS), PolicyFile(folder / PARAMS).metadata
    arrays["seed0/q"][:, 2] = 9.0  # to the right, where the goal is
    safetensors.numpy.save_file(arrays, folder / PARAMS, dict(metadata))
    experiment, params = fedrl.load(folder)._experiment(), {"q": arrays["seed0/q"]}
    found = fedrl.load(folder).evaluate(episodes=5, seed=4)
    expected = greedy_returns(experiment.learner, experiment.fleet, params, 2, 4)
    np.testing.assert_array_equal(found.returns, [expected[i % 3, i // 3] for i in range(5)])
    np.testing.assert_allclose(
        found.returns, [(1, 5, 9)[i % 3] - 0.01 * n for i, n in enumerate(found.lengths)], atol=0.011
    )
    found = fedrl.load(folder, agent=2).evaluate(episodes=2)
    np.testing.assert_allclose(found.returns, 9 - 0.01 * found.lengths, atol=0.011)


def test_a_run_writes_what_its_parameters_are(run):
    file = PolicyFile(run / PARAMS)
    facts = file.facts()
    assert facts is not None
    assert facts.spaces == (gym.spaces.Discrete(4), gym.spaces.Discrete(4))
    assert (facts.agents, facts.stacked, facts.max_steps) == (2, True, 20)
    assert facts.version == fedrl.__version__
    assert facts.learner["name"] == "interpolate"
    assert facts.learner["learner"]["epsilon"] == 0.5
    assert len(facts.config_sha256) == 64
    arrays = safetensors.numpy.load_file(run / PARAMS)
    assert {name: array.shape for name, array in arrays.items()} == {
        "seed3/q": (2, 4, 4),
        "common/seed3/q": (4, 4),
    }
    for agent in (0, 1):
        np.testing.assert_array_equal(fedrl.load(run, agent=agent).params["q"], arrays["seed3/q"][agent])
    np.testing.assert_array_equal(fedrl.load(run, seed=3).params["q"], arrays["common/seed3/q"])
    assert not np.array_equal(arrays["seed3/q"][0], arrays["common/seed3/q"])


def test_lengths_are_those_of_the_episodes(made):
    policy = fedrl.load(made("softmax"))
    found = policy.evaluate(episodes=7)
    np.testing.assert_array_equal(found.returns, found.lengths)  # one per step that the pole stands
    host = policy.evaluate("CartPole-v1", episodes=3)
    np.testing.assert_array_equal(host.returns, host.lengths)
    open_one = gym.make("CartPole-v1")
    by_hand = policy.evaluate(open_one, episodes=3, seed=1)
    np.testing.assert_array_equal(by_hand.returns, by_hand.lengths)
    np.testing.assert_array_equal(by_hand.returns, policy.evaluate(open_one, episodes=3, seed=1).returns)
    open_one.close()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (pendulum(), r"has observations in Box.*\(3,\), float32\)"),
        ("MountainCar-v0", "has observations in Box"),
        (gym.spaces.Discrete(2), "which is not an environment"),
        ("CartPole-v99", "is no registered environment"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(made, environment, told):
    with pytest.raises(ConfigError, match=told):
        fedrl.load(made("softmax")).evaluate(environment, episodes=1)
    with pytest.raises(ConfigError, match=r"has observations in"):
        fedrl.load(made("softmax")).evaluate(gym.make("MountainCar-v0"), episodes=1)


def test_policies_of_other_spaces_do_not_share_a_program(made, tmp_path):
    """The same learner in two environments of which only the spaces are known."""
    one = fedrl.load(made("softmax"))
    two = fedrl.load(made_policy(tmp_path / "acrobot", "softmax", environment="acrobot"))
    assert isinstance(one.learner, Learner)
    assert one.learner != two.learner
    assert one.predict(np.zeros((3, 4))).shape == two.predict(np.zeros((3, 6))).shape
