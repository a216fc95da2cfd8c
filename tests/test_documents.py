"""The Python that the documents show runs."""

import re
from pathlib import Path

import pytest

import fedrl
from fedrl.aggregators import mean
from fedrl.environments import cartpole
from fedrl.learners import ppo
from fedrl.stages import clip

ROOT = Path(__file__).parent.parent
BLOCKS = [
    pytest.param(code, id=f"{path.name}-{i}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", BLOCKS)
@pytest.mark.filterwarnings("ignore:JAX's backend already runs:RuntimeWarning")
def test_shown_code_runs(code, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = {"federate": fedrl.federate, "mean": mean, "clip": clip, "ppo": ppo, "cartpole": cartpole}
    exec(code.replace("range(60)", "range(1)"), names)
    if "print(" in code:
        assert 10 < float(capsys.readouterr().out) < 60  # what an untrained policy holds out


def test_there_is_code_to_run():
    assert len(BLOCKS) >= 2
