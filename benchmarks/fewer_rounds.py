"""Ten heterogeneous poles talk less often: messages, bytes and iterations until all of them balance.

Protocol, fixed before measuring. The fleet is that of the example `cartpole`. An iteration of PPO is a small one, 8
instances for 32 steps, 2 epochs of 4 minibatches, so that there is something to choose; the learning rate falls to zero
over 400 iterations, which is the budget. An agent takes tau iterations between two exchanges:

    every iteration      tau = 1
    fixed                tau = 2, 4, 8
    ramp                 tau from 8 to 1 in 20 rounds
    from the loss        AdaComm, tau_1 = 8, the loss being what is missing to a return of 500
    lazy                 tau = 1, and an agent holds its update back until it outweighs what the federation moves

After every round the server's policy is played greedily, 20 episodes in the environment of each agent. A run reached
475 in the first of three rounds in a row in which the mean return of all agents is at least 475. A run that does not
get there within its budget is a miss, and counts as infinitely many messages, bytes and iterations.

Each method gets a learning rate of its own, and nothing else, from one grid: the one with the fewest misses, then the
fewest messages up, median before mean, on the tuning seeds 100 to 102. Then it is measured on seeds 10 to 19. Messages
and bytes are those of all agents, up; what is held back takes nine bytes and is no message.

    python -m benchmarks.fewer_rounds [METHOD ...]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from statistics import median

import fedrl.launch
from benchmarks.measure import Figure, emit
from benchmarks.poles import TUNING, Reached, listed, poles, tuned, until_balanced

AGENTS, BUDGET, EPOCHS, MINIBATCHES = 10, 400, 2, 4
RATES = (0.01, 0.016, 0.025, 0.04, 0.063)
REPORTED = tuple(range(10, 20))
METHODS = ("every iteration", "fixed 2", "fixed 4", "fixed 8", "linear", "from the loss", "lag")


def runner(method: str, learning_rate: float) -> Callable[[int], Reached]:
    """A method with a learning rate, ready to be run with any seed."""
    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole
    from fedrl.federation.federate import federate
    from fedrl.learners import adam, ppo
    from fedrl.server.decisions import requested_reports
    from fedrl.server.local_steps import adacomm, constant, linear
    from fedrl.server.scheduler import Scheduler
    from fedrl.stages import lag

    fixed = {"every iteration": 1, "fixed 2": 2, "fixed 4": 4, "fixed 8": 8, "lag": 1}
    steps_rule = {"linear": linear(8, 1, 20), "from the loss": adacomm(8, reference_return=500.0)}.get(method)
    steps_rule = constant(fixed[method]) if steps_rule is None else steps_rule
    optimizer = adam(learning_rate, max_norm=0.5, decay_steps=BUDGET * EPOCHS * MINIBATCHES)
    learner = ppo(cartpole(), optimizer=optimizer, num_steps=32, num_epochs=EPOCHS, num_minibatches=MINIBATCHES)
    stages = [lag()] if method == "lag" else []
    federation = federate(learner, mean(), *stages, local_steps=steps_rule.most, reports=requested_reports(steps_rule))
    fleet = poles(learner.environment, AGENTS)
    simulation = simulate(federation, fleet, scheduler=Scheduler(local_steps=steps_rule))
    return lambda seed: until_balanced(simulation, learner, fleet, seed, iterations=BUDGET)


def main() -> None:
    fedrl.launch.configure_jax()
    for method in sys.argv[1:] or METHODS:
        rate = tuned(method, RATES, partial(runner, method), TUNING, "messages")
        found = list(map(runner(method, rate), REPORTED))
        print(f"{method}, learning rate {rate}, seeds {REPORTED[0]} to {REPORTED[-1]}")
        for name in ("messages", "bytes_up", "rounds", "iterations"):
            values = [getattr(run, name) for run in found]
            print(f"  {name.replace('_', ' ')} {listed(values)}; median {median(values):,.6g}", flush=True)
        missed = sum(math.isinf(run.messages) for run in found)
        emit(Figure(f"{method}: seeds that miss 475", missed, 0, at_least=False))


if __name__ == "__main__":
    main()
