"""Agents in worker processes of Ray, on a cluster of this machine that is started once and ends with these tests."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray as cluster

import fedrl
from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.ray_cluster import connect, environment_of_workers
from fedrl.engines.distributed import ray_workers
from fedrl.engines.distributed.choices import ray
from fedrl.engines.distributed.worker import facts
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from tests.engines.combinations import learner_and_fleet
from tests.support.own_parts import modules_in

TOML = """
name = "corridor"
rounds = {rounds}
seeds = {seeds}
{executor}

[environment]
name = "gridworld"
layout = "S.G"
max_steps = 10

[learner]
name = "{learner}"
num_envs = 2
num_steps = 8

[federation]
agents = 4
block = 1

[evaluation]
film = false
episodes = 2
"""


@pytest.fixture(scope="module", autouse=True)
def session():
    """Ray, started by the first test that needs it."""
    before = processes()
    yield
    ray_workers._shared.clear()
    cluster.shutdown()
    deadline = time.monotonic() + 20
    while processes() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes() - before == set()


def processes() -> set[int]:
    """The processes of Ray below this one."""
    found = set()
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                line, parent = (place / "cmdline").read_bytes(), (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if parent[0] != "Z" and (b"ray::" in line or b"/ray/" in line) and _below(int(place.name)):
                found.add(int(place.name))
    return found


def _below(process: int) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


@pytest.fixture
def config(tmp_path):
    def written(rounds=4, executor="", learner="q_table", seeds=1):
        path = tmp_path / f"of{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(TOML.format(rounds=rounds, executor=executor, learner=learner, seeds=seeds))
        return path

    return written


def bits(result) -> bytes:
    return (result.folder / "params.safetensors").read_bytes()


def ran(config, out, **more):
    return fedrl.run(config, out, verbose=0, **more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The parameters after four rounds in one process."""
    place = tmp_path_factory.mktemp("alone")
    (place / "a.toml").write_text(TOML.format(rounds=4, executor="", learner="q_table", seeds=1))
    return bits(ran(place / "a.toml", place / "run"))


def test_a_run_named_in_a_file_or_in_python_has_the_bits_of_one_process(config, tmp_path, alone):
    named = ran(config(executor='executor = {name = "ray", workers = 2}'), tmp_path / "named")
    given = ran(config(), tmp_path / "given", executor=ray(workers=2))
    assert bits(named) == bits(given) == alone
    for each in (named, given):
        assert "ray" not in (each.folder / "config.toml").read_text()
        assert json.loads((each.folder / "summary.json").read_text()).get("notes", []) == []
    assert ray_workers._shared == {}


def test_seeds_in_threads_have_the_bits_of_one_process(config, tmp_path):
    one = ran(config(seeds=2, rounds=2), tmp_path / "one")
    assert bits(ran(config(seeds=2, rounds=2), tmp_path / "two", executor=ray(workers=2))) == bits(one)


def test_a_worker_that_is_killed_changes_no_bit_and_stands_in_the_notes(config, tmp_path, alone):
    killed = []

    def kill(event):
        if event.get("round") == 2 and "event" not in event and not killed:
            (workers,) = ray_workers._shared.values()
            process = cluster.get(workers.transport._actors[1].facts.remote()).process
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    found = ran(config(), tmp_path / "run", executor=ray(workers=2), sinks=[kill])
    assert len(killed) == 1
    assert bits(found) == alone
    (note,) = json.loads((found.folder / "summary.json").read_text())["notes"]
    assert re.search(r"worker 1 on \S+ ended \(.+\)\. It was started again, and its 2 agents continued", note)


def test_a_worker_with_environments_of_gymnasium_may_be_killed_and_leaves_no_process():
    learner, fleet = learner_and_fleet("gymnasium")
    with simulate(federate(learner, mean()), fleet, executor=ray(workers=2)) as simulation:
        run_state, _ = simulation.round(simulation.init(1))
        (workers,) = ray_workers._shared.values()
        process = cluster.get(workers.transport._actors[0].facts.remote()).process
        found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=True)
        below = [Path("/proc", each) for each in found.stdout.split()]
        os.kill(process, signal.SIGKILL)
        run_state, seen = simulation.round(run_state)
        assert [(death.worker, death.agents) for death in seen.deaths] == [(0, 3)]
        assert (seen.steps > 0).all()
    deadline = time.monotonic() + 20
    while any(each.exists() for each in below) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(below) == 1
    assert not below[0].exists()


@pytest.mark.parametrize("first", [None, ray(workers=2)], ids=["begun in one process", "begun on workers"])
def test_a_run_is_resumed_wherever_it_was_begun(first, config, tmp_path, alone):
    second = ray(workers=2) if first is None else "process"
    ended = threading.Event()

    def stop(event):
        if event.get("round") == 2:
            ended.set()

    begun = ran(config(), tmp_path / "run", executor=first, stop=ended, sinks=[stop])
    assert len((begun.folder / "records.jsonl").read_text().splitlines()) == 2
    assert bits(fedrl.resume(tmp_path / "run", executor=second, verbose=0)) == alone


OWN = """
import sys
from pathlib import Path

import fedrl
from fedrl.core import ray_cluster
from fedrl.engines.distributed.choices import ray

place, folders = Path(sys.argv[1]), ray_cluster.own_folders
ray_cluster.own_folders = lambda path=None: [each for each in folders(path) if each != str(place)]
sys.path.insert(0, str(place))
ends = []
for out, executor in (("one", None), ("other", ray(workers=2))):
    found = fedrl.run(place / "own.toml", place / out, executor=executor, verbose=0)
    ends.append((found.folder / "params.safetensors").read_bytes())
assert ends[0] == ends[1]
print("equal")
"""


def test_modules_of_ones_own_reach_workers_that_do_not_look_in_their_folder(config, tmp_path):
    """In a process of its own, without the checks of types around the functions that are sent."""
    with modules_in(tmp_path, "ray"):
        text = config(rounds=2, learner="mypartsray:learner").read_text()
        (tmp_path / "own.toml").write_text(text.replace("num_envs = 2\nnum_steps = 8\n", ""))
        (tmp_path / "script.py").write_text(OWN)
        told = subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert told.stdout == "equal\n", told.stderr[-2000:]


def test_variables_reach_workers_and_a_missing_one_is_refused(monkeypatch):
    monkeypatch.setenv("OF_A_TEST", "told")
    monkeypatch.delenv("NOT_THERE", raising=False)
    assert environment_of_workers(("OF_A_TEST",))["OF_A_TEST"] == "told"
    connect(None, 2)

    monkeypatch.setenv("SECRET_OF_A_TEST", "kept")
    transport = ray_workers.RayTransport(1, ("OF_A_TEST",))
    try:
        process = cluster.get(transport._actors[0].facts.remote()).process
        there = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        assert b"OF_A_TEST=told" in there
        assert not any(each.startswith(b"SECRET_OF_A_TEST") for each in there)
    finally:
        transport.close()
    with pytest.raises(ConfigError, match=r"^executor.env_vars names 'NOT_THERE', and this process has no such"):
        ray_workers.ray_workers(None, 2, ("NOT_THERE",))


def test_more_workers_than_cores_of_the_cluster_are_refused():
    there = connect(None, 2)
    with pytest.raises(ConfigError, match=rf"number of workers is {there + 90}, and the Ray cluster has \d+ CPU"):
        connect(None, there + 90)


@pytest.mark.parametrize("address", ["somewhere", "http://host:80", ":6379", "host:", "host:port"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="It needs to be 'auto', or the host and port"):
        connect(address)


def test_an_address_where_nothing_listens_and_another_cluster_are_refused():
    connect(None, 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match="this process is connected to another one"):
            connect(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="nothing answers there"):
        connect(f"127.0.0.1:{port}")
    assert connect(cluster.get_runtime_context().gcs_address, 2) == 2


def test_everything_that_listens_is_on_the_loopback_interface():
    connect(None, 2)
    own = processes() | {os.getpid()}
    inodes = {os.readlink(file) for process in own for file in _files(process)}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1].partition(":")[0])
    assert len(listening) > 3
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert set(listening) <= loopback


def _files(process: int) -> list[Path]:
    try:
        return [each for each in Path(f"/proc/{process}/fd").iterdir() if each.is_symlink()]
    except OSError:
        return []


def test_a_worker_with_another_version_or_processor_is_refused(monkeypatch):
    connect(None, 2)
    here = facts()
    for other, match in (
        (here._replace(versions=here.versions | {"jax": "0.0.1"}), r"has jax .*, and this process 0\.0\.1"),
        (here._replace(processor="abacus"), r"The processor of .* and here it is abacus"),
    ):
        monkeypatch.setattr(ray_workers, "facts", lambda other=other: other)
        with pytest.raises(ConfigError, match=match):
            ray_workers.ray_workers(None, 2)
    assert ray_workers._shared == {}


def test_workers_that_do_not_start_in_time_are_told_with_the_cores(monkeypatch):
    connect(None, 2)
    monkeypatch.setattr(ray_workers, "START_S", 0.01)
    with pytest.raises(RunError, match=r"^2 workers have not started within 0\.01 s\. The Ray cluster has \d+ CPUs"):
        ray_workers.ray_workers(None, 2)
    assert ray_workers._shared == {}


def test_without_ray_there_is_one_sentence_and_no_folder(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed. Install it with: pip install 'fedrl\[ray\]'"):
        ran(config(), tmp_path / "run", executor="ray")
    assert not (tmp_path / "run").exists()
    script = "import sys; sys.modules['ray'] = None; from fedrl.cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", script, "run", str(config()), "--out", str(tmp_path / "run"), "--executor", "ray"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert told.returncode == 2
    assert "Ray is not installed" in told.stderr
    assert not (tmp_path / "run").exists()
