"""What a run does when environments fail: it leaves agents out, repeats rounds, or ends with a complete folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrl import run
from fedrl.core.errors import ConfigError, FailedEnvironmentError
from fedrl.records.folder import RunFolder
from tests.support import failing  # noqa: F401  (registers the environment)
from tests.support.small import TOML

SICK = 2


def config(fault: str, sick: Any = (0.0, 0.0, 1.0), at: int = 9, rounds: int = 3, **changes: Any) -> dict[str, Any]:
    return {
        "name": "sites",
        "rounds": rounds,
        "seeds": [0],
        "environment": {
            "name": "gymnasium",
            "id": "Failing-v0",
            "settings": {"sick": 0.0},
            "options": {"fault": fault, "at": at},
        },
        "fleet": {"sick": list(sick)},
        "learner": {"name": "a2c", "num_envs": 2, "num_steps": 6, "network": {"name": "mlp", "hidden": [4]}},
        "federation": {"agents": 3},
        "evaluation": {"episodes": 1},
    } | changes


def test_an_agent_is_left_out_of_the_round_and_records_warning_and_report_say_why(tmp_path: Path) -> None:
    heard: list[Any] = []
    summary = run(config("exception"), tmp_path / "run", sinks=[heard.append])
    records = RunFolder(tmp_path / "run").records()
    ((reason, agents),) = records[1]["rejections"].items()
    assert agents == [SICK]
    assert "copy 0 of Failing-v0 raised ValueError: the floor is gone (failing.py, line" in reason
    (failure,) = records[1]["environment_failures"]
    assert (failure["agent"], failure["copy"], failure["environment"]) == (SICK, 0, "Failing-v0")
    assert failure["step"] >= 1
    assert 'raise ValueError("the floor\\nis gone")' in failure["traceback"]
    assert "environment_failures" not in records[2]
    (event,) = [event for event in heard if event.get("event") == "rejected"]
    assert (event["agents"], event["handled"], event["round"]) == ([SICK], "left out", 2)
    assert summary["rejections"]["federated"]["agents"][0]["reason"] == reason
    assert "the floor is gone" in (tmp_path / "run" / "report.html").read_text()


def test_a_round_is_repeated_and_that_is_counted(tmp_path: Path) -> None:
    summary = run(config("exception", rounds=2, on_environment_error="restart"), tmp_path / "run")
    records = RunFolder(tmp_path / "run").records()
    assert [record["rejected"] for record in records] == [0, 0]
    assert [each["repeated"] for each in records[1]["environment_failures"]] == [True]
    assert summary["rejections"]["federated"]["repeated"] == 1
    assert "was repeated once after its environment failed" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_is_to_stop_ends_after_the_round_with_a_complete_folder(tmp_path: Path) -> None:
    with pytest.raises(
        FailedEnvironmentError, match=r"(?s)round 2: The environment of agent 2 failed: .*the floor.*kept"
    ):
        run(config("exception", on_environment_error="stop"), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "the floor" in summary["failure"]
    assert [record["round"] for record in RunFolder(tmp_path / "run").records()] == [1, 2]
    assert (tmp_path / "run" / "params.safetensors").exists()


def test_a_run_in_which_no_environment_works_twice_in_a_row_ends(tmp_path: Path) -> None:
    with pytest.raises(FailedEnvironmentError, match="In 2 rounds in a row the environments of all agents failed"):
        run(config("exception", sick=(1.0, 1.0, 1.0), at=1, rounds=9), tmp_path / "run")
    assert [record["round"] for record in RunFolder(tmp_path / "run").records()] == [1, 2]


def test_an_agent_whose_environment_fails_in_the_evaluation_has_no_return_and_the_reason_is_told(
    tmp_path: Path,
) -> None:
    summary = run(config("exception", at=1, rounds=1), tmp_path / "run")
    (item,) = summary["left_out"]["federated"]
    assert item["agents"] == [SICK]
    assert item["reason"].startswith("its environment failed in the evaluation: in step 1 of an episode")


def test_compiled_environments_refuse_to_be_restarted() -> None:
    import tomllib

    with pytest.raises(ConfigError, match=r"on_environment_error is 'restart'.*inside compiled programs"):
        run(tomllib.loads(TOML.format(rounds=1)), overrides=['on_environment_error="restart"'])
    with pytest.raises(ConfigError, match=r"on_environment_error is 'retry'"):
        run(tomllib.loads(TOML.format(rounds=1)), overrides=['on_environment_error="retry"'])
