"""Three of ten heterogeneous poles a round: how many rounds until all of them balance, by who is asked.

Protocol, fixed before measuring. The fleet and the learner are those of `examples/cartpole.toml`; the learning rate
falls to zero over 90 rounds, which is the budget. After every round the server's policy is played greedily, 20 episodes
in the environment of each agent, asked or not. A run has reached 475 in the first of three rounds in a row in which the
mean return of all agents is at least 475; a run that does not get there is a miss, and counts as infinitely many.

Each rule gets a learning rate of its own, and nothing else, from one grid: the one with the fewest misses, then the
fewest rounds, median before mean, on the tuning seeds 100 to 102. Then it is measured on seeds 0 to 19. Other
parameters are what one would write down first: twice as many candidates as are asked, a tenth of exploration, a budget
of bytes for three updates. With "priority" everybody trains in every round and the three best updates are sent, so it
takes the bytes of the others (and the bids), and ten thirds of their environment steps.

    python -m benchmarks.selection
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import fedrl.launch
from benchmarks.compression import EPISODES, HELD, TARGET, Reached, listed
from benchmarks.measure import Figure, emit

if TYPE_CHECKING:
    from fedrl.core.learner import Learner
    from fedrl.core.types import PyTree
    from fedrl.engines.simulation import Simulation

AGENTS, COHORT, BUDGET, UPDATES_PER_ROUND = 10, 3, 90, 16
RATES = (0.0063, 0.01, 0.016, 0.025, 0.04, 0.063)
TUNING, REPORTED = (100, 101, 102), tuple(range(20))
RULES = ("random", "in turn", "power of choice", "utility: norm", "utility: loss", "priority: norm")


def simulation_of(rule: str, learner: Learner, poles: PyTree) -> Simulation:
    from fedrl.aggregators import mean
    from fedrl.core.codec import size_bytes
    from fedrl.core.federation import federate
    from fedrl.engines.admission import simulate_budget
    from fedrl.engines.blocks import simulate
    from fedrl.engines.coordination import coordinated
    from fedrl.engines.merging import messages
    from fedrl.selection import by_priority, by_utility, power_of_choice, round_robin, uniform

    if rule.startswith("priority"):
        told = federate(learner, mean(), tells=["norm"])
        update = int(size_bytes(messages(told, poles).update))
        return simulate_budget(told, poles, by_priority(AGENTS * 4 + COHORT * (update - 4)))
    selection = {
        "random": uniform(COHORT),
        "in turn": round_robin(COHORT),
        "power of choice": power_of_choice(COHORT, 2 * COHORT, best=500.0),
        "utility: norm": by_utility(COHORT, "norm"),
        "utility: loss": by_utility(COHORT, "loss"),
    }[rule]
    return coordinated(simulate(federate(learner, mean(), tells=selection.asks), poles), selection)


def runner(rule: str, learning_rate: float) -> Callable[[int], Reached]:
    """A rule with a learning rate, ready to be run with any seed."""
    import jax
    import numpy as np

    from fedrl.environments import cartpole
    from fedrl.environments.fleet import fleet
    from fedrl.experiments.evaluate import greedy_returns
    from fedrl.learners import adam, ppo

    optimizer = adam(learning_rate, max_norm=0.5, decay_steps=BUDGET * UPDATES_PER_ROUND)
    learner = ppo(cartpole(), optimizer=optimizer)
    poles = fleet(learner.environment, AGENTS, {"length": {"range": [0.3, 0.7]}, "cart_mass": {"range": [0.8, 1.2]}})
    simulation = simulation_of(rule, learner, poles)

    def run(seed: int) -> Reached:
        population, sent, row, first = simulation.init(seed), 0, 0, Reached(math.inf, math.inf)
        for number in range(1, BUDGET + 1):
            population, seen = simulation.round(population)
            sent += seen.bytes_up
            params = jax.tree.map(np.asarray, population.server.params)
            row = row + 1 if greedy_returns(learner, poles, params, EPISODES, seed).mean() >= TARGET else 0
            if row == 1:
                first = Reached(number, sent)
            if row == HELD:
                return first
        return Reached(math.inf, math.inf)

    return run


def tuned(rule: str) -> float:
    """The best learning rate of the grid on the tuning seeds."""
    scores = {}
    for rate in RATES:
        rounds = [run.rounds for run in map(runner(rule, rate), TUNING)]
        scores[rate] = (rounds.count(math.inf), median(rounds), sum(rounds))
        print(f"  {rule} {rate}: rounds {listed(rounds)}", flush=True)
    return min(scores, key=lambda rate: scores[rate])


def main() -> None:
    fedrl.launch.prepare()
    from fedrl.experiments.statistics import interval

    found: dict[str, list[Reached]] = {}
    for rule in RULES:
        rate = tuned(rule)
        found[rule] = list(map(runner(rule, rate), REPORTED))
        rounds, sent = ([run[i] for run in found[rule]] for i in (0, 1))
        print(f"{rule}, learning rate {rate}, seeds 0 to 19")
        print(f"  rounds {listed(rounds)}; median {median(rounds):g}")
        print(f"  bytes up {listed(sent)}; median {median(sent):,.0f}", flush=True)
    plain = median(run.rounds for run in found["random"])
    for rule in RULES[1:]:
        fewer = [ours.rounds - theirs.rounds for ours, theirs in zip(found[rule], found["random"], strict=True)]
        mean, low, high = interval(fewer)
        print(f"{rule}: {mean:+.1f} rounds against random with the same seed, 95 % {low:+.1f} to {high:+.1f}")
        ratio = median(run.rounds for run in found[rule]) / plain
        emit(Figure(f"{rule}: rounds to reach 475, over random", ratio, 1.0, "x", at_least=False))
    missed = sum(math.isinf(run.rounds) for runs in found.values() for run in runs)
    emit(Figure(f"seeds of {len(RULES) * len(REPORTED)} that miss 475", missed, 0, at_least=False))


if __name__ == "__main__":
    main()
