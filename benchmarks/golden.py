"""Golden hashes: what small federations come to in two commits, computed on one machine and compared.

    commit --git worktree--> its src --a process of its own--> parameters of every case --> hashes, compared

    python -m benchmarks.golden OLD            the commit OLD against the working tree
    python -m benchmarks.golden OLD NEW        one commit against another
    python -m benchmarks.golden OLD --only q_table gossip
    python -m benchmarks.golden OLD --own      each commit plays the cases of its own benchmarks/golden.py

`--own` is for a commit that renames keys of configurations, so that cases can't be read by both sides. The names of the
cases have to agree; that they say the same is for a reader to check (`git diff OLD NEW -- benchmarks/golden.py`).

Bits are promised for one machine, one jaxlib and one code only, so no hash is stored: both sides are computed here, one
after the other, by the cases of this file. Compiled programs are kept where `fedrl run` keeps them, so that the next
comparison with the same commit is a fast one. The cases are configurations as `fedrl run` reads them; what they need of
the Python interface stands in `play` alone. Together they use every learner and every rule, and server optimisers,
stages, topologies and schedules of every kind. A change that is meant to change no number leaves all of them equal.

The exit code is 0 if all cases are equal, and 1 if one of them differs or does not run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SEED = 7

CARTPOLE = """
environment = { name = "cartpole", max_steps = 40 }
fleet.length = { range = [0.3, 0.7] }
"""
CORRIDOR = """
environment = { name = "gridworld", layout = "S..G", max_steps = 20 }
fleet.slip = { range = [0.0, 0.3] }
"""
DEVICES = """
federation.clock.step_s = { name = "stragglers", typical = 1.0, fraction = 0.3, slowdown = 5.0 }
federation.clock.jitter = 0.2
federation.clock.drop_out = 0.2
"""
SMALL = '{ name = "mlp", hidden = [8] }'
TABLE = 'name = "q_table", num_envs = 2, num_steps = 8, learning_rate = 0.5, epsilon = 0.3'
PPO = 'name = "ppo", num_envs = 2, num_steps = 16, num_epochs = 2, num_minibatches = 2'
A2C = 'name = "a2c", num_envs = 2, num_steps = 8'
REINFORCE = 'name = "reinforce", episodes_per_step = 4, horizon = 16'
ADAM = '{ name = "adam", learning_rate = 0.003, max_norm = 0.5 }'
PULLED = '{ name = "fedprox", strength = 0.1 }'
STEERED = 'optimizer = ["add_correction", { name = "sgd", learning_rate = 0.05 }]'

CASES: dict[str, str] = {
    # one server; visits as weights, and local steps of each agent's own
    "q_table": f"""
{CORRIDOR}
learner = {{ {TABLE}, count_visits = true }}
federation.agents = 5
federation.local_steps = [1, 2, 3, 2, 1]
federation.aggregator = {{ name = "mean", weighting = "uniform" }}
federation.stages = [{{ name = "importance_averaging", learning_rate = 0.5 }}]
""",
    # gradients that travel, unbiased quantisation; the look-ahead of AFedPG
    "reinforce": f"""
{CARTPOLE}
learner = {{ {REINFORCE}, network = {SMALL}, baseline = "value" }}
federation.agents = 4
federation.local_steps = 2
federation.payload = "gradient"
federation.stages = [{{ name = "quantize", bits = 8 }}]
federation.server_optimizer = {{ name = "normalized_momentum", learning_rate = 0.1, alpha = 0.5 }}
federation.schedule = {{ name = "afedpg", alpha = 0.5 }}
{DEVICES}
""",
    # SCAFFOLD, a cohort at random
    "a2c": f"""
{CARTPOLE}
learner = {{ {A2C}, network = {SMALL}, {STEERED} }}
federation.agents = 5
federation.local_steps = 3
federation.selection = {{ name = "uniform", cohort = 3 }}
federation.stages = [{{ name = "scaffold", learning_rate = 0.05 }}]
""",
    # FedProx, a clip, sparse codes with error feedback
    "ppo": f"""
{CARTPOLE}
learner = {{ {PPO}, network = {SMALL}, optimizer = [{PULLED}, {ADAM}] }}
federation.agents = 4
federation.local_steps = 2
federation.stages = [
  {{ name = "clip", norm = 0.5 }},
  {{ name = "error_feedback", stages = [{{ name = "top_k", fraction = 0.2 }}, {{ name = "quantize", bits = 6 }}] }},
]
federation.server_optimizer = "fedyogi"
""",
    # continuous actions, statistics beside the pipeline, updates held back
    "normalize": f"""
environment = {{ name = "pendulum", max_steps = 40 }}
learner = {{ name = "normalize", learner = {{ {PPO}, network = {SMALL} }} }}
federation.agents = 4
federation.stages = [{{ name = "lag", stages = [{{ name = "error_feedback", stages = ["sign"] }}], factor = 0.5 }}]
federation.server_optimizer = {{ name = "fedavgm", momentum = 0.5 }}
""",
    # critics that stay at home, a rule that looks at losses
    "personal": f"""
{CARTPOLE}
learner = {{ name = "personal", local = ["critic"], learner = {{ {PPO}, network = {SMALL} }} }}
federation.agents = 4
federation.aggregator = {{ name = "q_ffl", q = 1.0, lipschitz = 0.1, reference_return = 40.0 }}
federation.stages = [{{ name = "uniform_quantize", bits = 8 }}]
""",
    # one update at a time, mixed into the server's parameters
    "gated": f"""
{CARTPOLE}
learner = {{ name = "accept_if_better", trials = 2, horizon = 20, learner = {{ {A2C}, network = {SMALL} }} }}
federation.agents = 4
federation.schedule = {{ name = "fed_async", mixing = 0.6, concurrency = 3 }}
{DEVICES}
""",
    # a wrapper that changes the reward
    "penalty": f"""
{CARTPOLE}
learner = {{ name = "gradient_penalty", strength = 0.1, learner = {{ {A2C}, network = {SMALL} }} }}
federation.agents = 4
""",
    # a rule with a memory of each agent, agents in turn
    "apfl": f"""
{CARTPOLE}
learner = {{ name = "apfl", share = 0.5, rate = 0.01, learner = {{ {A2C}, network = {SMALL} }} }}
federation.agents = 4
federation.selection = {{ name = "round_robin", cohort = 3 }}
federation.aggregator = {{ name = "afl", agents = 4, step = 0.1, reference_return = 40.0 }}
""",
    # a rule that looks at directions, a part that flows one way
    "interpolated": f"""
{CARTPOLE}
learner = {{ name = "interpolate", share = 0.5, learner = {{ {REINFORCE}, network = {SMALL} }} }}
federation.agents = 4
federation.aggregator = "weight_by_diversity"
federation.stages = [{{ name = "download_only", parts = ["actor/0"] }}]
federation.server_optimizer = "fedadam"
""",
    # embeddings of each agent's own, absences, few at work at a time
    "embedded": f"""
{CARTPOLE}
learner.name = "personal"
learner.local = ["embedding"]
learner.learner.name = "freeze_except"
learner.learner.trainable = ["actor"]
learner.learner.learner = {{ {A2C}, network = {{ name = "with_embedding", size = 2, network = {SMALL} }} }}
federation.agents = 6
federation.stages = ["weight_by_improvement"]
federation.schedule = {{ name = "fed_buff", buffer_size = 3, concurrency = 5 }}
federation.clock.online_s = 20.0
federation.clock.offline_s = 5.0
federation.clock.up_bytes_per_s = 1000.0
{DEVICES}
""",
    # servers with parameters of their own below the root
    "tree": f"""
{CARTPOLE}
learner = {{ {PPO}, network = {SMALL} }}
federation.agents = 6
federation.hierarchy = {{ name = "tree", branching = [2, 2], periods = [1, 1, 2], latency_s = [0.1] }}
federation.global_optimizer = {{ name = "fedavgm", momentum = 0.5 }}
federation.server_optimizer = "fedadagrad"
federation.stages = [{{ name = "random_k", fraction = 0.5 }}]
""",
    # no server; corrections by what neighbours tell
    "gossip": f"""
{CARTPOLE}
learner = {{ {A2C}, network = {SMALL}, {STEERED} }}
federation.agents = 6
federation.local_steps = 2
federation.topology = "ring"
federation.gossip = {{ name = "gradient_tracking", learning_rate = 0.05, gradient_steps = 2 }}
federation.consensus_steps = 2
""",
    # rounds with a deadline and a quorum, late updates kept, work by how long it takes
    "deadline": f"""
{CORRIDOR}
learner = {{ {TABLE} }}
federation.agents = 6
federation.local_steps = {{ name = "proportional_to_measured_speed", most = 4 }}
federation.aggregator = {{ name = "weight_by_environment", names = ["slip"] }}
federation.stages = [{{ name = "error_feedback", stages = [{{ name = "top_k", fraction = 0.4 }}] }}]
federation.schedule = {{ name = "synchronous", deadline_s = 3.0, quorum = 3, stragglers = "keep" }}
{DEVICES}
""",
    # bids under a budget of bytes, a cohort by its use, a schedule of local steps
    "budget": f"""
{CORRIDOR}
learner = {{ {TABLE} }}
federation.agents = 6
federation.local_steps = {{ name = "linear", first = 1, last = 3, rounds = 4 }}
federation.selection = {{ name = "oort", cohort = 4, epsilon = 0.5 }}
federation.upload_budget = {{ name = "greedy", budget_bytes = 180 }}
federation.stages = [{{ name = "error_feedback", stages = [{{ name = "hard_threshold", epsilon = 0.01 }}] }}]
""",
    # environments stepped outside of compiled programs
    "gymnasium": f"""
environment = {{ name = "gymnasium", id = "CartPole-v1", max_steps = 40 }}
learner = {{ name = "normalize", learner = {{ {A2C}, network = {SMALL} }} }}
federation.agents = 4
federation.local_steps = 2
federation.aggregator = "median"
federation.stages = ["weight_by_signal"]
""",
    # continuous actions of the cars of a platoon
    "platoon": f"""
environment = {{ name = "platoon", max_steps = 16 }}
learner = {{ {A2C}, network = {SMALL} }}
fleet.tau = {{ range = [0.1, 0.4] }}
federation.agents = 3
""",
    # players of a world, each with parameters of its own, and a critic of the whole world
    "worlds": f"""
environment = {{ name = "navigation", max_steps = 16 }}
fleet.damping = {{ range = [0.2, 0.3] }}
federation.agents = 4

[learner]
name = "mappo"
network = {{ name = "per_player", network = {SMALL}, players = 3 }}
critic = {SMALL}
num_envs = 2
num_steps = 16
num_epochs = 2
num_minibatches = 2
""",
    # the players of one world as agents, of which some leave it and come back
    "common_world": f"""
environment = {{ name = "common_world", world = {{ name = "navigation", max_steps = 16 }}, absent = "leave" }}
learner = {{ {A2C}, network = {SMALL} }}
federation.agents = 3
federation.local_steps = [1, 2, 2]
federation.clock = {{ step_s = 1.0, drop_out = 0.3 }}
""",
    # several choices at once; bounded outputs
    "choices": f"""
environment = "probe_choices"
federation.agents = 4
learner = {{ {PPO}, network = {{ name = "mlp", hidden = [8], output_activation = "tanh" }} }}
""",
    # a memory beside the observation, unrolled through time; moments of the observation alone
    "recurrent": f"""
environment = "probe_memory"
federation.agents = 4
federation.local_steps = 2

[learner]
name = "normalize"
learner = {{ {PPO}, network = {{ name = "gru", units = 8 }} }}
""",
    # values of a team, from a replay buffer
    "vdn": f"""
environment = {{ name = "pursuit", size = 4, max_steps = 20 }}
federation.agents = 4

[learner]
name = "vdn"
network = {SMALL}
num_envs = 2
num_steps = 8
num_updates = 2
batch_size = 16
buffer_size = 64
learning_starts = 16
""",
    "dqn": f"""
{CARTPOLE}
federation.agents = 4
federation.local_steps = 2

[learner]
name = "dqn"
network = {SMALL}
num_envs = 2
num_steps = 8
num_updates = 2
batch_size = 16
buffer_size = 64
learning_starts = 16
""",
    # a pool of earlier policies
    "self_play": f"""
environment = "rock_paper_scissors"
learner.name = "measure_exploitability"
learner.learner.name = "self_play"
learner.learner.pool_size = 3
learner.learner.learner = {{ {A2C}, network = {{ name = "per_player", network = {SMALL}, players = 2 }} }}
federation.agents = 4
""",
    # one controller of all players
    "joint": f"""
environment = {{ name = "joint_actions", world = {{ name = "foraging", players = 2, size = 4, max_steps = 20 }} }}
learner = {{ {A2C}, network = {SMALL} }}
federation.agents = 4
""",
}
ROUNDS = 6


class Ending(NamedTuple):
    """What a case came to.

    Attributes:
        params: The global parameters (without a server, those of all agents), as one vector.
        acting: What each agent acts with, as one vector.
        clock: Virtual seconds, 0 without a clock; bytes up and down since the beginning.
    """

    params: np.ndarray
    acting: np.ndarray
    clock: np.ndarray

    @property
    def hashes(self) -> tuple[str, str]:
        """SHA-256 over the bits of both kinds of parameters, their first twelve digits."""
        first, second = (hashlib.sha256(x.tobytes()).hexdigest()[:12] for x in (self.params, self.acting))
        return first, second


def play(text: str) -> Ending:
    """Run a case in this process. All that a commit has to offer is used here and nowhere else."""
    from fedrl.config import FederationConfig, load
    from fedrl.config.build import build
    from fedrl.runs.simulations import simulation_of

    table = tomllib.loads(text)
    if not hasattr(FederationConfig, "schedule"):
        table = with_schedule_on_clock(table)
    experiment = build(load({"name": "golden", **table}))
    spent = seconds = 0.0
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        run_state = simulation.init(SEED)
        for _ in range(ROUNDS):
            run_state, seen = simulation.round(run_state)
            spent += seen.bytes_up + seen.bytes_down
            seconds = 0.0 if seen.clock_stats is None else seen.clock_stats.time_s
        held = simulation.adopt(run_state) if "topology" in table["federation"] else run_state
        return Ending(_vector(run_state.server.params), _vector(simulation.params_of(held)), np.array([seconds, spent]))


def with_schedule_on_clock(table: dict[str, Any]) -> dict[str, Any]:
    """A case as commits read it in which a schedule was part of the clock."""
    federation = dict(table["federation"])
    if "schedule" in federation:
        federation["clock"] = {**federation.get("clock", {}), "schedule": federation.pop("schedule")}
    return {**table, "federation": federation}


def _vector(tree: Any) -> np.ndarray:
    import jax

    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def compare(old: Mapping[str, Ending | str], new: Mapping[str, Ending | str]) -> tuple[list[str], bool]:
    """A line for each case, and whether all of them are equal. A text in place of an ending says why there is none."""
    lines, equal = [], bool(old)
    for name, before in old.items():
        after = new.get(name, "it was not run")
        if isinstance(before, str) or isinstance(after, str):
            found = "; ".join(f"{side}: {x}" for side, x in (("old", before), ("new", after)) if isinstance(x, str))
        else:
            parts = zip(("global", "agents", "clock and bytes"), before, after, strict=True)
            found = ", ".join(f"{what} {_apart(a, b)}" for what, a, b in parts if a.tobytes() != b.tobytes())
        equal &= not found
        shown = "" if isinstance(after, str) else f"  {' '.join(after.hashes)}  {_clock(after)}"
        lines.append(f"{name:14s}{'DIFFERS: ' + found if found else 'equal'}{shown}")
    return lines, equal


def _apart(old: np.ndarray, new: np.ndarray) -> str:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.dtype}{list(old.shape)} became {new.dtype}{list(new.shape)}"
    return f"{np.abs(old.astype(float) - new.astype(float)).max():.3g} apart"


def _clock(ending: Ending) -> str:
    seconds, spent = ending.clock
    return f"{spent:.0f} bytes" + (f", {seconds:.6g} s" if seconds else "")


@contextmanager
def checked_out(commit: str | None, root: Path) -> Iterator[Path]:
    """The files of a commit in a folder that is removed afterwards; without a commit, the working tree."""
    if commit is None:
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="fedrl-golden-") as folder:
        place = Path(folder) / "tree"
        subprocess.run(["git", "-C", root, "worktree", "add", "--quiet", "--detach", place, commit], check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "-C", root, "worktree", "remove", "--force", place], check=True)


def endings(tree: Path, names: Sequence[str], own: bool = False) -> dict[str, Ending | str]:
    """The results of cases with the code in a folder, in a process of its own; `own` cases are those of that code."""
    from fedrl.launch import cache_folder  # here alone: the other process looks at another commit

    with tempfile.TemporaryDirectory(prefix="fedrl-golden-") as folder:
        given = {
            "PYTHONPATH": str(tree / "src"),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "JAX_COMPILATION_CACHE_DIR": str(cache_folder() or Path(folder) / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        script = tree / "benchmarks" / "golden.py" if own else Path(__file__)
        command = [sys.executable, "-P", str(script), "--run", folder, str(tree / "src"), *names]
        subprocess.run(command, env=os.environ | given, check=True)
        found: dict[str, Ending | str] = {}
        for name in names:
            failure = Path(folder) / f"{name}.txt"
            if failure.exists():
                found[name] = failure.read_text()
                continue
            with np.load(Path(folder) / f"{name}.npz") as arrays:
                found[name] = Ending(*(arrays[field] for field in Ending._fields))
        return found


def run(folder: Path, source: Path, names: Sequence[str]) -> None:
    """In the process of a commit: play cases, and write down what they come to."""
    import fedrl

    if not Path(fedrl.__file__).resolve().is_relative_to(source.resolve()):
        raise SystemExit(f"fedrl was imported from {fedrl.__file__}, and {source} was to be looked at.")
    for name in names:
        begun = time.perf_counter()
        try:
            ending = play(CASES[name])
            np.savez(folder / f"{name}.npz", **ending._asdict())
            print(f"  {name:14s}{' '.join(ending.hashes)}  {time.perf_counter() - begun:.1f} s", flush=True)
        except Exception as fault:  # the other cases are still of use
            (folder / f"{name}.txt").write_text(f"{type(fault).__name__}: {fault}")
            print(f"  {name:14s}{type(fault).__name__}: {fault}", flush=True)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Compare two commits; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__.splitlines()[0])
    parser.add_argument("old", help="the commit to compare with")
    parser.add_argument("new", nargs="?", help="the commit to look at; the working tree by default")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--own", action="store_true", help="play the cases of each commit's own benchmarks/golden.py")
    given = parser.parse_args(arguments)
    names, sides = given.only or list(CASES), []
    for commit in (given.old, given.new):
        print(commit or "the working tree", flush=True)
        with checked_out(commit, root) as tree:
            sides.append(endings(tree, names, given.own))
    lines, equal = compare(*sides)
    print(*lines, sep="\n")
    print(f"{len(lines)} cases: {'all equal' if equal else 'not all equal'}")
    return 0 if equal else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no worktree is left behind
        raise SystemExit(main())
