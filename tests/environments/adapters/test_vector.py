"""Worker processes: the same trajectories, and nothing left behind."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.host import HostStep
from fedrl.environments.adapters import gymnasium, processes, worker
from fedrl.environments.adapters import vector as module
from fedrl.environments.adapters.vector import open_instances
from tests.support import failing, walks  # noqa: F401  (registers the environments)

COUNT = 5


def opened(id, workers, count=COUNT):
    return open_instances(gym.spec(id), [({}, {}) for _ in range(count)], workers)


def run(instances, steps=30):
    seen = [instances.reset(range(COUNT)).copy()]
    actions = np.random.default_rng(0).integers(2, size=(steps, COUNT))
    for action in actions:
        seen += [None if part is None else part.copy() for part in instances.step(action)]
    return seen


@pytest.fixture
def children(monkeypatch):
    """Processes started by the test."""
    started = []
    start = processes.start

    def noting(memory):
        started.append(start(memory))
        return started[-1]

    monkeypatch.setattr(processes, "start", noting)
    return started


def shared_files():
    place = Path("/dev/shm")
    return {path.name for path in place.glob("fedrl-*")} if place.is_dir() else set()


def test_any_number_of_workers_gives_the_same_trajectories(children):
    expected = run(opened("Noisy-v0", 0))
    assert not children
    for workers in (1, 2, 3):
        instances = opened("Noisy-v0", workers)
        for ours, theirs in zip(run(instances), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        instances.close()
    assert len(children) == 6
    terminated = np.array(expected[1 + HostStep._fields.index("terminated") :: len(HostStep._fields)])
    assert 0 < terminated.sum() < terminated.size


def test_what_a_worker_process_loads_does_not_load_jax():
    program = f"""
        import importlib.util, sys
        from fedrl.core.pipes import keep_printing
        spec = importlib.util.spec_from_file_location("script", {worker.__file__!r})
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        loaded = [script._sibling(name).__name__.rpartition(".")[2] for name in script.LIGHT]
        print(*loaded, *sorted({{"jax", "jaxlib", "fedrl.environments"}} & set(sys.modules)))
        """
    call = [sys.executable, "-c", textwrap.dedent(program)]
    said = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.split() == list(worker.LIGHT)


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


SHORT = "and that of Box(-9.0, 9.0, (2,), float32) is (2,)"
WRONG = {
    "exception": ("step", "raised ValueError: the floor is gone (failing.py, line 61)"),
    "nothing": (
        "step",
        "returned None, and a step returns five values: observation, reward, terminated, truncated, info",
    ),
    "shape": ("step", f"returned an observation of shape (3,), {SHORT}"),
    "two numbers": ("step", "returned the reward array([1., 1.]), and a reward is one number"),
    "text": ("step", "returned the reward '1', and a reward is one number"),
    "no flag": ("step", "returned terminated = None, and terminated is True or False"),
    "reset of an array": (
        "reset",
        "returned an observation alone, or more values, and a reset returns two values: observation, info",
    ),
}


def failing_ones(fault, workers, at=3, timeout_s=60.0):
    """Five copies of which the third fails."""
    settings = [({"fault": fault, "sick": float(i == 2), "at": at}, {}) for i in range(COUNT)]
    return open_instances(gym.spec("Failing-v0"), settings, workers, {}, timeout_s)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", WRONG)
def test_whatever_goes_wrong_is_named_in_one_sentence(fault, workers):
    doing, said = WRONG[fault]
    instances = failing_ones(fault, workers)
    instances.reset(range(COUNT))
    found = dict(instances.failed)
    active = np.ones(COUNT, bool)
    for _ in range(4):
        active[list(found)] = False
        instances.step(np.zeros(COUNT), active)
        found |= instances.failed
    instances.close()
    assert list(found) == [2]
    assert (found[2].environment, found[2].doing, found[2].said) == ("Failing-v0", doing, said)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reward_that_is_an_array_of_one_number_is_that_number(workers):
    instances = failing_ones("one number", workers, at=1)
    instances.reset(range(COUNT))
    assert instances.step(np.ones(COUNT)).reward.tolist() == [2.0] * COUNT
    assert instances.failed == {}
    instances.close()


def test_a_copy_that_can_not_be_opened_is_named():
    with pytest.raises(ConfigError, match=r"(?s)can't be opened.*in __init__.*OSError: no licence"):
        gymnasium("Failing-v0", options={"fault": "opening"})


def trajectories(instances, after=lambda step: None, steps=25):
    """Rows of all copies but the third, and what failed."""
    shown, failed, active = [instances.reset(range(COUNT))[OTHERS].copy()], {}, np.ones(COUNT, bool)
    for step in range(steps):
        after(step)
        seen = instances.step(np.full(COUNT, step % 2), active)
        failed |= instances.failed
        active[list(failed)] = False
        shown += [seen.observation[OTHERS].copy(), seen.reward[OTHERS].copy()]
    return shown, failed


OTHERS = [0, 1, 3, 4]


@pytest.mark.parametrize("remember_s", [1e-9, 1.0])
def test_copies_beside_one_that_ends_its_process_go_on_where_they_were(children, monkeypatch, remember_s):
    expected, none = trajectories(failing_ones("", 0))
    assert none == {}
    monkeypatch.setattr(processes, "REMEMBER_S", remember_s)
    instances = failing_ones("exit", 1, at=9)
    shown, failed = trajectories(instances)
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {row: failure.said for row, failure in failed.items()} == {2: "ended its process (exit code 3)"}
    assert len(children) == 1
    instances.close()


def test_a_worker_that_is_killed_between_two_steps_is_replaced_and_nothing_is_lost(children):
    expected, _ = trajectories(failing_ones("", 0))
    instances = failing_ones("", 1)

    def kill(step):
        if step == 11:
            children[0].kill()
            children[0].wait()

    shown, failed = trajectories(instances, kill)
    assert failed == {}
    for one, other in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    instances.close()


def test_copies_that_are_not_deterministic_can_not_be_restored_and_that_is_told():
    instances = failing_ones("exit beside chance", 1, at=9)
    _, failed = trajectories(instances)
    assert failed[2].said == "ended its process (exit code 3)"
    for row in OTHERS:
        assert failed[row].said == "was lost with its worker process, which an environment copy beside it ended"
    instances.reset(range(COUNT))
    assert instances.failed == {}
    assert np.isfinite(instances.step(np.zeros(COUNT)).reward).all()
    instances.close()


def test_what_environments_print_does_not_reach_standard_output(capfd):
    instances = failing_ones("print", 1)
    instances.reset(range(COUNT))
    instances.step(np.zeros(COUNT))
    instances.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "hello" in err
    assert "from C" in err


def test_workers_end_with_a_parent_that_was_killed():
    script = """
        import os, tests.support.walks, gymnasium as gym
        from fedrl.environments.adapters import processes, vector
        started, start = [], processes.start
        processes.start = lambda memory: started.append(start(memory)) or started[-1]
        kept = vector.open_instances(gym.spec("Walk-v0"), [({}, {})] * 2, 2)
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


def test_only_slow_environments_get_several_workers_by_default(children, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    opened("Walk-v0", None).close()
    assert len(children) == 1
    monkeypatch.setattr(module, "PAYS_S", 0.0)
    opened("Walk-v0", None).close()
    assert len(children) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_does_not_end_a_worker_that_has_just_started(number):
    with tempfile.TemporaryFile() as file:
        child = processes.start(file.fileno())
        child.send_signal(number)  # before it can ignore it
        try:
            child.stdin.write(pickle.dumps(sys.path))
            assert child.stdout.read(1) == worker.DONE
        finally:
            child.stdin.close()
            child.wait(timeout=60)
            child.stdout.close()
    assert child.returncode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}
