import pytest

from benchmarks import __main__ as collect
from benchmarks import peers
from benchmarks.measure import LEFT_OUT


def test_peers_without_their_environment_say_what_is_missing_and_count_as_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path)
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == LEFT_OUT
    assert "make bench-peers" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "found"), [(0, []), (LEFT_OUT, None)])
def test_a_benchmark_that_cannot_run_here_has_no_figures(monkeypatch, tmp_path, code, found):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {code}\n")
    python.chmod(0o755)
    monkeypatch.setattr(collect.sys, "executable", str(python))
    assert collect.run("any") == found
