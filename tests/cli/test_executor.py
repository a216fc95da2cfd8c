"""Where agents train, chosen on the command line: what does not fit is one sentence, exit code 2 and no folder."""

import sys

import pytest

from fedrl.cli import main
from fedrl.cli.executor import executor_of
from fedrl.core.errors import ConfigError


def refused(capsys, monkeypatch, tmp_path, *options: str) -> str:
    monkeypatch.setattr(sys, "argv", ["fedrl", "run", "gridworld", "--out", str(tmp_path / "run"), *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert not (tmp_path / "run").exists()
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "2"], "--workers is 2, and the executor is 'process', which has no workers."),
        (["--address", "auto"], "--address is 'auto', and the executor is 'process', which has no workers."),
        (["--executor", "process", "--workers", "2"], "--workers is 2, and the executor is 'process'"),
        (["--executor", "nonsense"], "nonsense"),
        (["--executor", "ray", "--workers", "0"], "workers"),
    ],
)
def test_what_does_not_fit_is_told_before_there_is_a_folder(options, told, capsys, monkeypatch, tmp_path):
    said = refused(capsys, monkeypatch, tmp_path, *options)
    assert told in said
    assert "Traceback" not in said


def test_options_are_the_table_of_a_configuration():
    assert executor_of(None, None, None) is None
    assert executor_of("process", None, None) == {"name": "process"}
    assert executor_of("ray", 3, "auto") == {"name": "ray", "workers": 3, "address": "auto"}
    with pytest.raises(ConfigError, match="Add --executor ray, or leave it out"):
        executor_of(None, 3, None)
