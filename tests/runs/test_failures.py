"""What fails ends what it must and nothing more: rounds that are through are kept, told of, and gone on from."""

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

import fedrl.runs.run as module
from fedrl.core.errors import ConfigError, RunError
from fedrl.records.lock import hold
from fedrl.report import write_report
from fedrl.report.run import read_run
from fedrl.runs.reading import trained
from fedrl.runs.run import resume, run
from fedrl.studies import resume_sweep, sweep
from tests.support.small import TOML, without_times

ROUNDS = 6
ALONE = "baselines={}"
LEAVING = "federation.clock={name='clock', availability_trace=[[0,0,3.5],[1,0,3.5],[2,0,3.5]]}"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=ROUNDS))
    return path


@pytest.fixture(scope="module")
def done(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(config, out, overrides=[ALONE])
    return out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the rounds of a run fail after so many of them, both seeds counted."""
    real = module.simulations

    def after(rounds: int) -> None:
        left, lock = [rounds], threading.Lock()

        def simulations(*arguments: Any) -> list[Any]:
            def failing_round(simulation: Any, *a: Any, **k: Any) -> Any:
                with lock:
                    left[0] -= 1
                    fails = left[0] == -1
                made = simulation.round(*a, **k)  # what it begins with may not survive this
                if fails:
                    raise MemoryError("no more memory")
                return made

            return [
                dataclasses.replace(s, round=lambda *a, s=s, **k: failing_round(s, *a, **k)) for s in real(*arguments)
            ]

        monkeypatch.setattr(module, "simulations", simulations)

    return after


def _records(out: Path) -> list[dict[str, Any]]:
    return without_times([json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()])


@pytest.mark.parametrize("clock", [[], ["federation.clock={name='clock', jitter=0.3, drop_out=0.2}"]])
def test_a_round_that_fails_ends_the_run_with_all_that_was_done(
    config: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, clock: list[str]
) -> None:
    out, done, heard = tmp_path / "failed", tmp_path / "whole", []
    chosen = [ALONE, *clock]
    run(config, done, overrides=chosen)
    failing(5)
    with pytest.raises(MemoryError, match="no more memory") as caught:
        run(config, out, overrides=[*chosen, "checkpoint_s=1000"], sinks=[heard.append])
    (note,) = caught.value.__notes__
    assert note == f"The rounds before that are kept, with their summary, parameters and report, in {out}."
    names = {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html", "checkpoints"}
    assert {path.name for path in out.iterdir()} == names
    assert heard[-1]["event"] == "end"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["failure"] == "MemoryError: no more memory"
    assert summary["final_return"]["mean"] is not None
    assert "This run was ended by an error: MemoryError: no more memory" in read_run(out).notes
    last = max(r["round"] for r in _records(out) if r["seed"] == 0)
    monkeypatch.undo()
    run(config, tmp_path / "short", overrides=[*chosen, f"rounds={last}", "seeds=1"])
    short, mine = (safetensors.numpy.load_file(p / "params.safetensors") for p in (tmp_path / "short", out))
    assert (mine["seed0/q"] == short["seed0/q"]).all()
    resume(out)
    assert (out / "params.safetensors").read_bytes() == (done / "params.safetensors").read_bytes()
    assert _records(out) == _records(done)
    assert "failure" not in json.loads((out / "summary.json").read_text())


def test_a_failure_before_the_first_round_does_not_block_the_next_try(
    config: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    failing(0)
    with pytest.raises(MemoryError):
        run(config, out, overrides=[ALONE, "seeds=1"])
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="tensorboardX is not installed"):
        run(config, out, overrides=[ALONE, "tensorboard=true"])
    assert not out.exists()
    assert run(config, out, overrides=[ALONE, "seeds=1", "rounds=1"])["seeds"] == [0]


def test_a_clock_that_runs_dry_leaves_the_rounds_before(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "dry"
    for go in (
        lambda: run(config, out, overrides=[ALONE, LEAVING, "seeds=1", "checkpoint_s=1000"]),
        lambda: resume(out),
    ):
        with pytest.raises(
            ConfigError, match=r"every agent has left for good\. .* The rounds before that are kept"
        ) as told:
            go()
        summary = json.loads((out / "summary.json").read_text())
        assert str(told.value).startswith(summary["failure"])
        assert [r["round"] for r in _records(out)] == [1, 2, 3, 4]
        assert (out / "report.html").exists()
        assert set(trained(out).params) == {0}


def test_two_processes_do_not_go_on_with_one_run_and_readers_are_not_kept_out(
    config: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    failing(2)
    with pytest.raises(MemoryError):
        run(config, out, overrides=[ALONE, "seeds=1"])
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    held = hold(out)
    with pytest.raises(RunError, match=f"^{out} is in use by process {os.getpid()} on "):
        resume(out)
    with pytest.raises(RunError, match="is in use by process"):
        run(config, out)
    assert {path: path.read_bytes() for path in before} == before
    write_report([out], out / "report.html")
    assert set(trained(out).params) == {0}
    assert (out / ".lock").exists()
    held.release()
    resume(out)
    assert not (out / ".lock").exists()


def test_rounds_that_two_processes_wrote_count_once_and_damage_is_told(
    config: Path, done: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    failing(8)
    with pytest.raises(MemoryError):
        run(config, out, overrides=[ALONE])
    monkeypatch.undo()
    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join([*lines[:4], "garbage\n", *lines]))
    told = ["1 line of records.jsonl could not be read; left out."]
    assert read_run(out).notes[:1] == told
    summary = resume(out)
    assert summary["bytes_up"] == json.loads((done / "summary.json").read_text())["bytes_up"]
    assert _records(out) == _records(done)
    told.append(
        "4 lines of records.jsonl left out: a later line is about the same round, as when two processes wrote to one "
        "folder."
    )
    assert summary["notes"] == told == read_run(out).notes
    assert told[1] in (out / "report.html").read_text()


GRID = {"federation.clock.availability_trace": [[[0, 0, 1.5], [1, 0, 1.5], [2, 0, 1.5]], [[0, 0, 1e9]]]}
STUDY = [ALONE, "seeds=1", "rounds=3", "federation.clock={name='clock'}"]


def test_a_setting_that_fails_does_not_keep_the_others_from_running(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    for go in (lambda: sweep(config, GRID, out, overrides=STUDY), lambda: resume_sweep(out)):
        study = go()
        failed, finished = study["settings"]
        assert (failed["state"], finished["state"]) == ("failed", "finished")
        assert "every agent has left for good" in failed["reason"]
        assert failed["rounds"] == 2
        assert not study["complete"]
        assert study == json.loads((out / "study.json").read_text())
        page = (out / "report.html").read_text()
        assert "Setting 1 failed: At 1.5 s on the virtual clock every agent has left for good." in page
    held = hold(out, "study")
    with pytest.raises(RunError, match=r"is in use by process .* that write one study"):
        resume_sweep(out)
    held.release()


def test_a_setting_that_never_gets_through_a_round_is_tried_again(
    config: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    failing(0)
    study = sweep(config, {"rounds": [1, 2]}, out, overrides=[ALONE, "seeds=1"])
    assert [setting["state"] for setting in study["settings"]] == ["failed", "finished"]
    assert study["settings"][0]["reason"] == "MemoryError: no more memory"
    assert not (out / study["settings"][0]["folder"]).exists()
    monkeypatch.undo()
    study = resume_sweep(out)
    assert study["complete"]
    assert "reason" not in study["settings"][0]
