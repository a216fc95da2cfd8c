"""What an experiment is, in plain values: the dataclasses mirror the sections of an `experiment.toml`.

    experiment.toml --read--> dict --override (--set)--> dict --parse--> Config

Components are still tables here, `{name = "ppo", clip = 0.2}`; `fedrl.config.build` makes them objects and
fills in the defaults, which live with the constructors. In Python, a `Config` takes the objects themselves, too.
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
