"""Every number of every component has a range, its default lies in it, and what lies outside is refused."""

import inspect
import math
import typing

import pytest

from fedrl.config import catalogue
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Bounds, check_ranges

UNBOUNDED = {("environment", "gymnasium", "settings")}
"""Tables of numbers, whose entries the environment knows about."""


def numbers_in(annotation: object) -> bool:
    """Whether a type holds numbers, however deep."""
    return annotation in (int, float) or any(numbers_in(inner) for inner in typing.get_args(annotation))


catalogue.fill()
# Other tests of the process may have registered components of their own.
ENTRIES = [entry for entry in catalogue.components() if inspect.unwrap(entry.build).__module__.startswith("fedrl.")]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_number_has_a_range_and_a_default_inside(entry):
    types = typing.get_type_hints(inspect.unwrap(entry.build))
    counted = {name for name in entry.signature.parameters if numbers_in(types.get(name, ()))}
    assert counted - {name for kind, of, name in UNBOUNDED if (kind, of) == (entry.kind, entry.name)} <= set(
        entry.ranges
    )
    defaults = {
        name: parameter.default
        for name, parameter in entry.signature.parameters.items()
        if parameter.default is not parameter.empty
    }
    check_ranges(entry.ranges, defaults)


def outside(bounds: Bounds) -> list[float]:
    """Numbers beyond both ends of a range, and what is no number of it at all."""
    below = [] if bounds.low == -math.inf else [bounds.low - 1]
    above = [] if bounds.high == math.inf else [bounds.high + 1]
    ends = [bounds.low] * (bounds.above and math.isfinite(bounds.low))
    return [*below, *above, *ends, math.nan]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_what_lies_outside_is_refused_by_name(entry):
    """By the range alone; what a constructor says of a value before is in the tests of that constructor."""
    for name, bounds in entry.ranges.items():
        for value in outside(bounds):
            with pytest.raises(ConfigError, match=f"^{name} is "):
                check_ranges(entry.ranges, {name: value})


BY_HAND = [
    ("ppo", {"gamma": 1.5}, "gamma is 1.5"),
    ("ppo", {"gamma": -0.1}, "gamma is -0.1"),
    ("ppo", {"gamma": math.nan}, "gamma is nan"),
    ("ppo", {"gamma": "0.9"}, "gamma is '0.9'"),
    ("ppo", {"clip": -0.1}, "clip is -0.1"),
    ("ppo", {"clip": 0.0}, "clip is 0.0"),
    ("ppo", {"gae_lambda": 7.0}, "gae_lambda is 7.0"),
    ("ppo", {"num_epochs": 0}, "num_epochs is 0"),
    ("ppo", {"num_envs": 2.5}, "num_envs is 2.5"),
    ("ppo", {"num_steps": -1}, "num_steps is -1"),
    ("ppo", {"num_steps": True}, "num_steps is True"),
    ("ppo", {"value_coef": -1.0}, "value_coef is -1.0"),
    ("ppo", {"entropy_coef": math.nan}, "entropy_coef is nan"),
    ("ppo", {"entropy_coef": math.inf}, "entropy_coef is inf"),
    ("a2c", {"gae_lambda": -0.5}, "gae_lambda is -0.5"),
    ("a2c", {"num_envs": 0}, "num_envs is 0"),
    ("a2c", {"gamma": math.inf}, "gamma is inf"),
    ("reinforce", {"gamma": 1.01}, "gamma is 1.01"),
    ("reinforce", {"episodes_per_step": 0}, "episodes_per_step is 0"),
    ("reinforce", {"horizon": 0}, "horizon is 0"),
    ("reinforce", {"value_coef": "1"}, "value_coef is '1'"),
]
PLAIN = [
    ("optimizer", "adam", {"learning_rate": math.inf}, "learning_rate is inf"),
    ("optimizer", "adam", {"learning_rate": 0.0}, "learning_rate is 0.0"),
    ("optimizer", "adam", {"learning_rate": -0.1}, "learning_rate is -0.1"),
    ("optimizer", "adam", {"learning_rate": 0.1, "b1": 1.0}, "b1 is 1.0"),
    ("optimizer", "adam", {"learning_rate": 0.1, "eps": 0.0}, "eps is 0.0"),
    ("optimizer", "adam", {"learning_rate": 0.1, "max_norm": -1.0}, "max_norm is -1.0"),
    ("optimizer", "adam", {"learning_rate": 0.1, "decay_steps": 0}, "decay_steps is 0"),
    ("optimizer", "sgd", {"learning_rate": 0.1, "momentum": 2.0}, "momentum is 2.0"),
    ("optimizer", "fedprox", {"strength": -1.0}, "strength is -1.0"),
    ("server_optimizer", "fedadam", {"learning_rate": math.nan}, "learning_rate is nan"),
    ("server_optimizer", "fedavgm", {"momentum": 1.0}, "momentum is 1.0"),
    ("server_optimizer", "fedadam", {"tau": 0.0}, "tau is 0.0"),
    ("network", "mlp", {"hidden": [0]}, "an entry of hidden is 0"),
    ("network", "mlp", {"hidden": [64, -1]}, "an entry of hidden is -1"),
    ("network", "mlp", {"hidden": ["64"]}, "an entry of hidden is '64'"),
    ("environment", "cartpole", {"max_steps": 0}, "max_steps is 0"),
    ("environment", "random_mdp", {"kappa": 2.0}, "kappa is 2.0"),
    ("environment", "windy_cliff", {"theta": math.nan}, "theta is nan"),
    ("aggregator", "q_ffl", {"q": -1.0}, "q is -1.0"),
    ("aggregator", "afl", {"agents": 3, "step": math.inf}, "step is inf"),
    ("aggregator", "q_ffl", {"reference_return": math.inf}, "reference_return is inf"),
    ("stage", "clip", {"norm": 0.0}, "norm is 0.0"),
    ("stage", "top_k", {"fraction": 2.0}, "fraction is 2.0"),
    ("stage", "quantize", {"bits": 8.5}, "bits is 8.5"),
    ("schedule", "fed_async", {"mixing": 1.5}, "mixing is 1.5"),
    ("clock", "clock", {"jitter": -1.0}, "jitter is -1.0"),
    ("clock", "clock", {"online_s": 0.0}, "online_s is 0.0"),
]


@pytest.mark.parametrize(("name", "given", "words"), BY_HAND, ids=str)
def test_a_bad_number_of_a_learner_is_one_sentence(name, given, words):
    environment = catalogue.build("environment", {"name": "cartpole"}, "environment")
    build = catalogue.CATALOGUE["learner", name].build
    with pytest.raises(ConfigError) as refused:
        build(environment, **given)
    assert str(refused.value).startswith(words)
    assert str(refused.value).count(". ") >= 1


@pytest.mark.parametrize(("kind", "name", "given", "words"), PLAIN, ids=str)
def test_a_bad_number_of_another_component_is_one_sentence(kind, name, given, words):
    with pytest.raises(ConfigError) as refused:
        catalogue.CATALOGUE[kind, name].build(**given)
    assert str(refused.value).startswith(words)
