"""`fedrl check-env`: each fault of an environment is found by a check, and a sound environment passes all."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.runs.environment_check import check_environment

STEPS: list[int] = []


class Sound(gym.Env):
    """One number, drawn anew at every step."""

    def __init__(self, high: float = 1.0) -> None:
        self.observation_space = gym.spaces.Box(0.0, high, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def seen(self):
        return self.np_random.uniform(0.0, 1.0, (1,)).astype(np.float32)

    def step(self, action):
        return self.seen(), 1.0, False, False, {}


class Unseeded(Sound):
    def seen(self):
        return np.random.default_rng().uniform(0.0, 1.0, (1,)).astype(np.float32)


class Shared(Sound):
    """All copies count the same steps."""

    def reset(self, *, seed=None, options=None):
        STEPS.clear()
        return super().reset(seed=seed)

    def seen(self):
        STEPS.append(1)
        return np.float32([len(STEPS) % 50 / 50.0])


class Remembers(Sound):
    """The second episode begins where the first ended."""

    total = 0.0

    def seen(self):
        self.total += 0.001
        return np.float32([self.total % 1.0])


class Wide(Sound):
    def seen(self):
        return super().seen() * 9.0


class NoReward(Sound):
    def step(self, action):
        return self.seen(), None, False, False, {}


class NotANumber(Sound):
    def step(self, action):
        return self.seen(), float("nan"), False, False, {}


class Four(Sound):
    def step(self, action):
        return super().step(action)[:4]


class One(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Words(Sound):
    def step(self, action):
        return self.seen(), 1.0, "no", False, {}


class Raises(Sound):
    def step(self, action):
        raise KeyError("sensor")


def failed(name: str, check: str) -> dict[str, str]:
    """The findings that failed, up to the check that is meant."""
    found = {}
    for finding in check_environment(f"{__name__}:{name}", {"max_steps": 40}):
        found |= {} if finding.passed else {finding.name: finding.text}
        if finding.name == check:
            break
    return found


def test_a_sound_environment_passes() -> None:
    found = list(check_environment(f"{__name__}:Sound", {"max_steps": 40, "high": 2.0}))
    assert all(finding.passed for finding in found), found
    names = [finding.name for finding in found]
    assert names[-2:] == ["worker processes", "speed"]
    assert "0.0, 2.0" in found[0].text
    assert "at most 40 steps" in found[1].text


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("Unseeded", "seeds", "Two copies with the same seed and actions differ, from step 0"),
        ("Shared", "independent copies", "they share state"),
        ("Remembers", "seeds", "An episode with the same seed differs from the first one"),
        ("Wide", "values", "Widen the space, or clip it"),
        ("NoReward", "values", "The reward of step 1 is None"),
        ("NotANumber", "values", "The reward of step 1 is nan"),
        ("Four", "steps", "Step 1 returned 4 values"),
        ("One", "steps", "needs to return two values"),
        ("Words", "values", "terminated of step 1 is 'no'"),
        ("Raises", "steps", "KeyError: 'sensor'"),
    ],
)
def test_each_fault_is_found(name: str, check: str, words: str) -> None:
    found = failed(name, check)
    assert words in found[check]


def test_what_can_not_be_opened_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'Sound'"):
        list(check_environment(f"{__name__}:Sond"))
    with pytest.raises(ConfigError, match="no registered environment"):
        list(check_environment("CartPol-v1"))
