"""What one process measures, and how it says that it could not."""

from typing import Any

import pytest

from fedrl.engines.state import ClockStats, RoundResult
from fedrl.studies.scaling import measure
from fedrl.studies.scaling.measure import answer_to, latency_of
from fedrl.studies.scaling.scalable import scalable

CORRIDOR: dict[str, Any] = {
    "name": "corridor",
    "rounds": 3,
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "fleet": {"slip": {"range": [0.0, 0.2]}},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8},
    "federation": {"agents": 10},
}


def asked(tables: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    doing: list[str] = []
    request = {"tables": scalable(tables), "beside": None, "devices": None, "modules": [], "references": []}
    return answer_to(request, doing.append), doing


def test_rounds_are_measured_with_all_their_costs() -> None:
    found, doing = asked(CORRIDOR)
    assert found["state"] == "measured"
    assert doing[:4] == ["building", "warming up", "round 1", "round 2"]
    assert found["rounds"] >= measure.LEAST_ROUNDS
    assert 0 < found["round_low_s"] <= found["round_s"] <= found["round_high_s"]
    assert found["agents_compute_s"] + found["server_compute_s"] == pytest.approx(found["round_s"], rel=0.5)
    # 16 numbers in float32, a weight and a version.
    assert (found["bytes_up"], found["bytes_down"]) == (720.0, 680.0)
    assert (found["messages_up"], found["messages_down"], found["rejected"]) == (10.0, 10.0, 0)
    assert found["latency_s"] is None
    assert found["memory_bytes"] > 100e6
    steps = 10 * 2 * 8
    assert steps / found["round_high_s"] <= found["steps_per_second"] <= steps / found["round_low_s"]
    assert found["machine"]["devices"] == 2


def test_on_a_virtual_clock_the_latency_is_the_simulated_time_of_a_round() -> None:
    clock = {"step_s": 0.5}
    found, _ = asked(CORRIDOR | {"federation": {"agents": 10, "clock": clock}})
    assert found["latency_s"] == pytest.approx(0.5)


def test_latency_is_that_of_links_where_there_are_some() -> None:
    def seen(latency_s: float, time_s: float | None = None) -> RoundResult:
        fields: dict[str, Any] = dict.fromkeys(RoundResult._fields[:9])
        stats = None if time_s is None else ClockStats(time_s, 0, 0, 0, 0, 0.0, 0)
        return RoundResult.__new__(RoundResult, *fields.values())._replace(latency_s=latency_s, clock_stats=stats)

    assert latency_of([seen(0.2), seen(0.4)], seen(0.0)) == pytest.approx(0.3)
    assert latency_of([seen(0.0), seen(0.0)], seen(0.0)) is None
    assert latency_of([seen(0.0, 3.0), seen(0.0, 5.0)], seen(0.0, 1.0)) == pytest.approx(2.0)


def test_a_configuration_that_cannot_be_built_is_refused_with_its_own_sentence() -> None:
    found, _ = asked(CORRIDOR | {"federation": {"agents": 10, "topology": "hypercube"}})
    assert found["state"] == "refused"
    assert found["reason"].startswith("hypercube() got 10 agents.")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MemoryError(), "It ran out of memory."),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), "It ran out of memory: RESOURCE"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_an_error_is_a_result(
    fault: Exception, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(tables: Any, devices: Any, tell: Any) -> dict[str, Any]:
        raise fault

    monkeypatch.setattr(measure, "measured", failing)
    found, _ = asked(CORRIDOR)
    assert found["state"] == "failed"
    assert found["reason"].startswith(reason)
    assert ("Traceback" in capsys.readouterr().err) == isinstance(fault, ZeroDivisionError)
