"""A page of environments of other libraries: which open, which are trained, which are refused and why.

    every id --a process of its own, with a time limit--> one row --> docs/environments-tried.md

    python -m benchmarks.suites                       all ids, in this environment
    python -m benchmarks.suites --only mpe2 MiniGrid  ids that contain one of these words
    python -m benchmarks.suites --gymnax PYTHON       those of gymnax and JaxMARL with the interpreter of their venv
    python -m benchmarks.suites --seconds 900         begin no id later than that; the page lists those left out
    python -m benchmarks.suites --rows FILE           a file of rows: those of this commit are not made again, and
                                                      those of others stand for ids that were not begun
    python -m benchmarks.suites --limit 120           most seconds of one id

A row is trained if two agents with an environment each finish two rounds of PPO, nothing was rejected, all
parameters are finite, and the merged ones have changed. A failure is a row: its sentence is the library's own. Speed is
that of the environment alone, with random actions, in one process: eight copies on the host, sixty-four in a compiled
program.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "environments-tried.md"
LIMIT_S = 600.0
ROUNDS, AGENTS, COPIES, LANES, SPEED_S = 2, 2, 8, 64, 1.0
GYMNASIUM = (
    ("CartPole-v1", {}),
    ("MountainCar-v0", {}),
    ("MountainCarContinuous-v0", {}),
    ("Acrobot-v1", {}),
    ("Pendulum-v1", {}),
    ("FrozenLake-v1", {}),
    ("Taxi-v4", {}),
    ("CliffWalking-v1", {"max_steps": 100}),
    ("Blackjack-v1", {"max_steps": 20}),
    ("LunarLander-v3", {}),
    ("LunarLander-v3", {"options": {"continuous": True}}),
    ("BipedalWalker-v3", {}),
    ("CarRacing-v3", {"max_steps": 100}),
    ("HalfCheetah-v5", {}),
    ("Hopper-v5", {}),
    ("Ant-v5", {}),
    ("Reacher-v5", {}),
    ("minigrid:MiniGrid-Empty-5x5-v0", {"max_steps": 100}),
    ("minigrid:MiniGrid-DoorKey-5x5-v0", {"max_steps": 250}),
    ("minigrid:MiniGrid-FourRooms-v0", {"max_steps": 100}),
    ("minigrid:BabyAI-GoToRedBall-v0", {"max_steps": 64}),
    ("highway_env:highway-v0", {"max_steps": 40}),
    ("highway_env:parking-v0", {"max_steps": 100}),
    ("tests.support.suites:MultiDiscrete-v0", {}),
    ("tests.support.suites:MultiBinary-v0", {}),
    ("tests.support.suites:DictActions-v0", {}),
    ("tests.support.suites:TupleActions-v0", {}),
    ("tests.support.suites:Sequence-v0", {}),
)
PETTINGZOO = (
    ("mpe2.simple_v3", {}),
    ("mpe2.simple_spread_v3", {}),
    ("mpe2.simple_spread_v3", {"options": {"continuous_actions": True}}),
    ("mpe2.simple_reference_v3", {}),
    ("mpe2.simple_speaker_listener_v4", {}),
    ("mpe2.simple_tag_v3", {}),
    ("mpe2.simple_adversary_v3", {}),
    ("mpe2.simple_push_v3", {}),
    ("mpe2.simple_crypto_v3", {}),
    ("mpe2.simple_world_comm_v3", {}),
)
TUPLES = (
    ("rware:rware-tiny-2ag-v2", {"max_steps": 500}),
    ("highway_env:intersection-multi-agent-v2", {"max_steps": 30}),
)
COMPILED = (
    ("gymnax", "CartPole-v1", {}),
    ("gymnax", "Pendulum-v1", {}),
    ("gymnax", "Acrobot-v1", {}),
    ("gymnax", "Breakout-MinAtar", {}),
    ("gymnax", "Catch-bsuite", {}),
    ("jaxmarl", "MPE_simple_spread_v3", {}),
    ("jaxmarl", "MPE_simple_tag_v3", {}),
    ("jumanji", "Snake-v1", {}),
    ("jumanji", "Game2048-v1", {"max_steps": 1000}),
    ("jumanji", "Maze-v0", {}),
    ("brax", "ant", {}),
    ("brax", "inverted_pendulum", {}),
    ("brax", "reacher", {}),
    ("playground", "CartpoleBalance", {}),
)
OWN = ("gymnax", "jaxmarl")
"""Adapters whose packages need an environment of their own, as they want an older Gymnasium."""
PACKAGES = ("gymnasium", "minigrid", "pettingzoo", "mpe2", "rware", "highway-env", "gymnax", "jaxmarl", "jumanji")
PACKAGES += ("brax", "playground", "mujoco", "mujoco-mjx", "Box2D", "jax", "numpy")


def cases() -> list[dict[str, Any]]:
    """Return what is tried, in the order of the page."""
    found = [{"adapter": "gymnasium", "id": id, **given} for id, given in GYMNASIUM]
    found += [{"adapter": "pettingzoo", "id": id, **given} for id, given in PETTINGZOO]
    found += [{"adapter": "gymnasium_world", "id": id, **given} for id, given in TUPLES]
    return found + [{"adapter": adapter, "id": id, **given} for adapter, id, given in COMPILED]


def tried(case: dict[str, Any]) -> dict[str, Any]:
    """Open, train and time one environment, in this process."""
    import fedrl
    from fedrl.environments import adapters

    fedrl.configure_jax(devices=1)  # each device compiles programs of its own
    row: dict[str, Any] = {"opened": False, "trained": False, "said": "", "notes": []}
    given = dict(case)
    build = getattr(adapters, given.pop("adapter"), None)
    try:
        if build is None:
            raise fedrl.ConfigError("This version of fedrl has no such adapter.")
        environment = build(**given)
        row |= {"opened": True, "spaces": _spaces(environment), "notes": list(environment.notes)}
        row["players"] = environment.players
        row["steps_per_s"] = speed(environment)
        row["trained"] = trained(environment)
    except fedrl.FedrlError as refusal:
        row["said"] = str(refusal).strip().partition("\n")[0]
    except Exception as fault:
        row["said"] = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"
    return row


def trained(environment: Any) -> bool:
    """Train two agents for two rounds, and return whether their updates were merged."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import fedrl
    from fedrl.aggregators import mean
    from fedrl.core.environment import HostEnvironment
    from fedrl.learners import mlp, ppo

    learner = ppo(environment, num_envs=2, num_steps=16, num_epochs=1, num_minibatches=1, network=mlp([8]))
    fleet = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], AGENTS, axis=0), environment.params)
    options = {"workers": 1} if isinstance(environment, HostEnvironment) else {}
    with fedrl.simulate(fedrl.federate(learner, mean()), fleet, **options) as simulation:
        state = simulation.init(0)
        before = jax.tree.leaves(simulation.params_of(state))
        for _ in range(ROUNDS):
            state, result = simulation.round(state)
            if result.rejected:
                raise fedrl.RunError(f"An update was rejected: {result.rejected[0].reason}.")
        after = jax.tree.leaves(simulation.params_of(state))
    finite = all(np.isfinite(leaf).all() for leaf in after)
    return finite and any((np.asarray(x) != np.asarray(y)).any() for x, y in zip(before, after, strict=True))


def speed(environment: Any) -> float:
    """Return the steps a second of the environment alone; a step of a world is one of all its players."""
    from fedrl.core.environment import HostEnvironment

    return _on_host(environment) if isinstance(environment, HostEnvironment) else _compiled(environment)


def _on_host(environment: Any) -> float:
    import jax
    import numpy as np

    params = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], COPIES, axis=0), environment.params)
    instances, rng, space = environment.open(params, 0), np.random.default_rng(0), environment.spaces.action
    each = () if environment.players is None else (environment.players,)
    instances.reset(range(COPIES))
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < SPEED_S:
        instances.step(random_actions(space, rng, (COPIES, *each)))
        steps += COPIES
    elapsed = time.perf_counter() - begun
    instances.close()
    return steps / elapsed


def random_actions(space: Any, rng: Any, batch: tuple[int, ...]) -> Any:
    """Return random actions, `[*batch, *action]`; continuous entries are in [-1, 1]."""
    import numpy as np

    if hasattr(space, "parts"):
        return np.concatenate([random_actions(part, rng, batch).reshape(*batch, -1) for part in space.parts], -1)
    shape = (*batch, *space.shape)
    return rng.integers(space.n, size=shape) if hasattr(space, "n") else rng.uniform(-1.0, 1.0, shape)


def _compiled(environment: Any) -> float:
    import jax
    import jax.numpy as jnp

    from fedrl.learners.parts.rollout import Sampler, collect, start

    space, count = environment.spaces.action, 64

    def draw(key: Any, batch: Any) -> Any:
        if hasattr(space, "n"):
            return jax.random.randint(key, batch, 0, space.n)
        return jax.random.uniform(key, (*space.shape, *batch), minval=-1.0, maxval=1.0)

    sampler = Sampler(draw, lambda noise, seen: noise)

    @jax.jit
    def walk(key: Any, position: Any) -> Any:
        seen, position, _ = collect(key, environment, environment.params, sampler, count, position)
        # All that a learner reads: else the compiler would leave out what makes it.
        return position, sum(jnp.sum(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(seen))

    position = jax.jit(lambda key: start(key, environment, environment.params, LANES))(jax.random.key(0))
    position, _ = jax.block_until_ready(walk(jax.random.key(1), position))
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < SPEED_S:
        position, _ = jax.block_until_ready(walk(jax.random.key(2 + calls), position))
        calls += 1
    return calls * count * LANES / (time.perf_counter() - begun)


def _spaces(environment: Any) -> str:
    return " / ".join(map(_space, environment.spaces))


def _space(space: Any) -> str:
    if hasattr(space, "parts"):
        return " + ".join(map(_space, space.parts))
    return f"discrete {space.n}" if hasattr(space, "n") else f"box {'x'.join(map(str, space.shape)) or '()'}"


def row_of(case: dict[str, Any], python: str, limit_s: float) -> dict[str, Any]:
    """Try one environment in a process of its own."""
    command = [python, "-m", "benchmarks.suites", "--one", json.dumps(case)]
    # Where nothing compiled is timed, programs are compiled quickly instead of well.
    on_host = case["adapter"] in ("gymnasium", "pettingzoo", "gymnasium_world")
    given = dict(os.environ) | ({"XLA_FLAGS": "--xla_backend_optimization_level=0"} if on_host else {})
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"opened": False, "trained": False, "said": f"It did not end within {limit_s:.0f} s.", "notes": []}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        said = f"Its process ended with code {done.returncode}: {last}"
        return {"opened": False, "trained": False, "said": said, "notes": []}
    return json.loads(lines[-1])


def page(rows: list[dict[str, Any]], versions: dict[str, str], missing: list[dict[str, Any]]) -> str:
    """Return the page; `missing` are the cases that were not tried."""
    opened, trained = (sum(row[name] for row in rows) for name in ("opened", "trained"))
    told = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        "# Environments that were tried",
        "",
        "What happens to environments of other libraries, one row for each id. The page is made by one command, in an",
        "environment with the packages of the group `suites` (`make suites`):",
        "",
        "<!-- not run: it takes half an hour, and packages of an environment of its own -->",
        "```bash",
        command(),
        "```",
        "",
        f"{datetime.date.today()}, commit {commit()}, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}: {told}.",
        "",
        f"Of {len(rows)} ids {opened} opened, and {trained} were **trained**: two agents with an environment each",
        "took two rounds of PPO, no update was rejected, all parameters are finite, and the merged ones have changed.",
        "This says that an environment can be used, not that a few rounds have learned anything. Steps a second are",
        "those of the environment alone, with random actions, in one process (eight copies on the host, sixty-four in",
        "a compiled program); a step of a world is one of all its players. The figures tell magnitudes: the load is",
        "that of all programs of the machine as a row began, and the commit is that of the row's code.",
        "",
        "| adapter | id | observation / action | players | opened | trained | steps/s | load | commit | said |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in rows]
    if any(row["commit"] != commit() for row in rows):
        lines += [
            "",
            "Rows of other commits than that of the page were kept from earlier calls (`--rows`). An id that did",
        ]
        lines += ["not end within its limit was slow beside the load of its row; alone it may be trained."]
    if missing:
        lines += ["", f"Not tried, as the time was up: {', '.join(_name(case) for case in missing)}."]
    return "\n".join(lines) + "\n"


def commit() -> str:
    """Return the commit whose code runs, and whether files differ from it."""
    asked = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "--", ":!docs"])
    head, changed = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for words in asked
    )
    return f"{head} with changes" if changed else head


def command() -> str:
    """Return the command that runs, with the interpreter by its path from here if it is below."""
    here = Path(sys.executable)
    python = str(here.relative_to(ROOT)) if here.is_relative_to(ROOT) else "python"
    return shlex.join([python, "-m", "benchmarks.suites", *sys.argv[1:]])


def _name(case: dict[str, Any]) -> str:
    more = {name: value for name, value in case.items() if name not in ("adapter", "id")}
    return f"`{case['id']}`" + "".join(f", {name} = {json.dumps(value)}" for name, value in more.items())


def _line(row: dict[str, Any]) -> str:
    case = row["case"]
    said = " ".join([row["said"], *row["notes"]]).strip().replace("|", "\\|").replace("<", "&lt;")
    speed = f"{row['steps_per_s']:,.0f}" if row.get("steps_per_s") else ""
    cells = [case["adapter"], _name(case), row.get("spaces", ""), str(row.get("players") or "")]
    cells += ["yes" if row["opened"] else "no", "yes" if row["trained"] else "no", speed]
    cells += [f"{row['load']:.0f}" if row["load"] is not None else "", row["commit"], said]
    return "| " + " | ".join(cells) + " |"


def versions(python: str) -> dict[str, str]:
    """Return the versions of the packages that an interpreter has."""
    code = f"import json; from benchmarks import suites; print(json.dumps(suites._versions({PACKAGES!r})))"
    found = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(found.stdout) if found.returncode == 0 else {}


def _versions(names: Any) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--gymnax", default="", help="the interpreter of the environment with gymnax and JaxMARL")
    parser.add_argument("--rows", type=Path, help="a file of rows, to go on after an interruption")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no id later; those left out are listed")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="most seconds of one id")
    parser.add_argument("--one", help="a case as JSON: try it in this process")
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        print(json.dumps(tried(json.loads(given.one))))
        return
    known, older = {}, {}
    if given.rows and given.rows.exists():
        for row in map(json.loads, given.rows.read_text().splitlines()):
            (known if row["commit"] == commit() else older)[json.dumps(row["case"])] = row
    rows, missing, begun = [], [], time.monotonic()
    for case in cases():
        if given.only and not any(word in case["id"] or word == case["adapter"] for word in given.only):
            continue
        row = known.get(json.dumps(case))
        if row is None and time.monotonic() - begun >= given.seconds:
            row = older.get(json.dumps(case))
            if row is None:
                missing.append(case)
                continue
        if row is None:
            python = given.gymnax if given.gymnax and case["adapter"] in OWN else sys.executable
            made = {"commit": commit(), "load": os.getloadavg()[0]}
            row = {"case": case, **made, **row_of(case, python, given.limit)}
            if given.rows:
                with given.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(_line(row), flush=True)
    packages = (versions(given.gymnax) if given.gymnax else {}) | versions(sys.executable)
    given.page.write_text(page(rows, packages, missing))


if __name__ == "__main__":
    main()
