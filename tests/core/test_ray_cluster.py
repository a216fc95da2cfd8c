"""Connecting to Ray, without Ray."""

import signal
import types
from typing import Any

import pytest

from fedrl.core import ray_cluster
from fedrl.core.ray_cluster import not_started


@pytest.mark.parametrize(("code", "said"), [(int(signal.SIGTERM), 143), (1, 1)])
def test_a_signal_while_ray_starts_ends_the_process_with_the_code_of_the_signal(code: int, said: int) -> None:
    """The handler that Ray sets then ends the process with the number of the signal alone."""

    def init(address: str, **_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(code)

    ray = types.ModuleType("ray")
    ray.init = init  # type: ignore[attr-defined]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        ray_cluster._start(ray, "auto", None)
    assert left.value.code == said
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("workers", "said"), [(1, "1 worker has not"), (3, "3 workers have not")])
def test_workers_that_do_not_start_are_told_with_the_cpus(workers: int, said: str) -> None:
    ray = types.ModuleType("ray")
    ray.cluster_resources = lambda: {"CPU": 4.0}  # type: ignore[attr-defined]
    ray.available_resources = lambda: {}  # type: ignore[attr-defined]  # Ray leaves out what is used up
    text = not_started(ray, workers, 60.0)
    assert text.startswith(f"{said} started within 60 s. The Ray cluster has 4 CPUs, of which 0 are free")
