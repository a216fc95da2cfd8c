"""`fedrl audit privacy`: what it prints, and its exit codes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrl.cli import main

TOML = """
name = "private"
rounds = 3
seeds = 1

[environment]
name = "gridworld"
layout = "S.G"
max_steps = 10

[learner]
name = "q_table"
num_envs = 2
num_steps = 8
learning_rate = 0.5
epsilon = 0.5

[federation]
agents = 4
aggregator = {name = "mean", weighting = "uniform"}
stages = [{name = "central_gaussian", clip = 1.0, noise_multiplier = 2.0, expected = 4}]

[evaluation]
film = false
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    config = tmp_path / "private.toml"
    config.write_text(TOML)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrl", "audit", "privacy", str(config), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


def test_it_prints_claim_tests_measurement_verdict_and_seconds(call: Call) -> None:
    code, out, err = call("--runs", 1000, "--delta", 1e-3)
    assert code == 0, err
    names = [line.split()[0] for line in out.splitlines()]
    assert names == [
        "Audit", "claim", "canary", "profile", "alternating", "independence", "measured", "power", "verdict", "seconds",
    ]  # fmt: skip
    assert "epsilon = 2.63 at delta = 0.001 after 3 rounds, for all data of one agent, added or removed." in out
    assert "Not refuted, which is no proof" in out


def test_json_is_the_result_and_nothing_else(call: Call) -> None:
    code, out, _ = call("--runs", 400, "--rounds", 1, "--seed", 7, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["name"], found["audit"], found["verdict"], found["seed"]) == (
        "private",
        "mechanism",
        "not refuted",
        7,
    )
    assert [check["name"] for check in found["checks"]] == ["profile", "independence"]
    assert found["delta"] == 1e-5


def test_a_refuted_claim_ends_with_3(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    # The draws of the production stage are half of what it claims.
    from fedrl.core import draws

    right = draws.with_noise
    monkeypatch.setattr(draws, "with_noise", lambda draw, key, value, scale: right(draw, key, value, scale / 2))
    # Another number of steps, as programs of equal federations are compiled once, and the right ones may be there.
    code, out, _ = call("--runs", 4000, "--rounds", 1, "--set", "learner.num_steps=9")
    assert code == 3
    assert "verdict       REFUTED." in out


def test_too_few_runs_end_with_3_and_say_so(call: Call) -> None:
    code, out, _ = call("--runs", 10, "--rounds", 1)
    assert code == 3
    assert "NO POWER" in out
    assert "Raise --runs" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "federation.stages=[]"), "none adds calibrated noise"),
        (("--delta", 0), "nothing that an audit could refute"),
        (("--runs", 0), "runs is 0"),
        (("--set", "federation.stages.0.clip=0"), "clip"),
    ],
)
def test_wrong_input_ends_with_2(call: Call, arguments: tuple, words: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert words in err


def test_the_whole_run_says_that_it_is_a_smoke_test(call: Call) -> None:
    code, out, _ = call("--whole", "--rounds", 1)
    assert code == 3  # four agents have no power
    assert "A smoke test" in out
