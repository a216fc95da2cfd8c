"""Policies exported to PyTorch. `make test-torch` runs these, as PyTorch is large and nothing else needs it."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import fedrl
from fedrl.core.errors import RunError
from fedrl.environments.adapters.entries import entries_of
from fedrl.runs.export import forms
from tests.support.made_policies import CASES, CHOICES, made_policy

AGENT = {"personal": 1, "interpolated": 2}


@pytest.mark.filterwarnings("ignore")  # of PyTorch about its own insides
@pytest.mark.parametrize("case", CASES)
def test_the_program_does_what_the_policy_does(tmp_path, case):
    policy = fedrl.load(made_policy(tmp_path / "run", case), seed=1, agent=AGENT.get(case))
    tolerance = 2e-6 if case == "wider" else 1e-6
    assert policy.export(tmp_path / "policy.pt2").difference <= tolerance
    extra = {"fedrl.json": ""}
    module: Any = torch.export.load(tmp_path / "policy.pt2", extra_files=extra).module()
    assert json.loads(extra["fedrl.json"])["seed"] == 1
    random, space = np.random.default_rng(11), policy.observation_space
    if isinstance(space, gym.spaces.Discrete):
        seen = random.integers(space.n, size=1000)
    else:
        seen = (1.5 * random.standard_normal((1000, *space.shape))).astype(np.float32)
    for size in (1, 2, 1000):
        with torch.no_grad():
            actions, scores = (each.numpy() for each in module(torch.from_numpy(seen[:size])))
        ours, expected = policy.predict(seen[:size]), policy._outputs(seen[:size])
        assert actions.dtype == ours.dtype
        if isinstance(policy.action_space, gym.spaces.Box):
            assert np.abs(actions - ours).max() <= tolerance * np.abs(expected).max()
        else:
            assert (actions == ours).mean() > 0.999
        if isinstance(policy.action_space, gym.spaces.Discrete) and case != "table":
            scores, expected = (np.log(np.maximum(each, 1e-30)) for each in (scores, expected))
        if case != "table":
            assert np.abs(scores - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CHOICES)
def test_a_program_of_choices_at_once_has_an_entry_for_each_of_them(tmp_path, kind):
    policy = fedrl.load(made_policy(tmp_path / "run", kind), seed=1, trust=True)
    assert policy.export(tmp_path / "policy.pt2").difference <= 1e-6
    module: Any = torch.export.load(tmp_path / "policy.pt2").module()
    seen = (1.5 * np.random.default_rng(11).standard_normal((1000, 8))).astype(np.float32)
    actions, _ = (each.detach().numpy() for each in module(torch.from_numpy(seen)))
    apart = np.abs(actions - entries_of(policy.action_space, policy.predict(seen))) > 1e-4
    assert apart.any(1).mean() < 0.01


@pytest.mark.filterwarnings("ignore")
def test_a_program_can_be_trained_further_and_a_wrong_one_is_not_written(tmp_path, monkeypatch):
    policy = fedrl.load(made_policy(tmp_path / "run", "softmax"))
    policy.export(tmp_path / "policy.pt2")
    module: Any = torch.export.load(tmp_path / "policy.pt2").module()
    names = {name for name, _ in module.named_parameters()}
    assert names == {f"{kind}{i}" for i in range(3) for kind in ("weight", "bias")}
    module(torch.zeros(3, 4))[1][:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    write, open_again = forms.FORMS["torch"]

    def wrong(plain: Any, who: Any) -> bytes:
        return write(plain._replace(arrays=plain.arrays | {"weight1": plain.arrays["weight1"].T}), who)

    monkeypatch.setitem(forms.FORMS, "torch", (wrong, open_again))
    with pytest.raises(RunError, match="The policy for torch differs"):
        policy.export(tmp_path / "wrong.pt2")
    assert not (tmp_path / "wrong.pt2").exists()
