"""`fedrl export` on the command line; what it writes is the matter of tests/runs/test_export.py."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrl.cli import main
from tests.support.made_policies import made_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_policy(tmp_path_factory.mktemp("runs") / "poles", "personal")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The exit code, and what was said."""

    def run(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrl", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run


def test_export_says_where_the_file_is_and_how_far_it_is_from_the_policy(call, folder, tmp_path):
    code, said, _ = call(folder, "--to", "numpy", "--seed", 1, "--agent", 2)
    assert not code
    assert f"{folder / 'policy.py'}: seed 1, agent 2; compared with the policy on 1,000 observations" in said
    assert '"agent": 2,' in (folder / "policy.py").read_text()
    code, said, _ = call(folder / "params.safetensors", "--to", "onnx", "--agent", 0, "--out", tmp_path / "a.onnx")
    assert not code
    assert f"{tmp_path / 'a.onnx'}: seed 0, agent 0" in said
    assert (tmp_path / "a.onnx").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "numpy"], "agent is not given, and agents 0 to 2"),
        (["--to", "numpy", "--agent", 3], "agent is 3, and the run has agents 0 to 2"),
        (["--to", "numpy", "--agent", 0, "--seed", 9], "seed is 9"),
        (["--to", "tflite"], "--to is 'tflite', which is not known. Allowed: numpy, onnx, torch"),
        (["--to", "numpy", "--agent", 0, "--out", "/dev/null/policy.py"], "can't be written to"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_exit_code_2(call, folder, arguments, told):
    code, said, wrong = call(folder, *arguments)
    assert code == 2
    assert said == ""
    assert told in wrong
    assert wrong.count("\n") == 1


def test_what_is_no_run_is_refused(call, tmp_path):
    code, _, wrong = call(tmp_path, "--to", "numpy")
    assert code == 2
    assert "is not a run folder" in wrong
