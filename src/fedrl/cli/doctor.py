"""`fedrl doctor`."""

from __future__ import annotations

import importlib.util
import os
import time

import typer

EXTRAS = {
    "gymnax": "gymnax",
    "box2d": "Box2D",
    "tensorboard": "tensorboardX",
    "render": "PIL",
    "onnx": "onnx",
    "torch": "torch",
}


def doctor_command() -> None:
    """Print versions, devices and extras, then test that training works and is reproducible."""
    # XLA reads its flags when JAX initialises, so this comes before the first import of jax.
    from fedrl import launch

    launch.configure_jax()
    import jax

    from fedrl.core.versions import versions
    from fedrl.runs.selftest import self_test
    from fedrl.runs.summary import PACKAGES, revision

    for package, version in versions(PACKAGES).items():
        _line(package, version)
    _line("revision", revision() or "not a repository")
    _line("cores", launch.cores())
    _line("devices", ", ".join(str(device) for device in jax.local_devices()))
    _line("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    _line("program cache", jax.config.values.get("jax_compilation_cache_dir"))
    for extra, module in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        _line(f"extra {extra}", "installed" if found else f"not installed: pip install 'fedrl[{extra}]'")
    started = time.perf_counter()
    faults = self_test()
    took = time.perf_counter() - started
    for fault in faults:
        typer.echo(f"FAILED  {fault}")
    if faults:
        raise typer.Exit(1)
    _line("self-test", f"passed in {took:.1f} s")


def _line(name: str, value: object) -> None:
    typer.echo(f"{name:<18}{value}")
