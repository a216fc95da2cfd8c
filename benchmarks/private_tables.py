"""Federated Q-learning under differential privacy, on a grid of 25 cells: runners for `benchmarks.privacy_utility`.

Agents differ in how slippery their floor is. Each of 30 rounds, an agent takes 4 x 32 steps in 8 copies of its
environment and sends the change of its table; all its data are protected. A policy is the greedy one of the server's
table, and its value at the start is exact, from the tables of the model: the discounted return, the mean over agents.

A run is one pure function of its seed (`benchmarks.fused`), so that ten seeds are one program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrl.core.learner import Learner
    from fedrl.core.stage import Stage

GRID = """
    S....
    .....
    ..O..
    .....
    ....G"""
ROUNDS, STEPS, GAMMA, DELTA = 30, 4, 0.95, 1e-5
AGENTS, EPSILONS = (10, 30, 100), (1.0, 4.0, 8.0)
SLIPS = {"equal": (0.1, 0.1), "mild": (0.0, 0.3), "strong": (0.0, 0.6)}
CLIPS = {"gaussian": 0.15, "laplace": 0.5}
Setting = Mapping[str, Any]


def learner() -> Learner:
    from fedrl.environments import gridworld
    from fedrl.learners import q_table

    options = {"learning_rate": 0.3, "gamma": GAMMA, "epsilon": 0.5, "num_envs": 8, "num_steps": 32}
    return q_table(gridworld(GRID), **options)


def noise_stages(setting: Setting) -> tuple[Stage, ...]:
    """The stage that keeps epsilon over all rounds; with Laplace noise delta is 0."""
    from fedrl.privacy import mechanisms
    from fedrl.privacy.pricing import calibrated, round_price

    if setting["epsilon"] is None:
        return ()
    agents, kind = setting["agents"], setting["noise"]
    made = getattr(mechanisms, f"{setting['trust']}_{kind}")
    fixed = {"clip": CLIPS[kind]} | ({"expected": float(agents)} if setting["trust"] == "central" else {})
    delta = 0.0 if kind == "laplace" else DELTA
    multiplier = calibrated(
        setting["epsilon"],
        delta,
        ROUNDS,
        lambda z: round_price(made(noise_multiplier=z, **fixed).noise, None, (agents,)),
    )
    return (made(noise_multiplier=multiplier, **fixed),)


def federation(setting: Setting) -> Any:
    from fedrl.aggregators import mean
    from fedrl.federation.federate import federate

    return federate(learner(), mean("uniform"), *noise_stages(setting), local_steps=STEPS)


def values(setting: Setting, slips: Sequence[str], seeds: Sequence[int]) -> dict[str, list[float]]:
    """The value at the start after the last round, by seed, for each of these fleets; one program for all."""
    import jax
    import jax.numpy as jnp

    from benchmarks.fused import fused

    fed, agents = federation(setting), setting["agents"]
    train = jax.jit(jax.vmap(fused(fed, ROUNDS), (0, None)))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    found = {}
    for name in slips:
        poles = fleet_of(fed.learner, agents, name)
        tables = train(keys, poles)["q"]
        found[name] = [value_of(table, poles, agents) for table in tables]
    return found


def fleet_of(which: Learner, agents: int, slips: str) -> Any:
    from fedrl.environments.fleet import fleet

    return fleet(which.environment, agents, {"slip": {"range": list(SLIPS[slips])}})


def value_of(table: Any, poles: Any, agents: int) -> float:
    """The discounted return of a table's greedy policy, in which tied actions are equally likely."""
    import jax.numpy as jnp

    from fedrl.environments.tabular.gridworld import gridworld_model
    from fedrl.environments.tabular.planning import policy_return
    from fedrl.learners.algorithms.q_table import behaviour

    model = gridworld_model(GRID, poles)
    policy = jnp.broadcast_to(behaviour(table, 0.0), (agents, *table.shape))
    return float(policy_return(model, policy, GAMMA).mean())


@cache
def zero_value(agents: int, slips: str) -> float:
    """The value of a table of zeros, whose policy is a uniform one."""
    import jax.numpy as jnp

    which = learner()
    return value_of(jnp.zeros((25, 4)), fleet_of(which, agents, slips), agents)


def time_ratio(pairs: int = 7) -> float:
    """Time of a private run of 100 agents over that of one without clip and noise: the median of alternating pairs."""
    from benchmarks.measure import ratio
    from fedrl.engines.simulate import simulate

    private = {"agents": 100, "epsilon": 8.0, "trust": "central", "noise": "gaussian"}

    def trained(setting: Setting) -> Any:
        fed = federation(setting)
        simulation = simulate(fed, fleet_of(fed.learner, 100, "mild"))

        def run() -> None:
            run_state = simulation.init(0)
            for _ in range(ROUNDS):
                run_state, _ = simulation.round(run_state)

        return run

    return ratio(trained(private), trained(private | {"epsilon": None}), pairs)
