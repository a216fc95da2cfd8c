"""Configurations: dataclasses of plain values that mirror the sections of an `experiment.toml`.

    experiment.toml --read--> dict --override (--set)--> dict --parse--> Config --build--> Experiment

In a `Config`, components are tables such as `{name = "ppo", clip = 0.2}`; `fedrl.config.build` turns them into objects
and fills in the defaults of their constructors. In Python, a `Config` also takes the objects themselves.
"""

from fedrl.config.experiment import BaselinesConfig, Config, EvaluationConfig
from fedrl.config.federation import FederationConfig
from fedrl.config.loading import as_dict, dump, load, parse, read, tables_of

__all__ = [
    "BaselinesConfig",
    "Config",
    "EvaluationConfig",
    "FederationConfig",
    "as_dict",
    "dump",
    "load",
    "parse",
    "read",
    "tables_of",
]
