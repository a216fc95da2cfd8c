"""Price a round: what noise, selection and unit of privacy together cost an agent that is charged for it.

| noise | selection | charged | event of a round |
|---|---|---|---|
| central | everybody | everybody | that of the noise |
| central | `poisson(q)` | everybody | Poisson-sampled at rate q: who takes part is secret, so all are charged less |
| central, Gaussian | `uniform(m)` | everybody | sampled without replacement; another agent's data replace one's own |
| central | any other | participants | that of the noise: a schedule that is known amplifies nothing |
| central, adapted to results | any | participants | that of the noise: the filter for Gaussian noise needs it bare |
| local | any | participants | that of the noise: the server knows who sends |
| distributed | any | participants | that of the noise of the fewest agents in a sum: the server knows who sends |
| central, correlated | agents a known time apart | everybody | that of the noise, once for all rounds that it covers |
| of a trajectory | any | once in a run | that of the noise: an episode is learned from in one round only |

Amplification by Poisson sampling: Abadi et al. (2016), https://arxiv.org/abs/1607.00133; of fixed size: Wang, Balle &
Kasiviswanathan (2019), https://arxiv.org/abs/1808.00087.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fedrl.core.errors import UnsoundError
from fedrl.core.stage import Noise
from fedrl.privacy.composition import Relation, epsilon_of, quick_epsilon
from fedrl.privacy.extra import accounting
from fedrl.server.decisions import Selection

UNBOUNDED = "unbounded"
PRECISION = 1e-4
"""The relative precision of a calibrated noise multiplier, which is rounded up."""


class Price(NamedTuple):
    """What a round costs.

    Attributes:
        events: The `DpEvent` of a round for each agent, `[agents]`.
        relation: The neighbouring relation of the events.
        unit: "agent" or "trajectory".
        participants: Whether only agents that take part in a round are charged for it.
        parallel: Whether rounds do not add up, as each concerns other trajectories.
        covers: The number of rounds that one event covers together.
        episodes_per_person: The number of trajectories of one person that the events cover, for the unit "trajectory".
    """

    events: tuple[Any, ...]
    relation: Relation
    unit: str
    participants: bool = False
    parallel: bool = False
    episodes_per_person: int = 1
    covers: int = 1

    def times(self, rounds: int) -> int:
        """Return how often the event occurs in so many rounds."""
        return min(rounds, 1) if self.parallel else -(-rounds // self.covers)

    def epsilon(self, agent: int, rounds: int, delta: float, adaptive: bool = False) -> float:
        """Return the epsilon of an agent that is charged for so many rounds."""
        return epsilon_of({self.events[agent]: self.times(rounds)}, delta, self.relation, adaptive)

    def protects(self) -> str:
        """Return the unit and the relation as a phrase: the two cases that are hard to tell apart."""
        whose = {"agent": "all data of one agent", "trajectory": "one episode of one agent"}[self.unit]
        if self.episodes_per_person > 1:
            whose = f"{self.episodes_per_person} episodes of one agent"
        return f"{whose}, {'added or removed' if self.relation == 'add-remove' else 'replaced by any other'}"


def round_price(
    noise: Noise, selection: Selection | None, groups: Sequence[int], episodes_per_person: int = 1
) -> Price:
    """Return the price of a round.

    Args:
        noise: The noise.
        selection: The client selection; None: all agents take part.
        groups: The number of agents among which each server selects: `(agents,)` if there is one.
        episodes_per_person: The largest number of episodes that one person contributes to the whole run, for the unit
            "trajectory".

    Raises:
        UnsoundError: The clips of single agents are not one for each, or correlated noise does not fit the selection.

    >>> noise = Noise(accounting().GaussianDpEvent(2.0), 1.0, "server")
    >>> round(round_price(noise, None, (3,)).epsilon(0, 10, 1e-5), 2)
    7.51
    """
    agents = sum(groups)
    if len(noise.each) not in (0, agents):
        raise UnsoundError(
            f"clip has {len(noise.each)} norms, and there are {agents} agents, so the noise of some has no price. Give "
            "one norm for all, or one for each.",
            reason=UNBOUNDED,
        )
    events = noise.each if noise.each else (noise.event,) * agents
    if noise.unit == "trajectory":
        # All episodes of one person may be of one agent and one round, so their contributions add up before the noise.
        grouped = tuple(_weaker(event, episodes_per_person) for event in events)
        return Price(grouped, noise.relation, "trajectory", False, True, episodes_per_person)
    if noise.at == "agent":
        return Price(events, noise.relation, "agent", participants=True)
    if noise.rounds > 1:
        _check_apart(noise, selection)
        return Price(events, noise.relation, "agent", covers=noise.rounds)
    return (
        Price(events, noise.relation, "agent") if selection is None else _of_cohorts(noise, events, selection, groups)
    )


def _of_cohorts(noise: Noise, events: tuple[Any, ...], selection: Selection, groups: Sequence[int]) -> Price:
    """Return the price of noise at the server for a selection."""
    kinds, rate, size = accounting(), selection.sampling, selection.fixed_size
    if noise.now is not None:
        # Sums of 1 / z^2 are a filter for noise that is chosen from results. For sampled noise there is one for a
        # single Renyi order that is fixed in advance, not for the best of many.
        return Price(events, noise.relation, "agent", participants=True)
    if rate is not None:
        sampled = {event: kinds.PoissonSampledDpEvent(rate, event) for event in set(events)}
        return Price(tuple(sampled[event] for event in events), noise.relation, "agent")
    if size is not None and all(isinstance(event, kinds.GaussianDpEvent) for event in events):
        # The sum moves by 2 C if one agent of the cohort is replaced. The smallest group has the largest sampling rate.
        sampled = {
            event: kinds.SampledWithoutReplacementDpEvent(min(groups), size, _weaker(event, 2.0))
            for event in set(events)
        }
        return Price(tuple(sampled[event] for event in events), "replace-one", "agent")
    return Price(events, noise.relation, "agent", participants=True)


def _check_apart(noise: Noise, selection: Selection | None) -> None:
    """Refuse a selection that may select an agent again sooner than correlated noise was made for."""
    apart = 1 if selection is None else selection.separation
    if apart < noise.separation:
        raise UnsoundError(
            f"The noise is correlated between rounds for agents that take part {noise.separation} rounds apart or "
            f"more, and {selection!r} may select one again after {apart}. Use selection = spaced({noise.separation}), "
            "or noise for a smaller separation.",
            reason=UNBOUNDED,
        )


def calibrated(epsilon: float, delta: float, rounds: int, price_of: Callable[[float], Price]) -> float:
    """Return the smallest noise multiplier with which every agent may take part in all rounds.

    Args:
        epsilon: The budget.
        delta: The probability with which it may be exceeded.
        rounds: The number of rounds.
        price_of: `noise multiplier -> price of a round`.

    >>> gaussian = accounting().GaussianDpEvent
    >>> round(calibrated(8.0, 1e-3, 10, lambda z: Price((gaussian(z),), "add-remove", "agent")), 3)
    1.518
    """

    def within(multiplier: float, bound: Callable[..., float]) -> bool:
        price = price_of(multiplier)
        return all(bound({event: price.times(rounds)}, delta, price.relation) <= epsilon for event in set(price.events))

    high = 1.0
    while not within(high, quick_epsilon):
        high *= 2.0
    low = high / 2.0
    while within(low, quick_epsilon):
        low, high = low / 2.0, low
    low, high = _bisected(low, high, lambda z: within(z, quick_epsilon))
    # A tighter bound may take longer, and fails for a multiplier far below the answer.
    return _bisected(0.4 * low, high, lambda z: within(z, epsilon_of))[1]


def _bisected(low: float, high: float, holds: Callable[[float], bool]) -> tuple[float, float]:
    """Return an interval of relative length `PRECISION`, from one end that does not hold to one that does."""
    while high - low > PRECISION * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high


def _weaker(event: Any, times: float) -> Any:
    """Return the event if the contribution is so many times larger."""
    if times == 1:
        return event
    kinds = accounting()
    if isinstance(event, kinds.SelfComposedDpEvent):
        return kinds.SelfComposedDpEvent(_weaker(event.event, times), event.count)
    import attrs  # of the same extra

    return attrs.evolve(event, noise_multiplier=event.noise_multiplier / times)
