"""What more agents, larger models and slower devices cost: rounds, bytes, time and memory, beside C = K S.

Protocol, fixed before measuring. Fleet and learner are those of the example `cartpole`, whose learning rate falls to
zero over 60 rounds; that is the budget. After every round the server's policy is played greedily, 5 episodes in the
environment of each agent. A run has reached 475 in the first of three rounds in a row in which the mean return of all
agents is at least 475; one that does not get there is a miss, and counts as infinitely many rounds. Seeds 30 to 32,
which nobody has tuned on or looked at; medians over them, and all of them.

    agents    K = 10, 100, 1,000, hidden layers of 64
    hidden    10 agents with two hidden layers of 32, 64, 128, 256 in actor and in critic
    delay     20 agents on the virtual clock, a fifth of them 1, 4 or 16 times slower. The server waits for all of them,
              or merges whenever 5 updates are there (fed_buff); a round is then 4 merges, 20 updates as well

The cost model says that T rounds send T K S bytes up, with S the bytes of a model. Speed and memory are measured apart,
each setting in a process of its own, without evaluation; K = 10,000 learns with one seed and only if asked to.

    python -m benchmarks.scalability [agents | hidden | delay | speed | largest ...]
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import fedrl.launch
from benchmarks.measure import Figure, emit, peak_gigabytes, seconds
from benchmarks.poles import Reached, listed, poles, until_balanced

if TYPE_CHECKING:
    from fedrl.core.learner import Learner
    from fedrl.core.types import PyTree
    from fedrl.engines.state import Simulation

EPISODES, BUDGET = 5, 60
SEEDS = (30, 31, 32)
AGENTS, LARGEST, HIDDEN, SLOWER = (10, 100, 1000), 10_000, (32, 64, 128, 256), (1.0, 4.0, 16.0)
USUAL_AGENTS, USUAL_HIDDEN, CLOCKED_AGENTS, SLOW_SHARE = 10, 64, 20, 0.2


def prepared(agents: int, hidden: int) -> tuple[Learner, PyTree]:
    from fedrl.environments import cartpole
    from fedrl.learners import adam, mlp, ppo

    optimizer = adam(0.004, max_norm=0.5, decay_steps=16 * BUDGET)
    learner = ppo(cartpole(), network=mlp((hidden, hidden)), optimizer=optimizer)
    return learner, poles(learner.environment, agents)


def with_server(agents: int, hidden: int) -> tuple[Learner, PyTree, Simulation]:
    from fedrl.aggregators import mean
    from fedrl.engines.simulate import simulate
    from fedrl.federation.federate import federate

    learner, fleet = prepared(agents, hidden)
    return learner, fleet, simulate(federate(learner, mean()), fleet)


def on_clock(buffer: int | None, slower: float) -> tuple[Learner, PyTree, Simulation]:
    from fedrl.aggregators import mean
    from fedrl.clocks import clock, stragglers
    from fedrl.engines.simulate import simulate
    from fedrl.federation.federate import federate
    from fedrl.server.schedules import fed_buff, synchronous

    learner, fleet = prepared(CLOCKED_AGENTS, USUAL_HIDDEN)
    schedule = synchronous() if buffer is None else fed_buff(buffer)
    devices = clock(step_s=stragglers(1.0, SLOW_SHARE, slower))
    return learner, fleet, simulate(federate(learner, mean()), fleet, scheduler=schedule, clock=devices)


def study(what: str, make: Callable[[], tuple[Learner, PyTree, Simulation]], seeds: tuple[int, ...] = SEEDS) -> Reached:
    """The median over seeds of each number; all of them are printed."""
    learner, fleet, simulation = make()
    runs = [until_balanced(simulation, learner, fleet, seed, rounds=BUDGET, episodes=EPISODES) for seed in seeds]
    found = Reached(*(median(column) for column in zip(*runs, strict=True)))
    rounds = listed([run.rounds for run in runs])
    time = "" if math.isnan(found.time_s) else f", {found.time_s:,.1f} s on the clock"
    print(f"  {what}: {found.rounds:.0f} rounds ({rounds}), {found.bytes_up / 1e6:,.3f} MB up{time}", flush=True)
    return found


def model_bytes(hidden: int) -> int:
    import jax

    learner, _ = prepared(1, hidden)
    state = jax.eval_shape(learner.init, jax.random.key(0), learner.environment.params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(learner.params, state)))


def over_model(found: Reached, agents: int, hidden: int) -> float:
    """Measured bytes up over T K S."""
    return found.bytes_up / (found.rounds * agents * model_bytes(hidden))


def over_agents() -> None:
    found = {k: study(f"K = {k:,}", lambda k=k: with_server(k, USUAL_HIDDEN)) for k in AGENTS}
    few, *_, many = found.values()
    off = max(abs(over_model(each, k, USUAL_HIDDEN) - 1.0) for k, each in found.items())
    emit(
        Figure("rounds to reach 475, K = 1,000 over K = 10", many.rounds / few.rounds, 1.25, "x", at_least=False),
        Figure("bytes up over K: largest difference from T K S", 100 * off, 1.0, "%", at_least=False),
    )


def over_sizes() -> None:
    found = {h: study(f"hidden = {h}", lambda h=h: with_server(USUAL_AGENTS, h)) for h in HIDDEN}
    off = max(abs(over_model(each, USUAL_AGENTS, h) - 1.0) for h, each in found.items())
    emit(Figure("bytes up over hidden sizes: largest difference from T K S", 100 * off, 1.0, "%", at_least=False))


def over_delays() -> None:
    found = {}
    for name, buffer in {"waiting for all": None, "fed_buff(5)": 5}.items():
        for slower in SLOWER:
            found[name, slower] = study(f"{name}, slowest x {slower:.0f}", lambda b=buffer, d=slower: on_clock(b, d))
    waiting, buffered = (found[name, SLOWER[-1]] for name in ("waiting for all", "fed_buff(5)"))
    emit(
        Figure(
            "time to reach 475 with a fifth 16 x slower, waiting over fed_buff", waiting.time_s / buffered.time_s, 2.0
        )
    )


def speed_of(agents: int, hidden: int, rounds: int) -> None:
    """Print steps per second and the peak of memory, measured in this process."""
    import jax

    _, _, simulation = with_server(agents, hidden)
    run_state, samples = simulation.init(0), 8 * 128 * agents

    def step() -> None:
        nonlocal run_state
        run_state, _ = simulation.round(run_state)
        jax.block_until_ready(run_state.blocks)

    step()
    print(json.dumps([samples / median(seconds(step) for _ in range(rounds)), peak_gigabytes()]))


def speeds() -> None:
    measured = {}
    settings = {(k, USUAL_HIDDEN): max(5, 200 // k) for k in (*AGENTS, LARGEST)} | {
        (USUAL_AGENTS, h): 10 for h in HIDDEN
    }
    for (agents, hidden), rounds in settings.items():
        command = [sys.executable, "-m", "benchmarks.scalability", "speed-of", str(agents), str(hidden), str(rounds)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        speed, memory = measured[agents, hidden] = json.loads(said.splitlines()[-1])
        print(f"  K = {agents:,}, hidden {hidden}: {speed:,.0f} steps/s, peak {memory:.2f} GB", flush=True)
    fast, slow = measured[USUAL_AGENTS, USUAL_HIDDEN][0], measured[LARGEST, USUAL_HIDDEN][0]
    emit(
        Figure("K = 10,000 over K = 10, steps/s", slow / fast, 0.9, "x"),
        Figure("peak memory, K = 10,000", measured[LARGEST, USUAL_HIDDEN][1], 8.0, "GB", at_least=False),
    )


def largest() -> None:
    study(f"K = {LARGEST:,}", lambda: with_server(LARGEST, USUAL_HIDDEN), SEEDS[:1])


PARTS = {"agents": over_agents, "hidden": over_sizes, "delay": over_delays, "speed": speeds, "largest": largest}


def main() -> None:
    fedrl.launch.configure_jax()
    if sys.argv[1:2] == ["speed-of"]:
        speed_of(*map(int, sys.argv[2:]))
        return
    for part in sys.argv[1:] or ("agents", "hidden", "delay", "speed"):
        PARTS[part]()


if __name__ == "__main__":
    main()
