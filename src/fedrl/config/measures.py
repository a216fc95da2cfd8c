"""What the methods of an experiment measure, and whether agents return the numbers for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, measures_of
from fedrl.core.measures import Measure, Measures, parts_of

if TYPE_CHECKING:
    pass


COUNTED = ("episodes", "episode_return", "iterations", "rounds")
"""What is counted of every agent, whatever it measures."""


class Declared(NamedTuple):
    """What a method measures.

    Attributes:
        agents: Made of the metrics of agents, by name.
        engine: Made of `RoundResult.sums`.
    """

    agents: Measures
    engine: Measures

    @property
    def all(self) -> dict[str, Measure]:
        """Both."""
        return {**self.agents, **self.engine}


def declared(learner: Learner, engine: Measures) -> Declared:
    """What is measured in a simulation of this learner.

    Raises:
        UnsoundError: A name stands for two quantities.
    """
    agents = measures_of(learner)
    both = sorted(agents.keys() & engine.keys())
    if both:
        raise UnsoundError(
            f"{learner!r} or its environment declares the measure {both[0]!r}, which the engine has, too. Tables and "
            "curves tell measures apart by their names. Give it another."
        )
    return Declared(agents, engine)


def check_shown(learner: Learner, metrics: Collection[str]) -> None:
    """Refuse a measure whose parts are not among what agents return.

    Args:
        learner: Which declares it, or its environment.
        metrics: The names of what its agents measure.

    Raises:
        UnsoundError: It names the measure and the part.
    """
    for name, measure in declared(learner, {}).agents.items():
        _parts(name, measure, dict.fromkeys([*metrics, *COUNTED]), learner)


def _parts(name: str, measure: Measure, known: Mapping[str, Any], who: object) -> list[str]:
    """All the sums that a measure needs.

    Raises:
        UnsoundError: One is missing.
    """
    parts = list(dict.fromkeys((*parts_of(name, measure), measure.count)))
    for part in parts:
        if part not in known:
            raise UnsoundError(
                f"{who!r} declares the measure {name!r}, made of {part!r}, and there is no such number among "
                f"{sorted(n for n in known if '/' not in n)}. Return it with the metrics, or leave the measure out."
            )
    return parts
