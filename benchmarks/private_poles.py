"""CartPole under differential privacy, in two ways: runners for `benchmarks.privacy_utility`.

agent        100 agents train PPO and send their change, ten rounds; all data of an agent are protected
trajectory   20 agents send the mean policy gradient of 32 episodes, each clipped, 80 rounds; one episode is protected

The poles are those of the example `cartpole`: half lengths from 0.3 to 0.7 m, carts from 0.8 to 1.2 kg.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrl.core.stage import Stage
    from fedrl.core.summation import Summation

FLEET = {"length": {"range": [0.3, 0.7]}, "cart_mass": {"range": [0.8, 1.2]}}
EPISODES = 10
Setting = Mapping[str, Any]
Run = Callable[[int], dict[str, float]]

AGENT = {"agents": 100, "rounds": 10, "clip": 1.0, "delta": 1e-3, "learning_rate": 0.004}
TRAJECTORY = {"agents": 20, "episodes": 32, "rounds": 80, "clip": 100.0, "delta": 1e-5, "learning_rate": 0.05}
STEPS = {"small": 8, "default": 4}
HIDDEN = {"small": (16,), "default": (64, 64)}


def noise_stages(
    trust: str, epsilon: float | None, delta: float, rounds: int, agents: int, clip: float, unit: str = "agent"
) -> tuple[Stage, ...]:
    """The stage with the smallest noise that keeps (epsilon, delta) over all rounds; none without epsilon."""
    from fedrl.privacy.distributed import distributed_skellam
    from fedrl.privacy.mechanisms import central_gaussian, local_gaussian
    from fedrl.privacy.pricing import calibrated, round_price

    if epsilon is None:
        return ()

    def stage(multiplier: float) -> Stage:
        if trust == "central":
            return central_gaussian(clip=clip, noise_multiplier=multiplier, expected=agents, unit=unit)
        if trust == "distributed":
            return distributed_skellam(clip=clip, noise_multiplier=multiplier, least=agents, unit=unit)
        return local_gaussian(clip=clip, noise_multiplier=multiplier, unit=unit)

    def price(multiplier: float) -> Any:
        noise = stage(multiplier).noise
        assert noise is not None
        return round_price(noise, None, (agents,))

    return (stage(calibrated(epsilon, delta, rounds, price)),)


def hidden_sum(stages: tuple[Stage, ...], agents: int) -> Summation | None:
    """The sum that hides shares of noise, on their grid; None where each update, or the sum, has all of it."""
    from fedrl.secure.grid import ring_sum

    grids = [stage.noise.grid for stage in stages if stage.noise is not None and stage.noise.grid is not None]
    return ring_sum(agents, largest=grids[0].largest(), minimum=agents) if grids else None


def agent_level(setting: Setting) -> Run:
    """Greedy return of the last policy, the mean over 100 agents and ten episodes each, by seed.

    A setting has `network` ("small" or "default"), `trust` ("central", "local" or "distributed"), `epsilon` (None: no
    noise, no clip), and maybe `penalty`, the strength of a gradient penalty in the reward.
    """
    import jax
    import numpy as np

    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole
    from fedrl.environments.fleet import fleet
    from fedrl.federation.federate import federate
    from fedrl.learners import adam, gradient_penalty, mlp, personal, ppo
    from fedrl.runs.evaluate import greedy_returns

    agents, rounds = int(AGENT["agents"]), int(AGENT["rounds"])
    optimizer = adam(AGENT["learning_rate"], max_norm=0.5)
    learner = ppo(cartpole(), network=mlp(HIDDEN[setting["network"]]), optimizer=optimizer)
    if setting.get("penalty") is not None:
        learner = gradient_penalty(learner, setting["penalty"])
    # The critic stays with its agent: what does not leave needs no noise.
    learner = personal(learner, local=["critic"])
    poles = fleet(learner.environment, agents, FLEET)
    noise = noise_stages(setting["trust"], setting["epsilon"], AGENT["delta"], rounds, agents, AGENT["clip"])
    summation = hidden_sum(noise, agents)
    federation = federate(learner, mean("uniform"), *noise, local_steps=STEPS[setting["network"]], summation=summation)
    simulation = simulate(federation, poles)

    def run(seed: int) -> dict[str, float]:
        run_state, found = simulation.init(seed), {}
        for _ in range(rounds):
            run_state, seen = simulation.round(run_state)
            if "squared_score" in seen.metrics:
                found["squared_score"] = float(seen.metrics["squared_score"].mean() / STEPS[setting["network"]])
        params = jax.tree.map(np.asarray, run_state.server.params)
        found["return"] = float(greedy_returns(learner, poles, params, EPISODES, seed).mean())
        return found

    return run


def trajectory_level(setting: Setting) -> Run:
    """Return of the last stochastic policy, the mean over 640 episodes on which it was not trained, by seed.

    A setting has `trust` and `epsilon`; without epsilon, episodes are clipped all the same.
    """
    import optax

    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.environments import cartpole
    from fedrl.environments.fleet import fleet
    from fedrl.federation.federate import federate
    from fedrl.learners import mlp, reinforce

    agents, episodes, rounds = (int(TRAJECTORY[name]) for name in ("agents", "episodes", "rounds"))
    learner = reinforce(
        cartpole(),
        network=mlp(HIDDEN["small"]),
        baseline="value",
        episodes_per_step=episodes,
        gamma=0.95,
        trajectory_clip=TRAJECTORY["clip"],
    )
    poles = fleet(learner.environment, agents, FLEET)
    sensitivity = TRAJECTORY["clip"] / episodes
    noise = noise_stages(
        setting["trust"], setting["epsilon"], TRAJECTORY["delta"], rounds, agents, sensitivity, "trajectory"
    )
    server = optax.adam(optax.linear_schedule(TRAJECTORY["learning_rate"], 0.0, rounds))
    summation = hidden_sum(noise, agents)
    federation = federate(
        learner, mean("uniform"), *noise, payload="gradient", server_optimizer=server, summation=summation
    )
    simulation = simulate(federation, poles)

    def run(seed: int) -> dict[str, float]:
        run_state = simulation.init(seed)
        for _ in range(rounds):
            run_state, _ = simulation.round(run_state)
        # The episodes of one more round are played with the policy after the last one.
        _, seen = simulation.round(run_state)
        return {"return": float(seen.metrics["episode_return"].sum() / seen.metrics["episodes"].sum())}

    return run
