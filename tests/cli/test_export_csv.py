"""`fedrl export --csv`: the rounds of a run as a table."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrl.cli import main
from tests.support.made_runs import make_run

METHODS = ("federated", "average_once")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", methods=METHODS, seeds=2, rounds=5)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The exit code, and what was said."""

    def run(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrl", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run


def test_every_round_is_a_row_with_all_its_digits(call, folder):
    code, said, wrong = call(folder, "--csv")
    assert (code or 0, wrong) == (0, "")
    assert said == f"{folder / 'curves.csv'}: 12 rounds, 10 columns\n"
    with (folder / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["method", "seed", "round", "environment_steps", "seconds", "return"]
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    told = {(r["method"], str(r["seed"]), str(r["round"])): r for r in records}
    for row in rows:
        record = told.pop((row["method"], row["seed"], row["round"]))
        assert row["return"] == ("" if record["return"] is None else repr(record["return"]))
        assert row["bytes_up"] == str(record["bytes_up"])
        assert row["loss"] == ("" if record["loss"] is None or record["round"] == 1 else repr(record["loss"]))
        expected = sum(record["greedy"]) / len(record["greedy"]) if "greedy" in record else None
        assert row["greedy"] == ("" if expected is None else repr(expected))
    assert told == {}


def test_damaged_lines_are_counted_and_told(call, folder, tmp_path):
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"seed": oops}\n' + json.dumps({"method": "federated", "seed": 7, "round": 1}) + "\n")
    code, said, wrong = call(folder, "--csv", "--out", tmp_path / "curves.csv")
    assert not code
    assert ": 13 rounds, " in said
    assert wrong == "warning: 1 line of records.jsonl could not be read; left out.\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--csv", "--to", "numpy"], "--csv writes the rounds of all seeds and methods, and --to is about a policy"),
        (["--csv", "--seed", 1], "--seed is about a policy"),
        (["--csv", "--agent", 1], "--agent is about a policy"),
        (["--csv", "--out", "/dev/null/curves.csv"], "can't be written to"),
        ([], "Say what to write: --to numpy, --to torch, --to onnx for the policy, or --csv for the rounds"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_exit_code_2(call, folder, arguments, told):
    code, said, wrong = call(folder, *arguments)
    assert code == 2
    assert said == ""
    assert told in wrong
    assert wrong.count("\n") == 1
    assert not (folder / "curves.csv").exists()


def test_a_run_without_a_round_and_what_is_no_run_are_refused(call, folder, tmp_path):
    (folder / "records.jsonl").write_text("")
    code, _, wrong = call(folder, "--csv")
    assert code == 2
    assert "has no round yet" in wrong
    code, _, wrong = call(tmp_path, "--csv")
    assert code == 2
    assert "is not a run folder" in wrong
