"""Runs whose environments are stepped on the host: what an interruption may change, and what not."""

import shutil
import threading
from pathlib import Path
from typing import Any

from fedrl import resume, run
from fedrl.records.folder import RunFolder

POLES: dict[str, Any] = {
    "name": "poles",
    "rounds": 3,
    "seeds": [4],
    "checkpoint_s": 0,
    "environment": {"name": "gymnasium", "id": "CartPole-v1"},
    "learner": {
        "name": "ppo",
        "num_envs": 2,
        "num_steps": 8,
        "num_epochs": 1,
        "num_minibatches": 1,
        "network": {"name": "mlp", "hidden": [4]},
    },
    "federation": {"agents": 2},
    "evaluation": {"episodes": 1, "film": False},
}


def test_a_resumed_run_goes_on_from_its_round_always_in_the_same_way(tmp_path: Path) -> None:
    stop = threading.Event()

    def interrupt(event: Any) -> None:
        if event.get("round") == 2:
            stop.set()

    run(POLES, tmp_path / "stopped", sinks=[interrupt], stop=stop)
    shutil.copytree(tmp_path / "stopped", tmp_path / "twin")
    before = RunFolder(tmp_path / "stopped").records()
    assert [record["round"] for record in before] == [1, 2]
    told: list[Any] = []
    summary = resume(tmp_path / "stopped", sinks=[told.append])
    resume(tmp_path / "twin")
    assert [event["round"] for event in told if "event" not in event] == [3]
    records = RunFolder(tmp_path / "stopped").records()
    assert records[:2] == before
    assert [record["round"] for record in records] == [1, 2, 3]
    assert summary["environment_steps"] == 3 * 2 * 2 * 8
    assert RunFolder(tmp_path / "stopped").complete
    params = [(tmp_path / name / "params.safetensors").read_bytes() for name in ("stopped", "twin")]
    assert params[0] == params[1]


def test_what_a_run_does_not_see_is_told_before_it(tmp_path: Path) -> None:
    told: list[Any] = []
    words: dict[str, Any] = {"name": "gymnasium", "id": "tests.support.walks:Mission-v0"}
    summary = run({**POLES, "rounds": 1, "environment": words}, tmp_path / "run", sinks=[told.append])
    (notice,) = [event["text"] for event in told if event.get("event") == "notice"]
    assert "has text in its observations (mission, told.hint)" in notice
    assert summary["environment_steps"] == 2 * 2 * 8
