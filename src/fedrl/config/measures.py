"""The measures of an experiment's methods, and a check that agents return the numbers for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, measures_of
from fedrl.core.measures import Measure, Measures, parts_of
from fedrl.engines.compute import COMPUTE

if TYPE_CHECKING:
    pass


COUNTED = ("episodes", "episode_return", "iterations", "rounds")
"""Numbers that every agent returns, whatever its measures."""
LATENCY = "latency"


class Declared(NamedTuple):
    """The measures of a method.

    Attributes:
        agents: Measures computed from the metrics of agents, by name.
        engine: Measures computed from `RoundResult.sums`, by name.
        silent: Whether agents keep their metrics to themselves, as at other sites: then only the return is left in
            `agents`, which is unknown.
    """

    agents: Measures
    engine: Measures
    silent: bool = False

    @property
    def all(self) -> dict[str, Measure]:
        """The measures of agents and engine together."""
        return {**self.agents, **self.engine}


def declared(learner: Learner, engine: Measures, silent: bool = False) -> Declared:
    """Return the measures of a simulation with this learner; `silent` as in `Declared`.

    Raises:
        UnsoundError: The learner and the engine have a measure of the same name.
    """
    agents = measures_of(learner)
    both = sorted(agents.keys() & engine.keys())
    if both:
        raise UnsoundError(
            f"{learner!r} or its environment declares the measure {both[0]!r}, which the engine has, too. Tables and "
            "curves identify measures by their names. Give it another name."
        )
    if silent:
        # In real time the messages are a part of the work, so their seconds are unknown, and not 0. Nor does the
        # coordinator know how long other machines compute, or how much of a round it waits for them.
        known = {name: measure for name, measure in engine.items() if name not in (LATENCY, *COMPUTE)}
        return Declared({"return": agents["return"]}, known, silent)
    return Declared(agents, engine)


def check_shown(learner: Learner, metrics: Collection[str]) -> None:
    """Refuse a measure whose parts are not among the metrics that agents return.

    Args:
        learner: The learner that declares measures, with its environment.
        metrics: Names of the metrics that its agents return.

    Raises:
        UnsoundError: The message names the measure and the missing part.
    """
    for name, measure in declared(learner, {}).agents.items():
        _parts(name, measure, dict.fromkeys([*metrics, *COUNTED]), learner)


def _parts(name: str, measure: Measure, known: Mapping[str, Any], who: object) -> list[str]:
    """Return the names of all sums that a measure needs.

    Raises:
        UnsoundError: One is not in `known`.
    """
    parts = list(dict.fromkeys((*parts_of(name, measure), measure.count)))
    for part in parts:
        if part not in known:
            raise UnsoundError(
                f"{who!r} declares the measure {name!r}, computed from {part!r}, and there is no such number among "
                f"{sorted(n for n in known if '/' not in n)}. Return it with the metrics, or leave the measure out."
            )
    return parts
