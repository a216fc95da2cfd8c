"""Worker processes: the same trajectories, and nothing left behind."""

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from fedrl.core.errors import FedrlError
from fedrl.core.host import HostStep
from fedrl.environments.adapters import vector as module
from fedrl.environments.adapters.vector import open_instances
from tests.support import walks  # noqa: F401  (registers the environments)

COUNT = 5


def opened(id, workers, count=COUNT):
    return open_instances(gym.spec(id), [({}, {}) for _ in range(count)], workers)


def run(instances, steps=30):
    seen = [instances.reset(range(COUNT)).copy()]
    actions = np.random.default_rng(0).integers(2, size=(steps, COUNT))
    for action in actions:
        seen += [array.copy() for array in instances.step(action)]
    return seen


@pytest.fixture
def children(monkeypatch):
    """Processes started by the test."""
    started = []
    start = module._start

    def noting():
        started.append(start())
        return started[-1]

    monkeypatch.setattr(module, "_start", noting)
    return started


def shared_files():
    place = Path("/dev/shm")
    return {path.name for path in place.glob("fedrl-*")} if place.is_dir() else set()


def test_any_number_of_workers_gives_the_same_trajectories(children):
    expected = run(opened("Noisy-v0", 1))
    assert not children
    for workers in (2, 3):
        instances = opened("Noisy-v0", workers)
        for ours, theirs in zip(run(instances), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        instances.close()
    assert len(children) == 5
    terminated = np.array(expected[1 + HostStep._fields.index("terminated") :: len(HostStep._fields)])
    assert 0 < terminated.sum() < terminated.size


def test_there_are_no_more_workers_than_instances(children):
    instances = opened("Walk-v0", 4, count=2)
    assert len(children) == 2
    instances.close()


def test_closing_ends_the_workers_and_leaves_no_file(children):
    before = shared_files()
    instances = opened("Walk-v0", 2)
    instances.close()
    instances.close()
    assert [child.poll() for child in children] == [0, 0]
    assert shared_files() == before


def test_forgotten_instances_end_their_workers(children):
    instances = opened("Walk-v0", 2)
    instances.reset(range(COUNT))
    del instances
    gc.collect()
    assert [child.poll() for child in children] == [0, 0]


def test_an_error_in_a_worker_is_shown_and_ends_them_all(children):
    instances = opened("Broken-v0", 2)
    instances.reset(range(COUNT))
    instances.step(np.zeros(COUNT))
    with pytest.raises(FedrlError, match="the floor is gone"):
        instances.step(np.zeros(COUNT))
    assert all(child.poll() is not None for child in children)


def test_a_killed_worker_is_an_error_and_no_hang(children):
    instances = opened("Walk-v0", 2)
    children[1].kill()
    with pytest.raises(FedrlError, match="exit code -9"):
        instances.reset(range(COUNT))
    assert all(child.poll() is not None for child in children)


def test_workers_end_with_a_parent_that_was_killed():
    script = """
        import os, tests.support.walks, gymnasium as gym
        from fedrl.environments.adapters import vector as module
        started, start = [], module._start
        module._start = lambda: started.append(start()) or started[-1]
        kept = module.open_instances(gym.spec("Walk-v0"), [({}, {})] * 2, 2)
        print(*(child.pid for child in started), flush=True)
        os.kill(os.getpid(), 9)
    """
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,  # the workers hold no end of it: this waits for the parent alone
        timeout=60,
        check=False,
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert (done.returncode, len(pids)) == (-9, 2)
    for pid in pids:
        subprocess.run(["timeout", "20", "tail", "-s", "0.05", "--pid", str(pid), "-f", "/dev/null"], check=True)


def test_an_environment_that_exists_in_a_script_alone_is_stepped_there(children):
    class Own(gym.Env):
        observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return 1, {}

    gym.register("Own-v0", entry_point=Own, max_episode_steps=3)
    np.testing.assert_array_equal(opened("Own-v0", 2).reset(range(COUNT)), np.ones(COUNT))
    assert not children


def test_only_slow_environments_get_workers_by_default(children, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    opened("Walk-v0", None).close()
    assert not children
    monkeypatch.setattr(module, "PAYS_S", 0.0)
    opened("Walk-v0", None).close()
    assert len(children) == 2
