"""The privacy budget of a coordinator: charged on the disk before a version, also if it is killed, and shown."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedrl.core import durable
from fedrl.records.charges import ChargeFile
from fedrl.runs.control import asked
from tests.network.test_coordinate import TABLES, World

AGENTS, ROUNDS = 3, 5
PRIVATE = {
    **TABLES,
    "federation": {
        "agents": AGENTS,
        "aggregator": {"name": "mean", "weighting": "uniform"},
        "privacy": {
            "epsilon": 8.0,
            "delta": 1e-3,
            "mechanism": {"name": "central_gaussian", "clip": 0.5},
            "agents": {"1": {"epsilon": 5.0}},
            "stronger_by": "fewer_rounds",
        },
    },
}
KILLED_AT = 3
SCRIPT = """
import os, signal, sys
from pathlib import Path
from fedrl.records.charges import ChargeFile
from tests.network.test_coordinate import World
from tests.network.test_privacy_budget import KILLED_AT, PRIVATE

before = ChargeFile.charge

def charge(self, charge):
    before(self, charge)
    if charge.number == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)

ChargeFile.charge = charge
World(PRIVATE).coordinate(PRIVATE, Path(sys.argv[1]), replayable=False)
"""


def charges(folder: Path) -> list[tuple[int, list[bool]]]:
    return [(each.round, each.who.tolist()) for each in ChargeFile(folder / "privacy.jsonl").read(AGENTS)[1]]


def test_every_charge_is_on_the_disk_before_its_version_and_agents_without_budget_are_asked_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, sync, statuses = [], durable.sync, []
    monkeypatch.setattr(durable, "sync", lambda path: flushed.append(path.name) or sync(path))
    place = tmp_path / "run"

    def sink(event: dict) -> None:
        if "event" not in event:
            statuses.append(asked(place, "status"))

    world = World(PRIVATE)
    result = world.coordinate(PRIVATE, place, sinks=[sink])
    found = charges(place)
    assert [number for number, _ in found] == [1, 2, 3, 4, 5]
    assert flushed.count("privacy.jsonl") == 2 * ROUNDS  # before each version, and before its checkpoint
    own = sum(who[1] for _, who in found)
    assert 0 < own < ROUNDS
    assert [who for _, who in found] == [[True] * 3] * own + [[True, False, True]] * (ROUNDS - own)
    assert [len(agent.trained) for agent in world.agents] == [ROUNDS, own, ROUNDS]
    assert result["privacy"]["agents"][1]["epsilon"] <= 5.0
    assert statuses[-1]["privacy"]["epsilon"] == pytest.approx(result["epsilon"])
    assert statuses[-1]["privacy"]["remaining"] == pytest.approx(8.0 - result["epsilon"])


def test_a_coordinator_that_is_killed_before_a_version_has_paid_for_it_and_pays_again(tmp_path: Path) -> None:
    place = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(place)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert [number for number, _ in charges(place)] == [1, 2, 3]
    result = World(PRIVATE).coordinate(PRIVATE, place, replayable=False)
    # One version was lost, so the budget ends one version early.
    assert [number for number, _ in charges(place)] == [1, 2, 3, 3, 4]
    assert result["ended"][0]["round"] == 4
    assert "1 of them for rounds that were run again" in result["ended"][0]["reason"]
    assert result["epsilon"] <= 8.0
    records = [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    assert [record["privacy"]["charges"] for record in records] == [1, 2, 4, 5]
