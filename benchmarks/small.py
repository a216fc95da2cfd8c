"""Light learners: REINFORCE on CartPole and tabular Q-learning on a gridworld, environment steps per second."""

from __future__ import annotations

import fedrl.launch
from benchmarks.measure import Figure, emit, typical


def main() -> None:
    fedrl.launch.configure_jax()
    from benchmarks.workload import Running, alike
    from fedrl.aggregators import mean
    from fedrl.core.learner import Learner
    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole, gridworld
    from fedrl.federation.federate import federate
    from fedrl.learners import q_table, reinforce

    def rate(learner: Learner, agents: int, local_steps: int, rounds: int) -> float:
        """Samples per second of a run under way."""
        simulation = simulate(federate(learner, mean(), local_steps=local_steps), alike(learner.environment, agents))
        return rounds * local_steps * agents * learner.samples / typical(Running(simulation, rounds))

    emit(
        Figure("REINFORCE, K = 10", rate(reinforce(cartpole(), episodes_per_step=16), 10, 8, 20), 1.5e6, "steps/s"),
        Figure("tabular Q, K = 10", rate(q_table(gridworld(), num_envs=64, num_steps=128), 10, 1, 20), 1e7, "steps/s"),
    )


if __name__ == "__main__":
    main()
