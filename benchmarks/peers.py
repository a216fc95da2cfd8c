"""Federated PPO, ten agents on CartPole, beside the two strongest peers on the same work.

* stable-baselines3's PPO, a single agent: to train ten of them takes ten times as long
* rejax's PPO, ten agents vmapped, their parameters averaged every round, in one program, the agents spread over the
  cores: the most that a user of JAX would write by hand. `rejax-vmap` is the same on one device of XLA, which then
  hardly uses a second core

The same for all: CartPole-v1, 8 environments x 128 steps of each agent a round, actor and critic of 2 x 64 tanh, 4
epochs of 4 minibatches of 256, Adam at 0.0025, gradients clipped at 0.5, advantages normalised by minibatch, float32,
discount 0.99, trace 0.95, clip 0.2, no bonus for entropy. Those in JAX also share the version of JAX, the flags of XLA
that `fedrl.configure_jax()` sets, ten agents and a mean every round. Compiling and the first turns don't count.

What differs: ours counts episodes and returns, tells an end at the time limit from a fall, adds updates up exactly, and
starts each round from Python, which gets its metrics. rejax takes both ends for a fall, does 40 rounds in one call,
counts nothing, clips gradients number by number instead of by their norm, and clips the critic's error.
stable-baselines3 counts episodes and steps environments one by one in Python. Nobody evaluates while the clock runs:
the returns printed are of each library's own evaluation, before and after the warm-up, ours greedy.

Turns alternate, each contestant in a process of its own, so that a drifting machine cancels from the ratios, which are
medians over the turns. CPU seconds count all threads: on a busy machine they say more than wall time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, emit, leave_out
from benchmarks.turns import Contestant, Turn

TURNS = 9
GOALS = {"rejax": 1.0, "rejax-vmap": 1.5, "stable-baselines3": 40.0}
ENVIRONMENT = Path(__file__).parents[1] / ".venv-peers"


def raced() -> dict[str, list[Turn]]:
    """The turns of each contestant, after telling whether it learns."""
    theirs = ENVIRONMENT / "bin" / "python"
    with ExitStack() as stack:
        contestants = []
        for name, python in {"fedrl": Path(sys.executable), **dict.fromkeys(GOALS, theirs)}.items():
            contestant = stack.enter_context(Contestant(python, "benchmarks.contestants", name))
            told = contestant.introduction
            print(
                f"{name} ({told.versions}): mean return {told.before:.0f}, after the warm-up {told.after:.0f}",
                flush=True,
            )
            contestants.append(contestant)
        turns = []
        for _ in range(TURNS):
            turns.append([contestant.turn() for contestant in contestants])
            print(
                "  ".join(f"{c.name} {t.speed:,.0f}" for c, t in zip(contestants, turns[-1], strict=True)), flush=True
            )
    return {c.name: list(column) for c, column in zip(contestants, zip(*turns, strict=True), strict=True)}


def span(values: Sequence[float], digits: int = 0) -> str:
    """Median and range."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high})"


def main() -> None:
    if not (ENVIRONMENT / ".installed").exists():
        leave_out("The peers' environment, .venv-peers, is missing. Make it: make bench-peers")
    turns = raced()
    mine = turns["fedrl"]
    for name, own in turns.items():
        speed, cpu = [turn.speed / 1e3 for turn in own], [1e6 * turn.cpu / turn.steps for turn in own]
        wall = [turn.wall for turn in own]
        print(f"{name}: {span(speed, 1)} k steps/s; a turn of {own[0].steps:,} steps takes {span(wall, 2)} s;", end=" ")
        print(f"a million steps take {span(cpu, 2)} s of CPU")
    for name, goal in GOALS.items():
        pairs = list(zip(mine, turns[name], strict=True))
        speedup = [a.speed / b.speed for a, b in pairs]
        saved = [(b.cpu / b.steps) / (a.cpu / a.steps) for a, b in pairs]
        print(f"over {name}: {span(speedup, 2)} x in wall time, {span(saved, 2)} x in CPU time")
        emit(Figure(f"federated PPO, K = 10, over {name}", median(speedup), goal, "x"))


if __name__ == "__main__":
    main()
