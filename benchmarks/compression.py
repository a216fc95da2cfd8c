"""Ten heterogeneous poles learn together over a narrow wire: bytes up and rounds until all of them balance.

Protocol, fixed before measuring. The fleet and the learner are those of the example `cartpole`, whose learning rate
falls to zero over 60 rounds; that is the budget. After every round the server's policy is played greedily, 20 episodes
in the environment of each agent. A run has reached 475 in the first of three rounds in a row in which the mean return
of all agents is at least 475: a single lucky policy does not count. A run that does not get there is a miss, and counts
as infinitely many rounds and bytes.

Each method gets a learning rate of its own, and nothing else, from one grid: the one with the fewest misses, then the
fewest rounds, median before mean, on the tuning seeds 100 to 105. Then it is measured on seeds 10 to 19, which nobody
has tuned on or looked at. Bytes are those that the codec would send; both figures are ratios of medians over seeds.

Of signs alone, seeds 0 to 9 were measured before, with a grid that ended at 0.04, and missed both goals (see
`docs/numbers.md`). What was found on the tuning seeds since: signs spoil the few numbers of biases and output layers,
and 3 bits each for arrays of at most 300 numbers mend that, for 1.25 bits a number in all.

With `--epochs 2` a round is half the work, 8 optimiser steps instead of 16, for every method, and the budget is 100
rounds: more and smaller rounds, where what was left out comes sooner.

    python -m benchmarks.compression
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import fedrl.launch
from benchmarks.measure import Figure, emit
from benchmarks.poles import Reached, listed, poles, tuned, until_balanced

if TYPE_CHECKING:
    from fedrl.core.stage import Stage

AGENTS, MINIBATCHES = 10, 4
BUDGETS = {4: 60, 2: 100}
"""Rounds, by how often PPO goes over the experience of one."""
RATES = (0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1)
TUNING, REPORTED = tuple(range(100, 106)), tuple(range(10, 20))
LOSSY = {
    "sized": "sign, 3 bits for small arrays + error feedback",
    "sign": "sign + error feedback",
    "top": "top-1 % + error feedback",
}


def stages_of(method: str) -> list[Stage]:
    from fedrl.stages import error_feedback, partition_by_size, quantize, sign, top_k

    return {
        "float32": [],
        "sized": [error_feedback(partition_by_size(300, quantize(3, unbiased=False), sign()))],
        "sign": [error_feedback(sign())],
        "top": [error_feedback(top_k(0.01))],
    }[method]


def runner(method: str, learning_rate: float, epochs: int) -> Callable[[int], Reached]:
    """A method with a learning rate, ready to be run with any seed."""
    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole
    from fedrl.federation.federate import federate
    from fedrl.learners import adam, ppo

    budget = BUDGETS[epochs]
    optimizer = adam(learning_rate, max_norm=0.5, decay_steps=budget * epochs * MINIBATCHES)
    learner = ppo(cartpole(), optimizer=optimizer, num_epochs=epochs, num_minibatches=MINIBATCHES)
    fleet = poles(learner.environment, AGENTS)
    simulation = simulate(federate(learner, mean(), *stages_of(method)), fleet)
    return lambda seed: until_balanced(simulation, learner, fleet, seed, rounds=budget)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes and rounds until ten unlike poles balance.")
    parser.add_argument("--epochs", type=int, default=4, choices=sorted(BUDGETS), help="of PPO in a round")
    epochs = parser.parse_args().epochs
    fedrl.launch.configure_jax()
    found: dict[str, list[Reached]] = {}
    for method in ("float32", *LOSSY):
        rate = tuned(method, RATES, partial(runner, method, epochs=epochs), TUNING, "rounds")
        found[method] = list(map(runner(method, rate, epochs), REPORTED))
        rounds, sent = [run.rounds for run in found[method]], [run.bytes_up for run in found[method]]
        print(f"{method}, learning rate {rate}, seeds {REPORTED[0]} to {REPORTED[-1]}")
        print(f"  rounds {listed(rounds)}; median {median(rounds):g}")
        print(f"  bytes up {listed(sent)}; median {median(sent):,.0f}", flush=True)
    plain = found["float32"]
    emit(Figure("float32: seeds that miss 475", sum(math.isinf(run.rounds) for run in plain), 0, at_least=False))
    for method, name in LOSSY.items():
        rounds = median(run.rounds for run in found[method]) / median(run.rounds for run in plain)
        sent = median(run.bytes_up for run in found[method]) / median(run.bytes_up for run in plain)
        missed = sum(math.isinf(run.rounds) for run in found[method])
        emit(
            Figure(f"{name}: bytes up to reach 475, float32 over it", 1.0 / sent, 20.0, "x"),
            Figure(f"{name}: rounds to reach 475, over float32", rounds, 1.3, "x", at_least=False),
            Figure(f"{name}: seeds that miss 475", missed, 0, at_least=False),
        )


if __name__ == "__main__":
    main()
