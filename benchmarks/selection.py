"""Three of ten heterogeneous poles a round: how many rounds until all of them balance, by who is asked.

Protocol, fixed before measuring. The fleet and the learner are those of the example `cartpole`; the learning rate
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
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import fedrl.launch
from benchmarks.measure import Figure, emit
from benchmarks.poles import TUNING, Reached, listed, poles, tuned, until_balanced

if TYPE_CHECKING:
    from fedrl.core.learner import Learner
    from fedrl.core.types import PyTree
    from fedrl.engines.state import Simulation

AGENTS, COHORT, BUDGET, UPDATES_PER_ROUND = 10, 3, 90, 16
RATES = (0.0063, 0.01, 0.016, 0.025, 0.04, 0.063)
REPORTED = tuple(range(20))
RULES = ("random", "in turn", "power of choice", "utility: norm", "utility: loss", "priority: norm")


def simulation_of(rule: str, learner: Learner, fleet: PyTree) -> Simulation:
    from fedrl.aggregators import mean
    from fedrl.engines.messages import messages
    from fedrl.engines.simulate import simulate
    from fedrl.federation.federate import federate
    from fedrl.server import greedy, oort, power_of_choice, round_robin, uniform
    from fedrl.server.scheduler import Scheduler
    from fedrl.wire.codec import size_bytes

    if rule.startswith("priority"):
        told = federate(learner, mean(), reports=["norm"])
        update = int(size_bytes(messages(told, fleet).update))
        budget = greedy(AGENTS * 4 + COHORT * (update - 4))
        return simulate(told, fleet, scheduler=Scheduler(upload_budget=budget))
    selection = {
        "random": uniform(COHORT),
        "in turn": round_robin(COHORT),
        "power of choice": power_of_choice(COHORT, 2 * COHORT, reference_return=500.0),
        "utility: norm": oort(COHORT, "norm"),
        "utility: loss": oort(COHORT, "loss"),
    }[rule]
    told = federate(learner, mean(), reports=selection.requested)
    return simulate(told, fleet, scheduler=Scheduler(selection=selection))


def runner(rule: str, learning_rate: float) -> Callable[[int], Reached]:
    """A rule with a learning rate, ready to be run with any seed."""
    from fedrl.environments import cartpole
    from fedrl.learners import adam, ppo

    optimizer = adam(learning_rate, max_norm=0.5, decay_steps=BUDGET * UPDATES_PER_ROUND)
    learner = ppo(cartpole(), optimizer=optimizer)
    fleet = poles(learner.environment, AGENTS)
    simulation = simulation_of(rule, learner, fleet)
    return lambda seed: until_balanced(simulation, learner, fleet, seed, rounds=BUDGET)


def main() -> None:
    fedrl.launch.configure_jax()
    from fedrl.records.statistics import interval

    found: dict[str, list[Reached]] = {}
    for rule in RULES:
        rate = tuned(rule, RATES, partial(runner, rule), TUNING, "rounds")
        found[rule] = list(map(runner(rule, rate), REPORTED))
        rounds, sent = [run.rounds for run in found[rule]], [run.bytes_up for run in found[rule]]
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
