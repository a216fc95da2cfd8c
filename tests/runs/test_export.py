import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import fedrl
from fedrl.core.errors import ConfigError, RunError
from fedrl.environments.adapters.entries import entries_of
from fedrl.runs.export import ENDINGS, forms, onnx_form, torch_form
from fedrl.runs.export.plain import PlainPolicy
from tests.support.made_policies import CASES, CHOICES, made_policy

AGENT = {"personal": 1, "interpolated": 2}
BLOCKED = """
import importlib.util, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("jax", "jaxlib", "fedrl", "gymnasium", "safetensors"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("policy", path + "/policy.py")
    policy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(policy)
    seen = np.load(path + "/seen.npy")
    actions, one = policy.predict(seen), policy.predict(seen[0])
    assert np.array_equal(one, actions[0]) and isinstance(one, int if actions.ndim == 1 else np.ndarray)
    sampled = [policy.predict(seen, deterministic=False, seed=s) for s in (1, 1, 2)]
    assert np.array_equal(sampled[0], sampled[1])
    np.savez(path + "/found.npz", actions=actions, scores=policy.scores(seen), sampled=sampled[0])
assert "jax" not in sys.modules
"""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A policy of a case, the folder it was made in, and 1,000 observations; made once."""
    found: dict[str, Any] = {}

    def policy_of(case: str) -> Any:
        if case not in found:
            folder = made_policy(tmp_path_factory.mktemp("made") / case.replace(" ", "-"), case)
            policy = fedrl.load(folder, seed=1, agent=AGENT.get(case))
            seen = observations(policy)
            np.save(folder / "seen.npy", seen)
            found[case] = (policy, folder, seen)
        return found[case]

    return policy_of


def observations(policy: Any) -> np.ndarray:
    """Others than those that the export itself is checked on."""
    random, space = np.random.default_rng(11), policy.observation_space
    if isinstance(space, gym.spaces.Discrete):
        return random.integers(space.n, size=1000)
    return (1.5 * random.standard_normal((1000, *space.shape))).astype(np.float32)


def tolerance_of(policy: Any) -> float:
    """That of the goal; sums of 1,024 terms round by twice as much as those of 256."""
    widest = max(np.shape(leaf)[-1] for leaf in jax.tree.leaves(policy.params) if np.ndim(leaf))
    return 2e-6 if widest == 1024 else 1e-6


def difference(policy: Any, seen: np.ndarray, actions: np.ndarray, scores: np.ndarray) -> float:
    """The largest difference of an output, as a share of the largest; actions are compared by the way."""
    expected, ours = policy._outputs(seen), policy.predict(seen)
    assert actions.dtype == ours.dtype
    assert actions.shape == ours.shape
    if not isinstance(policy.action_space, gym.spaces.Discrete):
        assert np.abs(actions - ours).max() <= tolerance_of(policy) * np.abs(expected).max()
        return float(np.abs(scores - expected).max() / np.abs(expected).max())
    if policy.facts.learner["name"] == "q_table":
        np.testing.assert_array_equal(scores, policy.params["q"][seen])
        np.testing.assert_array_equal(actions, ours)
        return 0.0
    least, best = np.sort(expected)[:, -2:].T
    clear = best - least > 1e-6 * expected.max()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(actions[clear], ours[clear])
    likely = expected > 1e-30
    logarithms = np.log(expected[likely])
    return float(np.abs(np.log(scores[likely]) - logarithms).max() / np.abs(logarithms).max())


@pytest.mark.parametrize("case", CASES)
def test_the_file_for_numpy_does_what_the_policy_does_without_jax(policies, case):
    policy, folder, seen = policies(case)
    told = policy.export(folder / "policy.py")
    assert told.difference <= tolerance_of(policy)
    assert told.observations == 1000
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", BLOCKED, str(folder)], check=True, env=clean)
    found = np.load(folder / "found.npz")
    assert difference(policy, seen, found["actions"], found["scores"]) <= tolerance_of(policy)


def test_what_is_sampled_from_the_file_for_numpy_has_the_probabilities_of_the_policy(policies, tmp_path):
    for case in ("softmax", "table", "normalised"):
        policy, _, seen = policies(case)
        names: dict[str, Any] = {}
        policy.export(tmp_path / "policy.py")
        exec((tmp_path / "policy.py").read_text(), names)
        many = np.repeat(seen[:1], 4000, 0)
        theirs, ours = (act(many, deterministic=False, seed=0) for act in (names["predict"], policy.predict))
        assert not np.array_equal(names["predict"](many, False, 0), names["predict"](many, False, 1)), case
        assert theirs.mean() == pytest.approx(ours.mean(), abs=0.1), case
        assert theirs.std() == pytest.approx(ours.std(), abs=0.1), case


@pytest.mark.parametrize("case", CASES)
def test_the_onnx_model_does_what_the_policy_does(policies, case):
    policy, folder, seen = policies(case)
    assert policy.export(folder / "policy.onnx").difference <= tolerance_of(policy)
    session = onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])
    (inlet,) = session.get_inputs()
    assert inlet.name == "observation"
    actions, scores = session.run(None, {"observation": seen})[:2]
    assert difference(policy, seen, actions, scores) <= tolerance_of(policy)
    one = session.run(["action"], {"observation": seen[:1]})[0]
    np.testing.assert_allclose(one, actions[:1], rtol=1e-5)
    names = [outlet.name for outlet in session.get_outputs()]
    if isinstance(policy.action_space, gym.spaces.Box):
        assert names == ["action", "mean", "standard_deviation"]
        deviation = session.run(["standard_deviation"], {"observation": seen})[0]
        spread = np.std([policy._chosen(seen[:1], False, s) for s in range(300)])
        assert deviation.item() == pytest.approx(spread, rel=0.25)
    else:
        assert names == ["action", "values" if case == "table" else "probabilities"]


def test_a_model_says_which_policy_it_is(policies):
    policy, folder, _ = policies("personal")
    policy.export(folder / "policy.onnx")
    told = {each.key: each.value for each in onnx.load(folder / "policy.onnx").metadata_props}
    assert told == {"seed": "1", "agent": "1", "fedrl": fedrl.__version__}


@pytest.mark.parametrize("form", ["numpy", "onnx"])
def test_equal_policies_are_equal_files(policies, tmp_path, form):
    policy, _, _ = policies("normalised")
    one, two = (policy.export(tmp_path / name, to=form).path.read_bytes() for name in ("one", "two"))
    assert one == two


def transposed(policy: PlainPolicy) -> PlainPolicy:
    return policy._replace(arrays=policy.arrays | {"weight1": policy.arrays["weight1"].T})


def unclipped(policy: PlainPolicy) -> PlainPolicy:
    space = gym.spaces.Box(-np.inf, np.inf, policy.spaces.action.shape)
    return policy._replace(spaces=policy.spaces._replace(action=space))


def with_another_limit(policy: PlainPolicy) -> PlainPolicy:
    return policy._replace(limit=1.0)


@pytest.mark.parametrize("form", ["numpy", "onnx"])
@pytest.mark.parametrize("fault", [transposed, unclipped, with_another_limit])
def test_a_file_that_does_something_else_is_not_written(policies, tmp_path, monkeypatch, form, fault):
    write, open_again = forms.FORMS[form]
    monkeypatch.setitem(forms.FORMS, form, (lambda policy, who: write(fault(policy), who), open_again))
    policy, _, _ = policies("clipped")
    with pytest.raises(RunError, match=rf"The policy for {form} differs from fedrl's.*Nothing was written"):
        policy.export(tmp_path / "policy", to=form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"name": "ppo", "network": {"name": "mine"}}, "The network is 'mine'. It is user-defined"),
        ({"name": "ppo", "network": "mypkg:net"}, "The network is 'mypkg:net'. It is user-defined"),
        ({"name": "mine"}, "The learner is 'mine'. It is user-defined"),
    ],
)
def test_a_network_or_a_learner_of_ones_own_is_for_onnx_alone_and_needs_an_extra(
    policies, tmp_path, monkeypatch, table, told
):
    policy, _, _ = policies("softmax")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    for form, why in {
        "numpy": "needs them one by one. Export it to 'onnx'",
        "torch": "needs them one by one. Export it to 'onnx'",
        "onnx": r"needs jax2onnx, which is not installed. Install it: pip install 'fedrl\[jax2onnx\]'",
    }.items():
        with pytest.raises(ConfigError, match=f"{told}.*{why}"):
            forms.export_policy(table, policy.params, reference_of(policy), {}, tmp_path / "policy", form)
    assert list(tmp_path.iterdir()) == []


def reference_of(policy: Any) -> Any:
    return forms.Reference(policy._spaces, policy._outputs, policy.predict, policy._traced)


def test_what_can_not_be_written_or_is_no_form_is_refused(policies, tmp_path):
    policy, _, _ = policies("softmax")
    with pytest.raises(ConfigError, match=r"to is 'tflite'.*Allowed: numpy, onnx, torch"):
        policy.export(tmp_path / "policy.tflite", to="tflite")
    with pytest.raises(
        ConfigError, match=r"ends with '.tflite', which is not the suffix of a form.*\.onnx, \.pt2, \.py"
    ):
        policy.export(tmp_path / "policy.tflite")
    with pytest.raises(RunError, match="can't be written to"):
        policy.export("/dev/null/policy.py")


@pytest.mark.parametrize(("module", "package", "form"), [(onnx_form, "onnx", "onnx"), (torch_form, "torch", "torch")])
def test_a_package_that_is_missing_is_named_with_its_extra(policies, tmp_path, monkeypatch, module, package, form):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"not installed. Install it: pip install 'fedrl\[{form}\]'"):
        module.imported()
    policy, _, _ = policies("softmax")
    with pytest.raises(ConfigError, match="not installed"):
        policy.export(tmp_path / f"policy{ENDINGS[form]}")


def test_the_file_for_numpy_is_readable_and_small(policies):
    policy, folder, _ = policies("softmax")
    text = Path(policy.export(folder / "policy.py").path).read_text()
    assert max(map(len, text.splitlines())) <= 125
    assert len(text) < 15_000
    assert "import jax" not in text
    assert "action = predict(observation)" in text


@pytest.mark.parametrize("kind", CHOICES)
def test_a_model_of_choices_at_once_has_an_entry_for_each_of_them(kind, tmp_path):
    policy = fedrl.load(made_policy(tmp_path / kind, kind), seed=1, trust=True)
    seen = observations(policy)
    expected = entries_of(policy.action_space, policy.predict(seen))
    told = [policy.export(tmp_path / f"policy{ending}") for ending in (".py", ".onnx")]
    assert max(each.difference for each in told) <= 1e-6
    names: dict[str, Any] = {}
    exec((tmp_path / "policy.py").read_text(), names)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    actions, scores = session.run(None, {"observation": seen})
    assert actions.dtype == (np.int64 if kind == "multi_discrete" else np.float32)
    np.testing.assert_allclose(scores, names["scores"](seen), atol=1e-5)
    for found in (actions, entries_of(policy.action_space, names["predict"](seen))):
        apart = np.abs(found - expected) > 1e-4
        assert apart.any(1).mean() < 0.01  # where two values are equally probable
    sampled, ours = (
        entries_of(policy.action_space, act(np.repeat(seen[:1], 4000, 0), deterministic=False, seed=0))
        for act in (names["predict"], policy.predict)
    )
    np.testing.assert_allclose(sampled.mean(0), ours.mean(0), atol=0.1)
    np.testing.assert_allclose(sampled.std(0), ours.std(0), atol=0.1)


def test_an_export_of_choices_that_differs_is_refused(tmp_path, monkeypatch):
    policy = fedrl.load(made_policy(tmp_path / "dict", "dict"), seed=1, trust=True)
    whole = forms.plain_policy

    def turned(*given: Any) -> PlainPolicy:
        plain = whole(*given)
        bias = plain.arrays["bias2"].copy()
        bias[1:4] = bias[1:4][::-1] + np.float32([0.5, 0.0, -0.5])  # of the lane
        return plain._replace(arrays=plain.arrays | {"bias2": bias})

    monkeypatch.setattr(forms, "plain_policy", turned)
    with pytest.raises(RunError, match="differs from fedrl's"):
        policy.export(tmp_path / "policy.py")
