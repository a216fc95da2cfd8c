"""Where the settings of a study run at the same time: the cluster of Ray that an executor describes.

This process alone writes `study.json`; workers write the run folders, which all machines have to see.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from fedrl.core.errors import ConfigError
from fedrl.core.processors import VARIABLE
from fedrl.core.ray_cluster import connect, environment_of_workers, imported_ray
from fedrl.engines.executors.placement import Placement
from fedrl.studies.plan import StudyPlan, StudySetting
from fedrl.studies.ray_study import Cluster
from fedrl.studies.surroundings import surroundings_of


@contextmanager
def connected(
    placement: Placement | None, plan: StudyPlan, groups: Sequence[Sequence[StudySetting]]
) -> Iterator[Cluster | None]:
    """Connect to the cluster of a placement for the `with`; None without a placement.

    Args:
        placement: Where the cluster is.
        plan: The plan of the study.
        groups: The settings, in groups with equal programs.

    Raises:
        ConfigError: There is no such cluster, it has too few cores, or the study can't be run in another process.
    """
    if placement is None:
        yield None
        return
    if plan.base.get("executor", "process") != "process":
        raise ConfigError(
            f"executor is {plan.base['executor']!r} in the configuration, and the settings of the study are to run on "
            "Ray, too. Each of them has one core. Leave out one of the two."
        )
    given = surroundings_of(plan)
    # One core each: also an environment of Gymnasium would otherwise be stepped in a process for each core.
    environment = environment_of_workers(placement.env_vars, **{VARIABLE: "1"})
    ray = imported_ray()
    ours = not ray.is_initialized()
    with _ending(ray) if ours else contextlib.nullcontext():
        workers = connect(placement.address, placement.workers)
        yield Cluster(ray, workers, environment, given, groups, ours and placement.address in (None, "local"))


@contextmanager
def _ending(ray: ModuleType) -> Iterator[None]:
    """End the connection with the `with`, and with it a cluster of this machine alone."""
    try:
        yield
    finally:
        ray.shutdown()
