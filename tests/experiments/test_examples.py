import runpy
from pathlib import Path
from typing import Any

import pytest

from fedrl.experiments.build import build
from fedrl.experiments.config import Config, load

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_an_example_builds_and_resolves(path: Path) -> None:
    experiment = build(load(path))
    assert experiment.methods[0].talk
    assert build(experiment.config).federation == experiment.federation


def test_scaffold_is_a_change_of_two_lines() -> None:
    changes = [
        "learner.optimizer=['corrected', {name='sgd', learning_rate=0.05}]",
        "federation.stages=[{name='control_variates', learning_rate=0.05, gradient_steps=16}]",
    ]
    federation = build(load(EXAMPLES / "heterogeneous.toml", changes)).federation
    assert "control_variates" in repr(federation)


def test_the_example_in_python_is_the_one_in_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    import fedrl

    seen: list[Config] = []

    def run(config: Config) -> dict[str, Any]:
        seen.append(config)
        return {"final_return": None}

    monkeypatch.setattr(fedrl, "run", run)
    runpy.run_path(str(EXAMPLES / "cartpole.py"))
    assert build(load(seen[0])).config == build(load(EXAMPLES / "cartpole.toml")).config
