"""The options `--executor`, `--workers` and `--address` of the commands that train (`run`, `sweep`, `scale`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrl.core.errors import ConfigError

EXECUTOR = "Train in this process, or in worker processes of Ray on one or more machines; results are the same."
WORKERS = "Number of Ray's worker processes; by default one per core of the cluster."
ADDRESS = "The Ray cluster to use; by default one of this machine alone is started."


def executor_of(executor: str | None, workers: int | None, address: str | None) -> Mapping[str, Any] | None:
    """Return the table of the executor that the options choose; None if they choose none.

    Raises:
        ConfigError: There are workers or an address, and the executor is not Ray.

    >>> executor_of("ray", 2, None)
    {'name': 'ray', 'workers': 2}
    """
    given = {"workers": workers, "address": address}
    given = {name: value for name, value in given.items() if value is not None}
    if given and executor != "ray":
        name, value = next(iter(given.items()))
        raise ConfigError(
            f"--{name} is {value!r}, and the executor is {executor or 'process'!r}, which has no workers. Add "
            "--executor ray, or leave it out."
        )
    return None if executor is None else {"name": executor, **given}
