import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.errors import RunError
from fedrl.records.folder import RunFolder
from fedrl.runs.reading import trained
from fedrl.runs.run import resume, run
from tests.support.signals import send
from tests.support.small import TOML, without_times

ROUNDS = 8
METHODS = {"federated", "independent", "centralised", "average_once"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=ROUNDS))
    return path


@pytest.fixture(scope="module")
def events() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def done(config: Path, events: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(config, out, sinks=[events.append])
    return out


@pytest.fixture(scope="module")
def records(done: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (done / "records.jsonl").read_text().splitlines()]


def test_the_folder_is_complete(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    assert names == {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html", "final"}


def test_there_is_a_record_of_every_round_of_every_seed_and_method(records: list[dict[str, Any]]) -> None:
    seen = {(r["method"], r["seed"], r["round"]) for r in records}
    trained_rounds = {(m, s, n) for m in METHODS - {"average_once"} for s in (0, 1) for n in range(1, ROUNDS + 1)}
    assert seen == trained_rounds | {("average_once", s, ROUNDS) for s in (0, 1)}
    assert len(records) == len(seen)


def test_every_method_takes_the_same_number_of_environment_steps(records: list[dict[str, Any]]) -> None:
    last = {r["method"]: r["environment_steps"] for r in records if r["round"] == ROUNDS}
    assert set(last) == METHODS
    assert set(last.values()) == {ROUNDS * 3 * 2 * 8}


def test_greedy_returns_are_recorded_as_often_as_asked(records: list[dict[str, Any]]) -> None:
    evaluated = {r["round"] for r in records if "greedy" in r}
    assert evaluated == {3, 6, ROUNDS}
    assert all(len(r["greedy"]) == 3 for r in records if "greedy" in r)


def test_a_round_without_a_finished_episode_has_no_return(records: list[dict[str, Any]]) -> None:
    for record in records:
        assert (record["return"] is None) == (record["episodes"] == 0)


def test_only_the_federation_sends_anything(records: list[dict[str, Any]]) -> None:
    for record in records:
        if record["method"] in ("independent", "centralised"):
            assert record["bytes_up"] == record["bytes_down"] == 0
            assert record["messages_up"] == record["messages_down"] == 0
        if record["method"] == "federated":
            assert record["bytes_up"] > 0 < record["bytes_down"]
            assert record["messages_up"] == record["messages_down"] == len(record["agents"])


def test_the_summary_says_what_the_records_say(done: Path, records: list[dict[str, Any]]) -> None:
    summary = json.loads((done / "summary.json").read_text())
    federated = [r for r in records if r["method"] == "federated"]
    final = {r["seed"]: r["greedy"] for r in federated if r["round"] == ROUNDS}
    assert [a["return"] for a in summary["agents"]] == pytest.approx(np.mean([final[0], final[1]], axis=0))
    assert [a["env_params"]["slip"] for a in summary["agents"]] == pytest.approx([0.0, 0.1, 0.2])
    assert summary["final_return"]["low"] == pytest.approx(min(np.mean(v) for v in final.values()))
    assert set(summary["baselines"]) == METHODS - {"federated"}
    assert summary["bytes_up"] == sum(r["bytes_up"] for r in federated if r["seed"] == 0)
    assert summary["messages_up"] == summary["messages_down"] == 3 * ROUNDS
    assert summary["environment_steps"] == 3 * 2 * ROUNDS * 48
    assert summary["epsilon"] is None
    assert summary["held_out"]["mean"] is not None
    assert summary["seeds"] == [0, 1]
    assert summary["compile_s"] > 0 < summary["wall_s"]
    assert "jax" in summary["versions"]
    assert any("McMahan" in line for line in summary["citations"])


def test_listeners_hear_the_start_each_round_and_the_end(done: Path, events: list[Any]) -> None:
    kinds = [event.get("event", "round") for event in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("round") == 3 * 2 * ROUNDS + 2
    assert events[0]["environment_steps_per_round"] == 48
    assert events[-1]["folder"] == str(done)


def test_independent_agents_share_the_program_of_the_federation(done: Path, events: list[Any]) -> None:
    assert [event["method"] for event in events if event.get("event") == "compile"] == ["federated", "centralised"]


def test_the_resolved_configuration_reproduces_the_run(done: Path, tmp_path: Path) -> None:
    resolved = tomllib.loads((done / "config.toml").read_text())
    assert resolved["learner"]["gamma"] == 0.99  # a default, filled in
    run(done / "config.toml", tmp_path / "again", overrides=["seeds=1", "baselines={}"])
    first = safetensors.numpy.load_file(done / "params.safetensors")
    again = safetensors.numpy.load_file(tmp_path / "again" / "params.safetensors")
    assert set(again) == {"seed0/q"}
    np.testing.assert_array_equal(again["seed0/q"], first["seed0/q"])


def test_averaging_once_is_the_mean_of_the_independent_agents(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedrl.runs import post_training as afterwards
    from fedrl.runs import session as module
    from fedrl.runs.evaluate import Played

    experiment = build(load(config))
    session = module.Session(experiment, RunFolder(tmp_path), [], module.Timing(0.0))
    held = {"q": np.arange(24, dtype=np.float32).reshape(3, 4, 2).repeat(2, axis=2)}
    monkeypatch.setattr(module, "played", lambda *_: Played(np.zeros((3, 4)), {}))
    (averaged,) = afterwards.averaged(session, [module.SeedResult(0, ROUNDS, held, True, [], [])])
    np.testing.assert_allclose(averaged.params["q"], held["q"].mean(0))
    assert RunFolder(tmp_path).records()[0]["method"] == "average_once"


def test_a_trained_run_can_be_read_back(done: Path) -> None:
    back = trained(done)
    assert set(back.params) == {0, 1}
    assert jax.tree.map(np.shape, back.params[0]) == {"q": (4, 4)}


def test_a_folder_that_holds_a_run_is_not_overwritten(done: Path, config: Path) -> None:
    before = (done / "records.jsonl").read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        run(config, done)
    assert (done / "records.jsonl").read_bytes() == before


def test_a_complete_run_has_nothing_to_resume(done: Path) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        resume(done)


def test_what_is_no_run_folder_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        resume(tmp_path)


def test_an_interrupted_run_is_complete_and_resumes_bit_for_bit(done: Path, config: Path, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if [event.get(name) for name in ("method", "seed", "round")] == ["independent", 0, 2]:  # seeds run side by side
            send()

    out = tmp_path / "stopped"
    summary = run(config, out, sinks=[interrupt])
    assert summary["final_return"]["mean"] is not None
    assert {p.name for p in out.iterdir()} >= {"summary.json", "params.safetensors", "report.html", "checkpoints"}
    resume(out)
    _same(out, done)


def test_a_killed_run_resumes_bit_for_bit(done: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    program = f"from fedrl import run; run({str(config)!r}, {str(out)!r})"
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ)
    lines = out / "records.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and len(lines.read_bytes().splitlines()) >= 4) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    with lines.open("a") as file:
        file.write('{"method": "federated", "seed": 0, "rou')  # what a crash may leave
    resume(out)
    _same(out, done)


def _same(resumed: Path, whole: Path) -> None:
    assert (resumed / "params.safetensors").read_bytes() == (whole / "params.safetensors").read_bytes()
    assert not (resumed / "checkpoints").exists()
    mine, theirs = (
        without_times([json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()])
        for path in (resumed, whole)
    )
    assert mine == theirs
    summaries = [json.loads((path / "summary.json").read_text()) for path in (resumed, whole)]
    for key in ("final_return", "agents", "baselines", "held_out", "environment_steps", "bytes_up"):
        assert summaries[0][key] == summaries[1][key]
