"""IPPO on three players of `MPE_simple_spread_v3`, ours and JaxMARL's own script, with its published settings.

    python -m benchmarks.jaxmarl_ippo SCRIPT      (make bench-jaxmarl JAXMARL=a clone of JaxMARL)

SCRIPT is `baselines/IPPO/ippo_ff_mpe.py` of https://github.com/FLAIROx/JaxMARL, which no package has. It is imported as
it is, and its `make_train` compiled once for all seeds, as its `main` does. Only its call of wandb is left out.

The same for both: the world, from the same package; 16 copies x 128 steps an update, actor and critic of 2 x 64 tanh, 4
epochs of 4 minibatches, Adam with eps 1e-5 from 2.5e-4 to zero over the budget, gradients clipped at 0.5, advantages
normalised by minibatch, discount 0.99, trace 0.95, clip 0.2, 0.25 for the critic's squared error (theirs is halved
twice), 0.01 for entropy; ten seeds at once. Only the budget is
smaller than the published ten million steps, for both.

What differs: ours are ten isolated agents of a simulation, which starts each update from Python and counts episodes and
returns, and does not take the time limit for an end. Theirs is one program, takes every end for a terminal state, and
clips the critic's error.

The returns are of the episodes of the last tenth of the updates, mean over the players, as the policies were sampled.
Turns of the speed alternate, each contestant in a process of its own, and compiling does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from typing import Any

import fedrl.launch
from benchmarks.measure import Figure, emit
from benchmarks.turns import Contestant, Introduction, serve

WORLD, PLAYERS, SEEDS = "MPE_simple_spread_v3", 3, 10
COPIES, STEPS = 16, 128
UPDATES = 98  # 200,000 steps of the world for each seed
TURN, TURNS = 20, 5  # updates of a turn

Training = Callable[[], list[float]]  # the mean return of each seed in the last tenth of the updates


def ours(updates: int) -> Training:
    """Ten isolated agents."""
    fedrl.launch.configure_jax()
    import jax
    import numpy as np

    from benchmarks.workload import alike
    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.engines.topologies.choices import isolated
    from fedrl.environments.adapters import jaxmarl
    from fedrl.federation.federate import federate
    from fedrl.learners import adam, ppo

    world = jaxmarl(WORLD)
    optimizer = adam(2.5e-4, max_norm=0.5, decay_steps=16 * updates)
    learner = ppo(world, optimizer=optimizer, num_envs=COPIES, num_steps=STEPS, value_coef=0.25, entropy_coef=0.01)
    simulation = simulate(federate(learner, mean()), alike(world, SEEDS), topology=isolated())

    def train() -> list[float]:
        state, seen = simulation.init(0), []
        for _ in range(updates):
            state, result = simulation.round(state)
            seen.append((result.metrics["episode_return"], result.metrics["episodes"]))
        jax.block_until_ready(state.blocks)
        totals, counts = np.array(seen[-max(1, updates // 10) :]).sum(0)
        return (totals / counts).tolist()

    return train


def theirs(script: str, updates: int) -> Training:
    """Ten seeds of their script, in one program."""
    fedrl.launch.configure_jax(1)
    import jax
    import numpy as np

    spec = spec_from_file_location("ippo_ff_mpe", script)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    # What it tells wandb: with it, a program of one device on two cores waits for itself.
    jax.experimental.io_callback = lambda *_: None
    settings = {
        **{"LR": 2.5e-4, "NUM_ENVS": COPIES, "NUM_STEPS": STEPS, "TOTAL_TIMESTEPS": updates * COPIES * STEPS},
        **{"UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4, "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2},
        **{"ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5, "ACTIVATION": "tanh", "ANNEAL_LR": True},
        **{"ENV_NAME": WORLD, "ENV_KWARGS": {}},
    }
    keys = jax.random.split(jax.random.PRNGKey(30), SEEDS)
    program = jax.jit(jax.vmap(module.make_train(settings))).lower(keys).compile()

    def train() -> list[float]:
        told = jax.block_until_ready(program(keys))["metrics"]["returned_episode_returns"]
        # their wrapper multiplies what it logs by the number of players
        return (np.asarray(told)[:, -max(1, updates // 10) :].mean(1) / PLAYERS).tolist()

    return train


def contestant(name: str, updates: int) -> Training:
    """The training of a contestant: "fedrl", or the path of their script."""
    return ours(updates) if name == "fedrl" else theirs(name, updates)


def learnt(name: str) -> list[float]:
    """Train in a process of its own, and tell what it took."""
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.jaxmarl_ippo", f"learn:{name}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    result: dict[str, Any] = json.loads(told)
    print(f"{name}: {result['seconds']:.0f} s, returns {[round(value, 1) for value in result['returns']]}", flush=True)
    return result["returns"]


def learn(name: str) -> None:
    """What that process does."""
    train = contestant(name, UPDATES)
    begun = time.perf_counter()
    returns = train()
    print(json.dumps({"seconds": time.perf_counter() - begun, "returns": returns}), flush=True)


def compete(name: str) -> None:
    """What a process does whose speed is measured."""
    train = contestant(name, TURN)
    train()
    serve(Introduction(f"jax {version('jax')}", 0.0, 0.0), train, TURN * COPIES * STEPS * PLAYERS * SEEDS)


def main(script: str) -> None:
    from fedrl.records.statistics import interval

    mine, peer = (interval(learnt(name)) for name in ("fedrl", script))
    for name, found in (("fedrl", mine), ("JaxMARL", peer)):
        print(f"{name}: return {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}], ten seeds, 95 %")
    with (
        Contestant(Path(sys.executable), "benchmarks.jaxmarl_ippo", "compete:fedrl") as us,
        Contestant(Path(sys.executable), "benchmarks.jaxmarl_ippo", f"compete:{script}") as them,
    ):
        turns = [(us.turn(), them.turn()) for _ in range(TURNS)]
    for name, own in zip(("fedrl", "JaxMARL"), zip(*turns, strict=True), strict=True):
        speed, cpu = median(turn.speed for turn in own), median(turn.cpu / turn.steps for turn in own)
        print(f"{name}: {speed:,.0f} player steps/s, {1e6 * cpu:.1f} s of CPU for a million")
    emit(
        Figure("upper end of our interval less lower end of JaxMARL's", mine.high - peer.low, 0.0),
        Figure("player steps/s over JaxMARL's", median(a.speed / b.speed for a, b in turns), 1.0, "x"),
    )


if __name__ == "__main__":
    mode, _, name = sys.argv[1].rpartition(":")
    {"learn": learn, "compete": compete, "": main}[mode](name)
