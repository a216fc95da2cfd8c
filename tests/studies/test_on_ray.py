"""A study in worker processes of Ray gives the bits of one process, and goes on after whatever happens to a worker."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fedrl
from fedrl import resume_sweep, sweep
from fedrl.aggregators import mean
from fedrl.core.component import CATALOGUE
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.ray_cluster import connect, imported_ray
from fedrl.records.files import FREE
from fedrl.studies import ray_study

OWN = "fedrl_own_rule_of_a_test"
SOURCE = """
import fedrl
from fedrl.aggregators import mean


@fedrl.component("aggregator")
def rule_of_a_test():
    return mean()
"""
CORRIDOR: dict[str, Any] = {
    "name": "corridor",
    "rounds": 120,
    "seeds": 1,
    "checkpoint_s": 0.2,
    "imports": [OWN],
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8, "learning_rate": 0.5, "epsilon": 0.3},
    "federation": {"agents": 3, "aggregator": "rule_of_a_test"},
    "evaluation": {"episodes": 2, "film": False},
}
GRID = {"learner.epsilon": [0.3, 0.4, 0.5]}
BROKEN = "2-epsilon-0.4"
"""The run folder of a setting that can't be run, since it holds records of something else."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster of two workers on this machine, for all tests of this file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        connect(None, 2)
    yield
    imported_ray().shutdown()
    assert workers_here() == []


@pytest.fixture(scope="module", autouse=True)
def own_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A component in a module that only the working directory of this process has."""
    home, before, known = tmp_path_factory.mktemp("own"), Path.cwd(), dict(CATALOGUE)
    (home / f"{OWN}.py").write_text(SOURCE)
    os.chdir(home)
    path = list(sys.path)
    yield
    os.chdir(before)
    sys.path[:] = path
    sys.modules.pop(OWN, None)
    CATALOGUE.clear()
    CATALOGUE.update(known)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, own_module: None) -> Path:
    """The study in one process."""
    out = tmp_path_factory.mktemp("alone") / "study"
    with_broken(out)
    sweep(CORRIDOR, GRID, out, verbose=0)
    return out


@pytest.fixture(autouse=True)
def ends_with_its_tests() -> Iterator[None]:
    """No study leaves a worker."""
    yield
    end = time.monotonic() + 20
    while workers_here() and time.monotonic() < end:
        time.sleep(0.1)
    assert workers_here() == []


class Idle:
    """An actor that does nothing, with the cores that it has."""

    def here(self) -> bool:
        return True


def with_broken(out: Path) -> None:
    (out / BROKEN).mkdir(parents=True)
    (out / BROKEN / "records.jsonl").write_text("of something else")


def workers_here() -> list[int]:
    """The worker processes of studies below this process."""
    parents, found = {}, []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # it ends at this moment
            _, _, rest = (place / "stat").read_text().rpartition(")")
            parents[int(place.name)] = int(rest.split()[1])
            if b"StudyWorker" in (place / "cmdline").read_bytes():
                found.append(int(place.name))

    def below(process: int) -> bool:
        return process == os.getpid() or (process in parents and below(parents[process]))

    return [process for process in found if below(process)]


def same_results(one: Path, other: Path) -> None:
    """Fail unless two study folders have the same files, and the same results up to times."""
    studies = [json.loads((out / "study.json").read_text()) for out in (one, other)]
    assert [s["state"] for s in studies[0]["settings"]] == [s["state"] for s in studies[1]["settings"]]
    for mine, theirs in zip(studies[0]["settings"], studies[1]["settings"], strict=True):
        assert mine.get("reason", "").replace(str(one), "") == theirs.get("reason", "").replace(str(other), "")
        for key in ("label", "folder", "agents", "rounds", "seed_returns", "final_return", "bytes_up", "bytes_down"):
            assert mine.get(key) == theirs.get(key), key
    names = [sorted(str(path.relative_to(out)) for path in out.rglob("*")) for out in (one, other)]
    assert names[0] == names[1]
    found = list(one.glob("*/params.safetensors"))
    assert len(found) == 2
    for path in found:
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


def at_first_round(act: Callable[[], None]) -> Callable[[Any], None]:
    """A sink that acts once, when a round has ended."""
    left = [act]

    def sink(event: Any) -> None:
        if "event" not in event and left:
            left.pop()()

    return sink


def test_a_study_has_the_bits_and_files_of_one_process_and_its_events_name_their_setting(
    alone: Path, tmp_path: Path
) -> None:
    out, events = tmp_path / "study", list[Any]()
    with_broken(out)
    study = sweep(CORRIDOR, GRID, out, executor={"name": "ray", "workers": 2}, sinks=[events.append], verbose=0)
    same_results(alone, out)
    assert [setting["state"] for setting in study["settings"]] == ["finished", "failed", "finished"]
    assert f"{out / BROKEN} has records.jsonl of a run whose config.toml is gone" in study["settings"][1]["reason"]
    for number in (1, 3):
        rounds = [e["round"] for e in events if "event" not in e and e["setting"] == number]
        assert rounds == list(range(1, 121))
        own = [e["event"] for e in events if e.get("setting", e.get("number")) == number and "event" in e]
        assert (own[0], own[1], own[-2], own[-1]) == ("setting", "start", "end", "setting-end")
    assert [e["event"] for e in events if e.get("number") == 2] == ["setting", "setting-end"]
    assert {e["at_once"] for e in events if e.get("event") == "setting"} == {2}


def test_a_setting_whose_worker_is_killed_is_resumed_to_the_same_bits(alone: Path, tmp_path: Path) -> None:
    def kill() -> None:
        for process in workers_here():
            os.kill(process, signal.SIGKILL)

    out, told = tmp_path / "study", list[Any]()
    with_broken(out)
    sweep(CORRIDOR, GRID, out, executor="ray", sinks=[at_first_round(kill), told.append], verbose=0)
    notices = [event["text"] for event in told if event.get("event") == "notice"]
    assert notices
    assert all("ended during setting" in text and "Ray does not know the signal" in text for text in notices)
    same_results(alone, out)


def test_a_setting_that_ends_its_worker_again_and_again_has_failed_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_study, "RETRIES", 0)

    def kill() -> None:
        os.kill(workers_here()[0], signal.SIGKILL)

    grid = {"learner.epsilon": [0.3, 0.4]}
    out, executor = tmp_path / "study", {"name": "ray", "workers": 1}
    study = sweep(CORRIDOR, grid, out, executor=executor, sinks=[at_first_round(kill)], verbose=0)
    first, second = study["settings"]
    assert (first["state"], second["state"]) == ("failed", "finished")
    assert first["reason"].startswith("The worker process ")
    assert first["reason"].endswith("It was tried 1 times.")


@pytest.mark.parametrize("executor", [None, {"name": "ray", "workers": 1}])
def test_an_interrupted_study_is_resumed_anywhere_to_the_same_bits(
    alone: Path, tmp_path: Path, executor: dict[str, Any] | None
) -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    out = tmp_path / "study"
    with_broken(out)
    study = sweep(CORRIDOR, GRID, out, executor="ray", sinks=[at_first_round(interrupt)], verbose=0)
    states = [setting["state"] for setting in study["settings"]]
    assert "interrupted" in states
    assert not {"running", "finished"} & set(states)
    resumed = resume_sweep(out, executor=executor, verbose=0)
    assert [setting["state"] for setting in resumed["settings"]].count("finished") == 2
    same_results(alone, out)


def test_a_sink_that_fails_ends_its_setting_alone(tmp_path: Path) -> None:
    def sink(event: Any) -> None:
        if event.get("setting") == 1 and event.get("round") == 1:
            raise ConfigError("enough of it")

    grid = {"learner.epsilon": [0.3, 0.4]}
    study = sweep(CORRIDOR, grid, tmp_path / "study", executor="ray", sinks=[sink], verbose=0)
    assert [setting["state"] for setting in study["settings"]] in (["failed", "finished"], ["finished", "finished"])
    assert study["settings"][0].get("reason", "enough of it") == "enough of it"


def test_a_folder_that_workers_do_not_see_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(path: Path, content: bytes, cure: str = FREE) -> None:
        del path, content, cure

    monkeypatch.setattr(ray_study, "write_atomically", nowhere)
    with pytest.raises(RunError, match=r"is not visible on .+ Put it on a file system that they share, with --out"):
        sweep(CORRIDOR, GRID, tmp_path / "study", executor="ray", verbose=0)
    assert not (tmp_path / "study").exists()


def test_a_worker_that_does_not_start_is_told_with_the_state_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = imported_ray()
    busy = ray.remote(num_cpus=2)(Idle).remote()
    ray.get(busy.here.remote())
    monkeypatch.setattr(ray_study, "START_S", 1.0)
    with pytest.raises(
        RunError, match=r"^1 worker has not started within 1 s\. The Ray cluster has \d+ CPUs, of which 0 are free"
    ):
        sweep(CORRIDOR, GRID, tmp_path / "study", executor="ray", verbose=0)
    assert not (tmp_path / "study").exists()
    ray.kill(busy)


def test_a_module_that_workers_can_not_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("fedrl_module_of_one_process")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def rule_of_one_process() -> Any:
        return mean()

    rule_of_one_process.__module__ = module.__name__
    fedrl.component("aggregator")(rule_of_one_process)
    try:
        config = CORRIDOR | {"federation": {"agents": 3, "aggregator": "rule_of_one_process"}}
        with pytest.raises(RunError, match=r"The worker on .+ names the module 'fedrl_module_of_one_process'"):
            sweep(config, {"learner.epsilon": [0.3]}, tmp_path / "study", executor="ray", verbose=0)
    finally:
        del CATALOGUE["aggregator", "rule_of_one_process"]
    assert not (tmp_path / "study").exists()
