"""What fails ends what it must and nothing more: rounds that are through are kept, told of, and gone on from."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from rich.console import Console

import fedrl.runs.run as module
from fedrl.core.errors import ConfigError, RunError
from fedrl.engines import round_log
from fedrl.records.lock import hold
from fedrl.records.notices import notices_of
from fedrl.report import write_report
from fedrl.report.run import read_run
from fedrl.runs.reading import trained
from fedrl.runs.run import resume, run
from fedrl.sinks.final_summary import final_summary
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


def test_a_run_whose_agents_all_leave_ends_with_all_that_was_done_and_the_reason(config: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "dry", tmp_path / "short"
    run(config, out, overrides=[LEAVING, "checkpoint_s=1000", "evaluation.fine_tune=1"])
    names = {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html"}
    assert {path.name for path in out.iterdir()} - {"film.gif", "final"} == names
    summary = json.loads((out / "summary.json").read_text())
    assert [(each["seed"], each["round"]) for each in summary["ended"]] == [(0, 4), (1, 4)]
    reason = summary["ended"][0]["reason"]
    assert reason.startswith("At 3.5 s on the virtual clock every agent has left for good. ")
    assert "failure" not in summary
    assert {r["round"] for r in _records(out) if r["method"] == "federated"} == {1, 2, 3, 4}
    assert {r["round"] for r in _records(out) if r["method"] == "independent"} == set(range(1, ROUNDS + 1))
    assert set(summary["baselines"]) == {"independent", "average_once", "centralised", "fine_tuned"}
    told = f"Seed 0 ended after round 4 of {ROUNDS}: {reason}"
    read = read_run(out)
    assert read.notices[0] == told
    assert not any("interrupted" in note for note in read.notes)
    assert told in (out / "report.html").read_text()
    run(config, short, overrides=[LEAVING, ALONE, "rounds=4"])
    mine, theirs = (safetensors.numpy.load_file(place / "params.safetensors") for place in (out, short))
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)
    with pytest.raises(RunError, match="nothing to resume"):
        resume(out)


NEVER = [
    ("availability_trace=[[0,1e300,2e300],[1,1e300,2e300],[2,1e300,2e300]]", "every agent has left for good"),
    ("step_s=[1.0,1.0,1e300]", "agent 2 is endlessly slow (its update would arrive after 1e+15 s)"),
    ("latency_s=[1e300,0.0,1e300], duplicate=0.5", "agents 0 and 2 are endlessly slow"),
    ("step_s=1e300, online_s=1e280, offline_s=1e280", "every agent is endlessly slow"),
]


@pytest.mark.parametrize(("clock", "reason"), NEVER)
@pytest.mark.parametrize("baselines", ["baselines={}", "baselines={independent=true}"])
def test_a_run_that_never_gets_an_update_has_a_complete_folder_and_the_reason(
    config: Path, tmp_path: Path, clock: str, reason: str, baselines: str
) -> None:
    out, heard = tmp_path / "run", []
    changes = [f"federation.clock={{name='clock', {clock}}}", baselines, "seeds=1"]
    summary = run(config, out, overrides=changes, sinks=[heard.append])
    names = {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html"}
    assert {path.name for path in out.iterdir()} - {"film.gif", "final"} == names
    (ended,) = summary["ended"]
    assert (ended["seed"], ended["round"]) == (0, 0)
    assert reason in ended["reason"]
    assert summary["final_return"]["mean"] is None
    (notice,) = [line for line in notices_of(summary) if reason in line]
    assert notice.startswith("Seed 0 ended before its first round, so it has no result: ")
    page = (out / "report.html").read_text()
    assert notice in page
    assert "interrupted" not in page.split("<script")[0]
    console = Console(file=io.StringIO(), width=400)
    console.print(final_summary(heard[-1]))
    assert notice in console.file.getvalue()  # type: ignore[attr-defined]
    assert "Interrupted" not in console.file.getvalue()  # type: ignore[attr-defined]
    if baselines != "baselines={}":
        assert summary["baselines"]["independent"]["mean"] is not None


@pytest.mark.parametrize("clock", ["restart=0.9999999999", "drop_out=0.9999999999", "online_s=1e-3, offline_s=1e-3"])
def test_jobs_that_end_without_an_update_on_and_on_end_a_seed(
    config: Path, tmp_path: Path, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_log, "MOST_FRUITLESS", 50)
    monkeypatch.setattr(round_log, "MOST_PER_AGENT", 1)
    changes = [f"federation.clock={{name='clock', {clock}}}", ALONE, "seeds=1"]
    buffered = "federation.schedule={name='fed_buff', buffer_size=2}"
    (ended,) = run(config, tmp_path / "run", overrides=[*changes, buffered])["ended"]
    assert "jobs and absences in a row have ended without an update" in ended["reason"]
    assert ("restarted" in ended["reason"]) == ("restart=" in clock)
    # A schedule that merges nothing rather than wait goes through its rounds, and says how its jobs ended.
    (notice,) = [line for line in notices_of(run(config, tmp_path / "waits", overrides=changes)) if "merged" in line]
    assert re.search(r"quorum of its schedule: \d+ jobs of a seed ended without an update", notice)


def test_what_calls_exit_fails_and_ends_no_study(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(simulations: Any) -> Any:
        def exiting(*arguments: Any) -> Any:
            sys.exit(0)

        return lambda experiment, method: [
            dataclasses.replace(s, round=exiting) if experiment.config.rounds == 1 else s
            for s in simulations(experiment, method)
        ]

    monkeypatch.setattr(module, "simulations", leave(module.simulations))
    study = sweep(config, {"rounds": [1, 2]}, tmp_path / "study", overrides=[ALONE, "seeds=1"])
    assert [setting["state"] for setting in study["settings"]] == ["failed", "finished"]
    assert study["settings"][0]["reason"].startswith("Seed 0 of federated: something called exit(0), ")


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


def test_a_setting_that_fails_does_not_keep_the_others_from_running(
    config: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    failing(2)
    study = sweep(config, {"rounds": [3, 4]}, out, overrides=[ALONE, "seeds=1"])
    monkeypatch.undo()
    failed, finished = study["settings"]
    assert (failed["state"], finished["state"]) == ("failed", "finished")
    assert failed["reason"] == "MemoryError: no more memory"
    assert failed["rounds"] == 2
    assert not study["complete"]
    assert study == json.loads((out / "study.json").read_text())
    assert "Setting 1 failed: MemoryError: no more memory" in (out / "report.html").read_text()
    with pytest.raises(
        RunError, match=r"nothing left to run but setting 1, which failed\. Run it again with .*--retry"
    ):
        resume_sweep(out)
    (out / "study.json").unlink()  # the reason is in the summary of the run, too
    with pytest.raises(RunError, match=r"nothing left to run but setting 1, which failed"):
        resume_sweep(out)
    held = hold(out, "study")
    with pytest.raises(RunError, match=r"is in use by process .* that write one study"):
        resume_sweep(out)
    held.release()
    study = resume_sweep(out, retry_failed=True)
    assert study["complete"]
    assert "reason" not in study["settings"][0]


def test_resuming_goes_on_after_a_failed_setting(
    config: Path, tmp_path: Path, failing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop, heard = tmp_path / "study", [], []

    def interrupt(event: Any) -> None:
        if event.get("event") == "setting" and event["number"] == 2:
            stop.append(event)
            signal.raise_signal(signal.SIGINT)

    failing(0)
    study = sweep(config, {"rounds": [1, 2, 3]}, out, overrides=[ALONE, "seeds=1"], sinks=[interrupt])
    monkeypatch.undo()
    assert [setting["state"] for setting in study["settings"]] == ["failed", "interrupted", "waiting"]
    study = resume_sweep(out, sinks=[heard.append])
    assert [event["number"] for event in heard if event.get("event") == "setting"] == [2, 3]
    assert [setting["state"] for setting in study["settings"]] == ["failed", "finished", "finished"]
    assert study["settings"][0]["reason"] == "MemoryError: no more memory"


def test_a_setting_during_which_the_process_was_killed_comes_last(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    program = (
        "import os, signal, sys, fedrl\n"
        "def kill(event):\n"
        "    if event.get('round') == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "grid = {'rounds': [2, 1, 3]}\n"
        "fedrl.sweep(sys.argv[1], grid, sys.argv[2], overrides=['baselines={}', 'seeds=1'], sinks=[kill])"
    )
    subprocess.run([sys.executable, "-c", program, str(config), str(out)], check=False)
    written = json.loads((out / "study.json").read_text())
    assert [setting["state"] for setting in written["settings"]] == ["running", "waiting", "waiting"]
    heard: list[Any] = []
    study = resume_sweep(out, sinks=[heard.append])
    assert [event["number"] for event in heard if event.get("event") == "setting"] == [2, 3, 1]
    assert study["complete"]


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
    study = resume_sweep(out, retry_failed=True)
    assert study["complete"]
    assert "reason" not in study["settings"][0]
