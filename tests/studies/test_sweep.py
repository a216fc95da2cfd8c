"""A study runs every setting as a run of its own, shares programs among them, and can be interrupted anywhere."""

import json
import signal
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from fedrl import resume_sweep, run, sweep
from fedrl.core.errors import ConfigError, RunError, UnsoundError
from fedrl.studies import folder
from fedrl.studies.plan import plan_of, running_order
from tests.support.small import without_times

CORRIDOR: dict[str, Any] = {
    "name": "corridor",
    "rounds": 3,
    "seeds": 2,
    "checkpoint_s": 0,
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "fleet": {"slip": {"range": [0.0, 0.2]}},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8, "learning_rate": 0.5, "epsilon": 0.3},
    "federation": {"agents": 3, "stages": [{"name": "quantize", "bits": 8}]},
    "evaluation": {"episodes": 4, "every": 1},
}
GRID = {"federation.agents": [9, 12], "learner.num_steps": [8, 4]}


def interrupted() -> None:
    """Ctrl-C, heard before this returns: handlers run in the main thread, and events of rounds come from others."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(1.0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nobody interrupted."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    sweep(CORRIDOR, GRID, out, target=0.5)
    return out


@pytest.fixture(scope="module")
def study(done: Path) -> dict[str, Any]:
    return json.loads((done / "study.json").read_text())


def test_every_setting_is_a_complete_run_in_the_order_of_the_product(done: Path, study: dict[str, Any]) -> None:
    assert study["complete"]
    assert [tuple(s["values"].values()) for s in study["settings"]] == [(9, 8), (9, 4), (12, 8), (12, 4)]
    for setting in study["settings"]:
        names = {path.name for path in (done / setting["folder"]).iterdir()}
        assert names == {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html"}
        config = tomllib.loads((done / setting["folder"] / "config.toml").read_text())
        assert config["federation"]["agents"] == setting["values"]["federation.agents"] == setting["agents"]
        assert config["learner"]["num_steps"] == setting["values"]["learner.num_steps"]
        assert config["name"] == f"corridor, {setting['label']}"


def test_a_setting_is_the_run_of_its_configuration_bit_for_bit(
    done: Path, study: dict[str, Any], tmp_path: Path
) -> None:
    run(CORRIDOR, tmp_path / "alone", overrides=["federation.agents=12", "learner.num_steps=4"])
    within = done / study["settings"][3]["folder"]
    name = "params.safetensors"
    assert (tmp_path / "alone" / name).read_bytes() == (within / name).read_bytes()


def test_the_study_says_what_its_runs_say(done: Path, study: dict[str, Any]) -> None:
    for setting in study["settings"]:
        summary = json.loads((done / setting["folder"] / "summary.json").read_text())
        assert setting["final_return"] == summary["final_return"]
        assert setting["bytes_up"] == summary["bytes_up"]
        assert setting["model_bytes"] == summary["model_bytes"] == 4 * 4 * 4  # cells, actions, bytes of a float32
        assert setting["cost_bytes"] == 3 * setting["agents"] * setting["model_bytes"]
        assert len(setting["seed_returns"]) == 2
        assert setting["target"]["measure"] == "greedy"


def test_each_distinct_program_is_compiled_once(tmp_path: Path) -> None:
    grid = {"federation.agents": [9, 12, 23], "learner.num_steps": [5, 6], "fleet_seed": [0, 1]}
    found = sweep(CORRIDOR, grid, tmp_path / "study")
    for name in ("init", "init_server", "commit_mean"):
        assert sum(setting["programs"].get(name, 0) for setting in found["settings"]) == 2  # one for each table
    devices = 2
    for name in ("block", "play"):  # of training, of evaluation
        assert sum(setting["programs"].get(name, 0) for setting in found["settings"]) == 2 * devices
    blocks = {setting["label"]: setting["programs"].get("block", 0) for setting in found["settings"]}
    assert sum(bool(count) for count in blocks.values()) == 2


def test_settings_that_differ_in_numbers_of_the_learner_compile_as_many_programs_as_one(tmp_path: Path) -> None:
    learner = CORRIDOR["learner"] | {"num_steps": 7}  # a program that no other test has compiled
    rates = {"learner.learning_rate": [0.1 * i for i in range(1, 9)]}
    found = sweep(CORRIDOR | {"seeds": 1, "learner": learner}, rates, tmp_path / "study")
    first, *others = (setting["programs"] for setting in found["settings"])
    assert first["block"] > 0
    assert first["play"] > 0
    assert not any(others)
    learned = [safetensors.numpy.load_file(file) for file in (tmp_path / "study").glob("*/params.safetensors")]
    assert len({params["seed0/q"].tobytes() for params in learned}) == 8


def test_settings_that_share_programs_run_side_by_side() -> None:
    order = running_order(plan_of(CORRIDOR, GRID))
    assert [setting.values["learner.num_steps"] for setting in order] == [8, 8, 4, 4]


@pytest.mark.parametrize("moment", ["setting", "round", "end"])
def test_an_interrupted_study_is_readable_and_resumes_bit_for_bit(done: Path, tmp_path: Path, moment: str) -> None:
    seen: list[Any] = []

    def interrupt(event: Any) -> None:
        seen.append(event)
        settings = sum(e.get("event") == "setting" for e in seen)
        if settings == 2 and (event.get("event") == moment or (moment == "round" and event.get("round") == 2)):
            seen.clear()
            interrupted()

    out = tmp_path / "stopped"
    study = sweep(CORRIDOR, GRID, out, target=0.5, sinks=[interrupt])
    states = [setting["state"] for setting in study["settings"]]
    assert not study["complete"]
    assert states.count("finished") == (2 if moment == "end" else 1)
    assert study == json.loads((out / "study.json").read_text())
    untouched = out / study["settings"][0]["folder"] / "summary.json"
    before = untouched.stat().st_mtime_ns
    again: list[Any] = []
    resumed = resume_sweep(out, sinks=[again.append])
    assert untouched.stat().st_mtime_ns == before
    assert [e["number"] for e in again if e.get("event") == "setting"] == ([2, 4] if moment == "end" else [3, 2, 4])
    assert resumed["complete"]
    for setting in resumed["settings"]:
        mine, theirs = out / setting["folder"], done / setting["folder"]
        assert (mine / "params.safetensors").read_bytes() == (theirs / "params.safetensors").read_bytes()
        records = [[json.loads(x) for x in (p / "records.jsonl").read_text().splitlines()] for p in (mine, theirs)]
        assert without_times(records[0]) == without_times(records[1])


def test_what_was_compiled_before_an_interruption_still_counts_after_it(tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event.get("round") == 2:
            interrupted()

    fresh = {**CORRIDOR, "seeds": 1, "learner": {**CORRIDOR["learner"], "num_steps": 9}}
    before = sweep(fresh, {"federation.agents": [9]}, tmp_path / "study", sinks=[interrupt])
    compiled = before["settings"][0]["programs"]["block"]
    after = resume_sweep(tmp_path / "study")
    assert not before["complete"]
    assert after["complete"]
    assert after["settings"][0]["programs"]["block"] == compiled > 0


def test_a_complete_study_has_nothing_to_resume_and_is_not_overwritten(done: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        resume_sweep(done)
    with pytest.raises(RunError, match="already holds a study"):
        sweep(CORRIDOR, GRID, done)
    with pytest.raises(RunError, match="is not a study folder"):
        resume_sweep(tmp_path)


def test_the_written_plan_is_the_same_study_again(done: Path) -> None:
    again, first = plan_of(done / "study.toml"), folder.open_folder(done).plan
    assert again == first
    assert again.grid == GRID
    assert again.target == 0.5
    fewer = plan_of(done / "study.toml", {"federation.agents": [4]}, ["rounds=2"], target=0.7)
    assert fewer.grid == {"federation.agents": [4], "learner.num_steps": [8, 4]}
    assert (fewer.base["rounds"], fewer.target) == (2, 0.7)


def test_any_key_can_be_varied_also_a_parameter_of_a_stage(tmp_path: Path) -> None:
    found = sweep(CORRIDOR, {"federation.stages.quantize.bits": [4, 8], "seeds": [1]}, tmp_path / "study")
    assert [setting["label"] for setting in found["settings"]] == ["bits 4, seeds 1", "bits 8, seeds 1"]
    assert found["settings"][0]["bytes_up"] < found["settings"][1]["bytes_up"]


@pytest.mark.parametrize(
    ("grid", "error", "words"),
    [
        ({"learner.clp": [1, 2]}, ConfigError, "Setting 1 (clp 1): learner.clp is 1, but q_table has no parameter"),
        (
            {"federation.agents": [3, 0]},
            ConfigError,
            "Setting 2 (agents 0): federation.agents is 0. It needs to be a whole number, 1 or more",
        ),
        ({"federation.stages.1.bits": [3]}, ConfigError, "federation.stages has no entry 1; its entries are quantize"),
        ({"rounds.x": [3]}, ConfigError, "--grid rounds.x: rounds is 3, not a table"),
        ({"federation.stages": [["quantize", "quantize", {"name": "top_k", "fraction": 2.0}]]}, ConfigError, "top_k"),
        ({}, ConfigError, "There is no grid"),
    ],
)
def test_a_wrong_setting_is_named_before_any_runs(
    tmp_path: Path, grid: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises((error, UnsoundError)) as caught:
        sweep(CORRIDOR, grid, tmp_path / "study")
    assert words in str(caught.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("section", "words"),
    [({"gird": {}}, "Did you mean 'grid'?"), (3, "study is 3"), ({"grid": [1]}, "study.grid"), ({"target": "x"}, "")],
)
def test_a_wrong_section_is_named(section: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of({**CORRIDOR, "study": section}, {"rounds": [1]})
    assert words in str(caught.value)
