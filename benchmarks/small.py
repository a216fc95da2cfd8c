"""Light learners: REINFORCE on CartPole and tabular Q-learning on a gridworld, environment steps per second."""

from __future__ import annotations

import fedrl.launch

from benchmarks.measure import Figure, emit, seconds


def main() -> None:
    fedrl.launch.prepare()
    from statistics import median

    from benchmarks.workload import Running, alike
    from fedrl.aggregators import mean
    from fedrl.core.federation import federate
    from fedrl.core.learner import Learner
    from fedrl.engines.blocks import simulate
    from fedrl.environments import cartpole, gridworld
    from fedrl.learners import q_table, reinforce

    def rate(learner: Learner, agents: int, local_steps: int, rounds: int) -> float:
        """Steps per second of a run under way. An episode that has ended takes no more steps, and none are counted."""
        federation = federate(learner, mean(), local_steps=local_steps)
        running = Running(simulate(federation, alike(learner.environment, agents)), rounds)
        running()
        rates = []
        for _ in range(7):
            running.steps = 0
            rates.append(1.0 / seconds(running))
            rates[-1] *= running.steps or rounds * local_steps * agents * learner.samples
        return median(rates)

    emit(
        Figure("REINFORCE, K = 10", rate(reinforce(cartpole(), episodes_per_step=16), 10, 8, 20), 1.5e6, "steps/s"),
        Figure("tabular Q, K = 10", rate(q_table(gridworld(), instances=64, steps=128), 10, 1, 20), 1e7, "steps/s"),
    )


if __name__ == "__main__":
    main()
