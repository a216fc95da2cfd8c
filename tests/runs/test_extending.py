"""Runs that go on after their last round: to the bits of a run that was as long from the start."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from fedrl.cli import main
from fedrl.core.errors import ConfigError, RunError
from fedrl.records import folder
from fedrl.runs import extending
from fedrl.runs.extending import total_rounds
from fedrl.runs.run import resume, run
from tests.support.small import TOML, without_times

SHORT, LONG = 4, 7
MORE = ["baselines.mixture=true", "evaluation.fine_tune=2", "seeds=[0,3]"]
LINEAR = 'federation.local_steps={ name = "linear", first = 2, last = 1, rounds = 4 }'


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=SHORT))
    return path


@pytest.fixture(scope="module")
def short(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("short") / "run"
    run(config, out, overrides=MORE)
    return out


@pytest.fixture(scope="module")
def long(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "run"
    run(config, out, overrides=[*MORE, f"rounds={LONG}"])
    return out


@pytest.fixture
def copied(short: Path, tmp_path: Path) -> Path:
    """A run of its own that has ended."""
    return shutil.copytree(short, tmp_path / "run")


def same(one: Path, other: Path) -> None:
    for name in ("params.safetensors", "config.toml"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    mine, theirs = (
        without_times([json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()])
        for path in (one, other)
    )
    assert mine == theirs
    summaries = [json.loads((path / "summary.json").read_text()) for path in (one, other)]
    for summary in summaries:
        for name in ("steps_per_second", "compile_s", "wall_s", "measures"):
            del summary[name]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("rounds", [f"+{LONG - SHORT}", LONG])
def test_a_complete_run_goes_on_to_the_bits_of_a_longer_one(copied: Path, long: Path, rounds: int | str) -> None:
    assert {path.name for path in copied.iterdir()} >= {"final", "summary.json"}
    events: list[Any] = []
    resume(copied, rounds=rounds, sinks=[events.append])
    assert {event["round"] for event in events if event.get("method") == "federated" and "event" not in event} == set(
        range(SHORT + 1, LONG + 1)
    )
    same(copied, long)
    assert not (copied / "checkpoints").exists()


def test_an_interrupted_run_goes_on_to_another_last_round(config: Path, long: Path, tmp_path: Path) -> None:
    import threading

    stop = threading.Event()
    run(config, tmp_path / "run", overrides=MORE, sinks=[lambda event: stop.set()], stop=stop)
    assert (tmp_path / "run" / "checkpoints").exists()
    resume(tmp_path / "run", rounds=LONG)
    same(tmp_path / "run", long)


@pytest.mark.parametrize("step", ["reopen_checkpoints", "write_config", "revise"])
def test_a_crash_before_the_first_further_round_loses_nothing(
    copied: Path, long: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = getattr(folder.RunFolder, step)

    def crash(*given: Any) -> None:
        do(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folder.RunFolder, step, crash)
        with pytest.raises(KeyboardInterrupt):
            resume(copied, rounds=LONG)
    resume(copied, rounds=LONG)
    same(copied, long)


def test_the_number_of_rounds_is_a_number_and_not_below_those_done(copied: Path) -> None:
    assert [total_rounds(x, 100) for x in ("+50", "500", 500, " +1 ")] == [150, 500, 500, 101]
    for wrong in ("x", "", "-5", "+-5", 0, "+0", True, "5.5", "1e3"):
        with pytest.raises(ConfigError, match="It needs to be a whole number of rounds in all"):
            total_rounds(wrong, 100)
    for fewer in (SHORT, SHORT - 1):
        with pytest.raises(ConfigError, match=f"rounds is {fewer}, and the run in .* has done {SHORT}"):
            resume(copied, rounds=fewer)
    with pytest.raises(RunError, match=r"There is nothing to resume\. Continue it for more rounds with --rounds \+50"):
        resume(copied)


def test_a_run_that_keeps_no_states_says_how_to_go_on(copied: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "without"
    run(config, out, overrides=["keep_checkpoints=false", "seeds=1", "baselines={}"])
    assert not (out / "final").exists()
    assert not (out / "checkpoints").exists()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(RunError, match=r'is complete and has no final/.* with init = "'):
        resume(out, rounds="+1")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_schedule_with_a_length_of_its_own_is_named() -> None:
    tables = {
        "rounds": 9,
        "learner": {"optimizer": [{"decay_steps": 0}, {"name": "adam", "decay_steps": 960}]},
        "federation": {"local_steps": {"name": "linear", "rounds": 4}},
    }
    sentences = list(extending._schedules(tables))
    assert [sentence.split(", and further")[0] for sentence in sentences] == [
        "learner.optimizer[1].decay_steps is 960",
        "federation.local_steps.rounds is 4",
    ]
    assert "after 960 steps the step size is 0" in sentences[0]
    assert "after round 4 local steps stay as they are" in sentences[1]


def test_the_command_line_goes_on_and_says_so_in_the_summary(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object) -> int | None:
        monkeypatch.setattr(sys, "argv", ["fedrl", "run", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    out, few = tmp_path / "run", ("--set", "seeds=1", "--set", "baselines={}", "--set", LINEAR, "-q")
    assert call(config, *few, "--rounds", "+4", "--out", out) == 2
    assert "Further rounds, such as --rounds +50, are those of an earlier run" in capsys.readouterr().err
    assert call(config, *few, "--rounds", 2, "--out", out) == 0
    assert json.loads((out / "summary.json").read_text())["rounds"] == 2
    assert call("--resume", out, "--rounds", "+1", "-q") == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert summary["notes"][0].startswith("federation.local_steps.rounds is 4, and further rounds do not stretch it")
