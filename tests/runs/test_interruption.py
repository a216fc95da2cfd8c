"""A signal ends a run in order at every moment; what a folder then has is enough to go on to the same bits."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedrl.report
import fedrl.runs.run as module
import fedrl.studies.page
from fedrl.records import checkpoint
from fedrl.runs.interruption import interruptible
from fedrl.runs.run import resume, run
from fedrl.studies import resume_sweep, sweep
from tests.support.small import TOML, without_times

COMPLETE = {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "report.html"}


def test_the_first_signal_is_a_request_and_the_second_an_interruption() -> None:
    stop = threading.Event()
    with interruptible(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_afterwards_a_signal_does_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible(threading.Event()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_one_inside_another_hands_the_second_signal_on() -> None:
    outer, inner = threading.Event(), threading.Event()
    with interruptible(outer), interruptible(inner):
        signal.raise_signal(signal.SIGINT)
        assert (inner.is_set(), outer.is_set()) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert outer.is_set()


def test_the_run_of_a_study_hears_what_the_study_hears_and_the_second_signal_is_not_held_up() -> None:
    stop = threading.Event()
    with interruptible(stop) as outer, interruptible(stop) as inner:
        assert inner is outer
        signal.raise_signal(signal.SIGTERM)
        assert (stop.is_set(), outer.signal) == (True, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_other_threads_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=3))
    return path


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(config, out)
    return out


@pytest.fixture
def terminated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a function hear SIGTERM when it is called for the first time."""

    def at(place: Any, name: str) -> None:
        real, left = getattr(place, name), [1]

        def hearing(*arguments: Any, **options: Any) -> Any:
            if left:
                left.clear()
                signal.raise_signal(signal.SIGTERM)
            return real(*arguments, **options)

        monkeypatch.setattr(place, name, hearing)

    return at


def _records(out: Path) -> list[dict[str, Any]]:
    return without_times([json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()])


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (module.folder, "create"),
        (module, "simulations"),
        (module, "averaged"),
        (module, "summarise"),
    ],
    ids=["before the folder", "before compilation", "before a baseline", "before the summary"],
)
def test_sigterm_ends_a_run_with_a_folder_that_goes_on_to_the_same_bits(
    config: Path, whole: Path, tmp_path: Path, terminated: Callable[..., None], place: Any, name: str
) -> None:
    out, heard = tmp_path / "stopped", []
    terminated(place, name)
    run(config, out, sinks=[heard.append])
    assert heard[-1]["event"] == "end"
    assert heard[-1]["signal"] == signal.SIGTERM
    assert not (out / ".lock").exists()
    if name != "summarise":  # else everything has been done
        assert (out / "checkpoints").exists()
        assert len(_records(out)) < len(_records(whole))
        resume(out)
    assert {path.name for path in out.iterdir()} - {"film.gif", "final"} == COMPLETE
    assert _records(out) == _records(whole)
    assert (out / "params.safetensors").read_bytes() == (whole / "params.safetensors").read_bytes()


def test_a_signal_while_the_report_is_written_takes_nothing_from_a_run_that_is_through(
    config: Path, tmp_path: Path, terminated: Callable[..., None]
) -> None:
    terminated(fedrl.report, "write_report")
    run(config, tmp_path / "run", overrides=["baselines={}"])
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"film.gif", "final"} == COMPLETE
    terminated(fedrl.studies.page, "write_study_report")
    study = sweep(config, {"rounds": [1]}, tmp_path / "study", overrides=["baselines={}"])
    assert study["complete"]
    assert (tmp_path / "study" / "report.html").exists()


def test_a_resumed_run_that_is_stopped_at_once_keeps_its_results(
    config: Path, whole: Path, tmp_path: Path, terminated: Callable[..., None]
) -> None:
    out = tmp_path / "stopped"
    terminated(module, "averaged")
    run(config, out)
    kept = {name: (out / name).read_bytes() for name in COMPLETE}
    assert json.loads(kept["summary.json"])["agents"]
    terminated(module, "simulations")
    heard: list[Any] = []
    summary = resume(out, sinks=[heard.append])
    assert {name: (out / name).read_bytes() for name in COMPLETE} == kept
    assert summary == json.loads(kept["summary.json"])
    assert heard[-1]["report"] == str(out / "report.html")
    resume(out)
    assert _records(out) == _records(whole)


def test_fine_tuning_is_stopped_between_its_rounds(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rounds = module.fine_tuned, []

    def counting(session: Any, *arguments: Any) -> Any:
        session.stop.set()
        ended = real(session, *arguments)
        rounds.append(len(ended))
        return ended

    monkeypatch.setattr(module, "fine_tuned", counting)
    run(config, tmp_path / "run", overrides=["baselines={}", "evaluation.fine_tune=2"])
    assert rounds == [0]
    assert not any(record["method"] == "fine_tuned" for record in _records(tmp_path / "run"))
    monkeypatch.undo()
    assert "fine_tuned" in resume(tmp_path / "run")["baselines"]


def test_a_signal_between_two_settings_ends_a_study_before_the_next(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(event: Any) -> None:
        if event.get("event") == "end":
            signal.raise_signal(signal.SIGTERM)

    short = ["baselines={}", "seeds=1"]
    study = sweep(config, {"rounds": [1, 2]}, tmp_path / "study", overrides=short, sinks=[stopping])
    assert [setting["state"] for setting in study["settings"]] == ["finished", "waiting"]
    assert resume_sweep(tmp_path / "study")["complete"]


def test_a_second_signal_does_not_wait_for_a_round_that_hangs(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def hang(path: Path) -> int:
        hanging.set()
        go_on.wait(30)
        return 0

    stop = threading.Event()

    def impatient() -> None:
        hanging.wait(60)
        for _ in range(2):
            # To the main thread, which waits for the others; one after the other, since equal signals are heard once.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            stop.wait(10)

    monkeypatch.setattr(checkpoint, "round_of", hang)
    user = threading.Thread(target=impatient)
    user.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", overrides=["baselines={}"], stop=stop)
        assert not go_on.is_set()
        assert not (tmp_path / "run").exists()
    finally:
        go_on.set()
        user.join()
