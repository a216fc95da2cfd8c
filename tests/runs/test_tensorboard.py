"""What TensorBoard is told is what the records say."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fedrl import ConfigError, run
from fedrl.records.folder import RunFolder
from fedrl.sinks.tensorboard import tensorboard

CORRIDOR: dict[str, Any] = {
    "name": "corridor",
    "rounds": 4,
    "seeds": 2,
    "tensorboard": True,
    "environment": {"name": "gridworld", "layout": "S.G", "max_steps": 10},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8},
    "federation": {"agents": 2},
    "evaluation": {"episodes": 2, "every": 2, "film": False},
}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """By name, `(step, value)` of each scalar; in the file, an event follows its length and a checksum, and has one."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in folder.glob("events.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
    return found


def test_every_seed_has_its_curves_against_environment_steps(tmp_path: Path) -> None:
    run(CORRIDOR, tmp_path / "run")
    records = RunFolder(tmp_path / "run").records()
    for seed in (0, 1):
        ours = sorted((r for r in records if r["seed"] == seed), key=lambda r: r["round"])
        told = scalars(tmp_path / "run" / "tensorboard" / "federated" / f"seed{seed}")
        expected = {
            "return": [(r["environment_steps"], r["return"]) for r in ours if r["return"] is not None],
            "loss": [(r["environment_steps"], r["loss"]) for r in ours if r["loss"] is not None],
            "greedy": [(r["environment_steps"], sum(r["greedy"]) / 2) for r in ours if "greedy" in r],
        }
        for name in ("success", "agents_compute", "server_compute"):
            points = [(r["environment_steps"], r["measures"][name]) for r in ours]
            expected[name] = [(step, value) for step, value in points if value is not None]
        expected["greedy_success"] = [
            (r["environment_steps"], r["greedy_measures"]["success"]) for r in ours if "greedy" in r
        ]
        assert len(expected["greedy"]) == 2
        assert set(told) == {name for name, points in expected.items() if points}
        for name, points in told.items():
            assert [step for step, _ in points] == [step for step, _ in expected[name]]
            assert [value for _, value in points] == pytest.approx([value for _, value in expected[name]], rel=1e-6)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedrl\[tensorboard\]'"):
        tensorboard(tmp_path)
