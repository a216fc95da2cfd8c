"""What workers of a study are told and tell, without starting any."""

import sys
import threading
import types
from pathlib import Path
from typing import Any

import optax
import pytest

import fedrl
from fedrl import sweep
from fedrl.aggregators import mean
from fedrl.cli.executor import executor_of
from fedrl.config.build import placement_of
from fedrl.core.component import CATALOGUE
from fedrl.core.errors import ConfigError
from fedrl.core.imports import importing
from fedrl.studies import one_setting
from fedrl.studies.folder import StudyFolder
from fedrl.studies.plan import plan_of, program_groups
from fedrl.studies.ray_study import Cluster, _RayStudy, _Worker
from fedrl.studies.ray_worker import News, Prepared, ProbeFile, StudyWorker
from fedrl.studies.surroundings import Surroundings, surroundings_of

CORRIDOR: dict[str, Any] = {
    "name": "corridor",
    "rounds": 2,
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8, "learning_rate": 0.5, "epsilon": 0.3},
    "federation": {"agents": 3},
}
GRID = {"learner.epsilon": [0.3, 0.4]}


def test_a_worker_goes_on_with_programs_that_it_has_and_takes_new_ones_before_those_of_others(tmp_path: Path) -> None:
    plan = plan_of(CORRIDOR, {"learner.num_steps": [8, 4, 2], "learner.epsilon": [0.3, 0.4]})
    groups = program_groups(plan)
    assert [[setting.number for setting in group] for group in groups] == [[1, 2], [3, 4], [5, 6]]
    given = Surroundings(str(tmp_path), (), (), (), True)
    cluster = Cluster(types.ModuleType("ray"), 2, {}, given, groups, True)
    of = {each.number: i for i, group in enumerate(groups) for each in group}
    waiting = [setting for group in groups for setting in group]
    place, stop = StudyFolder(tmp_path, plan), threading.Event()
    study = _RayStudy(cluster, place, lambda setting: None, lambda event: None, stop, of, ProbeFile("", ""), waiting)
    one, other = (_Worker(None, None, 0.0, Prepared("host", 1, {})) for _ in range(2))
    study.workers += [one, other]
    order = []
    for worker in (one, other, one, other, other, one):
        setting = study._next_for(worker)
        study.waiting.remove(setting)
        worker.groups.add(of[setting.number])
        order.append(setting.number)
    assert order == [1, 3, 2, 4, 5, 6]
    study.waiting[:] = waiting = [setting for group in groups for setting in group]
    study.deaths[1] = 1  # its process was killed: it comes last
    assert study._next_for(one).number == 2
    study.waiting[:] = waiting[:1]
    assert study._next_for(one).number == 1


def test_an_object_of_this_process_is_refused_with_its_key() -> None:
    learner = {"name": "ppo", "optimizer": optax.adam(0.1)}
    config = {"name": "x", "environment": "cartpole", "learner": learner, "federation": {"agents": 2}}
    with pytest.raises(
        ConfigError, match=r"^learner\.optimizer\.name is '__main__:.+Put it into a module, and name it"
    ):
        surroundings_of(plan_of(config, {"rounds": [1]}))


def test_what_a_script_defines_is_refused_with_its_key() -> None:
    def rule_of_a_script() -> Any:
        return mean()

    rule_of_a_script.__module__ = "__main__"
    fedrl.component("aggregator")(rule_of_a_script)
    try:
        config = CORRIDOR | {"imports": [], "federation": {"agents": 3, "aggregator": {"name": "rule_of_a_script"}}}
        with pytest.raises(
            ConfigError, match=r"^federation\.aggregator\.name is 'rule_of_a_script', which the running"
        ):
            surroundings_of(plan_of(config, {"rounds": [1]}))
    finally:
        del CATALOGUE["aggregator", "rule_of_a_script"]


def test_without_ray_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed\. Install it with: pip install"):
        sweep(CORRIDOR, GRID, tmp_path / "study", executor="ray", verbose=0)
    assert not (tmp_path / "study").exists()
    with pytest.raises(ConfigError, match="no known executor"):
        sweep(CORRIDOR, GRID, tmp_path / "study", executor="rays", verbose=0)


def test_an_error_of_any_class_reaches_the_study_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnError(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("not to be pickled")

    def fails(source: Any, out: Any = None, **options: Any) -> Any:
        raise OwnError("of my own")

    monkeypatch.setattr(one_setting, "run", fails)
    worker = StudyWorker()
    worker.begin(7, CORRIDOR, str(tmp_path / "run"))
    found: list[News] = [worker.news() for _ in range(1)]
    while found[-1].ended is None:
        found.append(worker.news())
    outcome = found[-1].ended
    assert (outcome.number, outcome.reason) == (7, "OwnError: of my own")
    assert "raise OwnError" in outcome.traceback


def test_a_request_to_stop_counts_also_if_it_overtakes_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(source: Any, out: Any = None, *, stop: threading.Event, **options: Any) -> Any:
        assert stop.is_set()

    monkeypatch.setattr(one_setting, "run", stopped)
    worker = StudyWorker()
    worker.stop()
    worker.begin(1, CORRIDOR, "never-made")
    found = worker.news()
    while found.ended is None:
        found = worker.news()
    assert found.ended.reason is None


def test_a_request_to_stop_a_setting_stops_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def runs(source: Any, out: Any = None, *, stop: threading.Event, **options: Any) -> Any:
        seen.append(stop.wait(1.0 if not seen else 0.2))

    monkeypatch.setattr(one_setting, "run", runs)
    worker = StudyWorker()
    for number in (1, 2):
        worker.begin(number, CORRIDOR, "never-made")
        worker.stop(1)
        while worker.news().ended is None:
            pass
    assert seen == [True, False]


def test_a_worker_that_has_no_thread_for_a_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    worker = StudyWorker()
    worker.begin(3, CORRIDOR, "never-made")
    ended = worker.news().ended
    assert ended is not None
    assert (ended.number, ended.reason) == (3, "The worker can't start a thread (can't start new thread).")


def test_a_worker_looks_for_the_folders_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedrl.studies.ray_worker.VISIBLE_S", 0.0)
    given = Surroundings(str(tmp_path), (), (), (), True)
    (tmp_path / "probe").write_text("content")
    assert (
        StudyWorker().set_up(given, ProbeFile("probe", "other")).fault.startswith(f"The study folder {tmp_path} is not")
    )
    elsewhere = given._replace(folder=str(tmp_path / "gone"))
    assert "The working directory" in StudyWorker().set_up(elsewhere, ProbeFile("probe", "content")).fault


def test_consent_goes_with_the_study() -> None:
    plan = plan_of(CORRIDOR, GRID)
    assert surroundings_of(plan).trust
    with importing(False):
        assert not surroundings_of(plan).trust


def test_options_of_the_command_line_describe_an_executor_or_are_refused() -> None:
    assert executor_of(None, None, None) is None
    assert executor_of("ray", 2, None) == {"name": "ray", "workers": 2}
    with pytest.raises(ConfigError, match=r"--workers is 2, and the executor is 'process', which has no workers"):
        executor_of(None, 2, None)
    with pytest.raises(ConfigError, match="workers is 0"):
        placement_of({"name": "ray", "workers": 0})
    with (
        pytest.raises(ConfigError, match="Each of them has one core"),
        fedrl.studies.on_ray.connected(placement_of("ray"), plan_of(CORRIDOR | {"executor": "ray"}, GRID), []),
    ):
        pass
