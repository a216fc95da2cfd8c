"""`fedrl doctor`."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping

import typer
from rich.console import Console

from fedrl.sinks.fitting import name_values, printable, write

WIDTH = 17
"""Width of the longest name, `extra tensorboard`."""
EXTRAS = {
    "gymnax": "gymnax",
    "jaxmarl": "jaxmarl",
    "pettingzoo": "pettingzoo",
    "jumanji": "jumanji",
    "brax": "brax",
    "playground": "mujoco_playground",
    "box2d": "Box2D",
    "tensorboard": "tensorboardX",
    "ray": "ray",
    "render": "PIL",
    "mp4": "imageio_ffmpeg",
    "onnx": "onnx",
    "torch": "torch",
    "jax2onnx": "jax2onnx",
}


def doctor_command() -> None:
    """Print versions, devices and extras, then test that training works and is reproducible."""
    # XLA reads its flags when JAX initialises, so this comes before the first import of jax.
    from fedrl import launch

    given = f"{launch.DEVICES}=" in os.environ.get("XLA_FLAGS", "")
    launch.configure_jax()
    import jax

    from fedrl.core.processors import usable
    from fedrl.core.versions import versions
    from fedrl.runs.selftest import self_test
    from fedrl.runs.summary import PACKAGES, revision

    cores, devices = usable(), jax.local_devices()
    why = "of this machine" if jax.default_backend() != "cpu" else "set in XLA_FLAGS" if given else "one per core"
    facts: dict[str, object] = {**versions(PACKAGES)}
    facts["revision"] = revision() or "not a repository"
    facts["cores"] = f"{cores.number}: {cores.reason}"
    facts["devices"] = f"{len(devices)}, {why}: {', '.join(map(str, devices))}"
    facts["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    facts["program cache"] = jax.config.values.get("jax_compilation_cache_dir")
    for extra, module in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        facts[f"extra {extra}"] = "installed" if found else f"not installed: pip install 'fedrl[{extra}]'"
    console = Console(highlight=False)
    write_facts(console, facts)
    started = time.perf_counter()
    faults = self_test()
    took = time.perf_counter() - started
    for fault in faults:
        typer.echo(f"FAILED  {fault}")
    if faults:
        raise typer.Exit(1)
    write_facts(console, {"self-test": f"passed in {took:.1f} s"})


def write_facts(console: Console, facts: Mapping[str, object]) -> None:
    """Write names with their values, a line each where it is wide enough."""
    pairs = [(name, printable(str(value))) for name, value in facts.items()]
    write(console, name_values(pairs, WIDTH))
