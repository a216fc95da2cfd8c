"""Federated deep reinforcement learning.

fedrl.run("experiment.toml")         a whole experiment, from configuration to run folder
fedrl.sweep("experiment.toml", grid) the same in many settings, from grid to study folder
fedrl.federate(learner, aggregator)  a federation of your own, to be run by `fedrl.simulate`

Nothing heavy is imported until it is used. Call `fedrl.prepare()` before the first array: it gives JAX every core.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrl.core.component import cite, component
    from fedrl.core.divided import part
    from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError
    from fedrl.core.federation import federate
    from fedrl.core.measures import Measure
    from fedrl.engines.simulate import simulate
    from fedrl.environments.fleet import fleet
    from fedrl.experiments.config import BaselinesConfig, Config, EvaluationConfig, FederationConfig
    from fedrl.experiments.evaluate import greedy_returns
    from fedrl.experiments.run import resume, run
    from fedrl.experiments.study import resume_sweep, sweep
    from fedrl.launch import prepare

__version__ = "0.1.0"

_HOMES = {
    "BaselinesConfig": "experiments.config",
    "Config": "experiments.config",
    "ConfigError": "core.errors",
    "EvaluationConfig": "experiments.config",
    "FederationConfig": "experiments.config",
    "FedrlError": "core.errors",
    "Measure": "core.measures",
    "RunError": "core.errors",
    "UnsoundError": "core.errors",
    "cite": "core.component",
    "component": "core.component",
    "federate": "core.federation",
    "fleet": "environments.fleet",
    "greedy_returns": "experiments.evaluate",
    "part": "core.divided",
    "prepare": "launch",
    "resume": "experiments.run",
    "resume_sweep": "experiments.study",
    "run": "experiments.run",
    "simulate": "engines.simulate",
    "sweep": "experiments.study",
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
    "UnsoundError",
    "__version__",
    "cite",
    "component",
    "federate",
    "fleet",
    "greedy_returns",
    "part",
    "prepare",
    "resume",
    "resume_sweep",
    "run",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedrl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fedrl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
