"""Federated deep reinforcement learning.

    fedrl.run("experiment.toml")          run a whole experiment, from configuration to run folder
    fedrl.sweep("experiment.toml", grid)  run it in many settings, from grid to study folder
    fedrl.scale("experiment.toml", limit)  find how many agents fit on this machine
    fedrl.load("runs/...")                the trained policy of a run, ready to act
    fedrl.federate(learner, aggregator)   build a federation, to be run by `fedrl.simulate`

Submodules are imported on first use. Call `fedrl.configure_jax()` before the first array is created: it lets JAX use
all cores.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedrl.core.versions import __version__

if TYPE_CHECKING:
    from fedrl.config import BaselinesConfig, Config, EvaluationConfig, FederationConfig
    from fedrl.core.component import cite, component
    from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError
    from fedrl.core.measures import Measure
    from fedrl.engines.simulate import simulate
    from fedrl.environments.fleet import fleet
    from fedrl.federation.federate import federate
    from fedrl.federation.parts import part
    from fedrl.launch import configure_jax
    from fedrl.runs.evaluate import greedy_returns
    from fedrl.runs.policy import load
    from fedrl.runs.result import RunResult
    from fedrl.runs.run import resume, run
    from fedrl.studies import StudyResult, resume_sweep, sweep
    from fedrl.studies.scaling import ScaleResult, scale


_HOMES = {
    "BaselinesConfig": "config",
    "Config": "config",
    "ConfigError": "core.errors",
    "EvaluationConfig": "config",
    "FederationConfig": "config",
    "FedrlError": "core.errors",
    "Measure": "core.measures",
    "RunError": "core.errors",
    "RunResult": "runs.result",
    "ScaleResult": "studies.scaling",
    "StudyResult": "studies",
    "UnsoundError": "core.errors",
    "cite": "core.component",
    "component": "core.component",
    "federate": "federation.federate",
    "fleet": "environments.fleet",
    "greedy_returns": "runs.evaluate",
    "load": "runs.policy",
    "part": "federation.parts",
    "configure_jax": "launch",
    "resume": "runs.run",
    "resume_sweep": "studies",
    "run": "runs.run",
    "scale": "studies.scaling",
    "simulate": "engines.simulate",
    "sweep": "studies",
}

__all__ = [
    "BaselinesConfig",
    "Config",
    "ConfigError",
    "EvaluationConfig",
    "FederationConfig",
    "FedrlError",
    "Measure",
    "RunError",
    "RunResult",
    "ScaleResult",
    "StudyResult",
    "UnsoundError",
    "__version__",
    "cite",
    "component",
    "configure_jax",
    "federate",
    "fleet",
    "greedy_returns",
    "load",
    "part",
    "resume",
    "resume_sweep",
    "run",
    "scale",
    "simulate",
    "sweep",
]


# Importing JAX is slow, so it is imported only when a name is used that needs it.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedrl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fedrl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
