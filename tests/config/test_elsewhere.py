"""A name in the wrong place: the error says where it belongs. A table without a name alters a default."""

from typing import Any

import pytest

from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.objects import Experiment
from fedrl.core.errors import ConfigError

NORMALIZED = "learner={name='normalize', learner='ppo'}"


def built(*sets: str) -> Experiment:
    tables: dict[str, Any] = {
        "name": "x",
        "environment": "cartpole",
        "learner": "ppo",
        "federation": {"agents": 2},
        "rounds": 1,
    }
    return build(load(tables, sets))


@pytest.mark.parametrize(
    ("sets", "learner"),
    [
        (["learner.optimizer.learning_rate=0.01"], "ppo(cartpole(), optimizer=adam(0.01, max_norm=0.5))"),
        (["learner.network.hidden=[8]"], "ppo(cartpole(), network=mlp(hidden=(8,)))"),
        (["learner.optimizer.b1=0.8", "learner.optimizer.eps=1e-8", "learner.clip=0.1"],
         "ppo(cartpole(), optimizer=adam(0.0025, b1=0.8, eps=1e-08, max_norm=0.5), clip=0.1)"),
        ([NORMALIZED, "learner.learner.optimizer.b1=0.8"],
         "normalize(ppo(cartpole(), optimizer=adam(0.0025, b1=0.8, max_norm=0.5)))"),
        (["learner.network={name='with_embedding'}", "learner.network.network.hidden=[8]"],
         "ppo(cartpole(), network=with_embedding(network=mlp(hidden=(8,))))"),
        (["learner.optimizer={name='sgd', learning_rate=0.1}"], "ppo(cartpole(), optimizer=sgd(0.1))"),
    ],
)  # fmt: skip
def test_an_override_into_a_default_component_alters_that_default(sets: list[str], learner: str) -> None:
    assert repr(built(*sets).learner) == learner


def test_an_override_into_the_default_of_a_section_alters_that_default() -> None:
    assert repr(built("federation.aggregator.weighting=uniform").federation.aggregator) == "mean(weighting='uniform')"
    coordination = built("federation.schedule.deadline_s=3.0", "federation.clock.step_s=1.0").coordination
    assert repr(coordination.scheduler.schedule) == "synchronous(deadline_s=3.0)"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        # inside of the component, among its defaults, other values of a parameter, and other components of its kind
        (["learner.learning_rate=0.01"], "ppo has no parameter 'learning_rate'. adam has it, the value of "
         "learner.optimizer. Set learner.optimizer.learning_rate."),
        (["learner.lr=0.01"], "Set learner.optimizer.learning_rate."),
        ([NORMALIZED, "learner.learning_rate=0.1"], "Set learner.learner.optimizer.learning_rate."),
        (["learner.optimizer={name='sgd', learning_rate=0.1}", "learner.momentum=0.9"],
         "sgd has it, the value of learner.optimizer. Set learner.optimizer.momentum."),
        (["learner.momentum=0.9"], "sgd, a possible value of learner.optimizer, has it."),
        (["learner.optimizer.momentum=0.9"], "It is a parameter of sgd."),
        # in another section
        (["learner.agents=3"], "ppo has no parameter 'agents'. Set federation.agents."),
        (["federation.rounds=3"], "Set rounds."),
        (["learning_rate=0.1"], "Set learner.optimizer.learning_rate."),
        (["clip=0.1"], "Set learner.clip."),
        (["weighting=uniform", "federation.aggregator=mean"], "Set federation.aggregator.weighting."),
        # another kind of component
        (["aggregator=fedprox"], "aggregator is 'fedprox', but it is not a key of an experiment. Set "
         "federation.aggregator. 'fedprox' is an optimizer, and its place is learner.optimizer"),
        (["federation.aggregator=fedprox"], "no known aggregator. 'fedprox' is an optimizer, and its place is "
         "learner.optimizer, where a list is a chain of several."),
        (["federation.aggregator.name=quantize"], "a stage, and its place is federation.stages or federation.down_"),
        (["learner.optimizer=mlp"], "'mlp' is a network, and its place is learner.network or learner.critic."),
        (["optimizer=adam"], "'adam' is an optimizer, and its place is learner.optimizer"),
    ],
)  # fmt: skip
def test_a_name_in_the_wrong_place_is_told_its_place(sets: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(*sets)
    assert words in str(caught.value)


def test_a_name_that_is_right_elsewhere_is_said_once() -> None:
    with pytest.raises(ConfigError, match=r"is not a key of an experiment\. Set federation\.aggregator\.$"):
        built("aggregator=median")


def test_a_name_that_belongs_nowhere_keeps_its_hint() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        built("federation.aggregator=meen")
    with pytest.raises(ConfigError, match="Did you mean 'clip'"):
        built("learner.clp=1")
    with pytest.raises(ConfigError, match="Did you mean 'rounds'"):
        built("round=1")
