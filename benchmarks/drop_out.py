"""Ten heterogeneous poles while 0, 30, 60 or 90 % of the agents drop out of each round: rounds until all balance.

Protocol, fixed before measuring. The poles, and when they balance, are those of `benchmarks.poles`; PPO with Adam at a
constant rate of 0.004 and gradients clipped to norm 0.5, as in the example `cartpole` but for its decay, which would
end sooner for agents that lose less. Rounds are synchronous: an agent that drops out leaves its learning behind with
the round, a round in which nobody is left merges nothing, and all of them count. Nothing is tuned; the budget is 300
rounds. Seeds 0 to 9.

    python -m benchmarks.drop_out
"""

from __future__ import annotations

import math
from statistics import median

import fedrl.launch
from benchmarks.measure import Figure, emit
from benchmarks.poles import REPORTED, listed, poles, until_balanced

AGENTS, RATE, BUDGET = 10, 0.004, 300
DROP_OUT = (0.0, 0.3, 0.6, 0.9)


def rounds_with(drop_out: float) -> list[float]:
    """Rounds that each seed takes."""
    from fedrl.aggregators import mean
    from fedrl.clocks import clock
    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole
    from fedrl.federation.federate import federate
    from fedrl.learners import adam, ppo

    learner = ppo(cartpole(), optimizer=adam(RATE, max_norm=0.5))
    fleet = poles(learner.environment, AGENTS)
    simulation = simulate(federate(learner, mean()), fleet, clock=clock(drop_out=drop_out))
    return [until_balanced(simulation, learner, fleet, seed, rounds=BUDGET).rounds for seed in REPORTED]


def main() -> None:
    fedrl.launch.configure_jax()
    for drop_out in DROP_OUT:
        rounds = rounds_with(drop_out)
        print(f"{drop_out:.0%} drop out: rounds {listed(rounds)}; median {median(rounds):g}", flush=True)
        missed = sum(map(math.isinf, rounds))
        emit(Figure(f"{drop_out:.0%} of agents drop out of a round: seeds that miss 475", missed, 0, at_least=False))


if __name__ == "__main__":
    main()
