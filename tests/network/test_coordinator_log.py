"""The log of a coordinator: lines of JSON with run, version and agent, and nothing secret."""

import json
import logging
import stat

import numpy as np
import pytest

from fedrl.runs.coordinate import LOG
from fedrl.runs.coordinator_log import MOST_KNOWN, SAME_S, CoordinatorLog
from fedrl.transport.notices import COORDINATOR
from tests.network.test_coordinate import TABLES, World, bits


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return World(TABLES).coordinate(TABLES, tmp_path_factory.mktemp("logged") / "run")


def test_a_run_has_a_line_for_each_event_with_run_version_and_agent(result):
    lines = lines_of(result.folder / LOG)
    identity = (result.folder / "run_identity").read_text().split()[0]
    events = [line["event"] for line in lines]
    assert events[0] == "listening"
    assert events[-1] == "ended"
    assert set(events) <= set(COORDINATOR)
    assert {line["run"] for line in lines} == {identity}
    ready = [line for line in lines if line["event"] == "ready"]
    assert sorted((line["agent"], line["name"]) for line in ready) == [(k, f"site-{k}") for k in range(3)]
    assert [line["version"] for line in lines if line["event"] == "merged"] == [1, 2, 3, 4, 5]


def test_only_its_owner_reads_it_and_no_parameter_is_in_it(result):
    assert stat.S_IMODE((result.folder / LOG).stat().st_mode) == 0o600
    text = (result.folder / LOG).read_text()
    values = np.concatenate([leaf.ravel() for leaf in bits(result).values()])
    assert not [x for x in values.tolist() if x not in (0.0, 1.0) and f"{x:.4g}" in text]


def test_what_comes_again_and_again_is_written_once_a_minute(tmp_path):
    now = [100.0]
    log = CoordinatorLog(tmp_path / LOG, lambda: now[0])
    for _ in range(1000):
        log.write("turned_away", "x was sent away.", name="x")
    log.write("turned_away", "y was sent away.", name="y")
    now[0] += SAME_S
    log.write("turned_away", "x was sent away.", name="x")
    assert [line["name"] for line in lines_of(tmp_path / LOG)] == ["x", "y", "x"]
    assert log.left_out == 999


def test_after_a_clock_was_set_back_nothing_is_left_out(tmp_path):
    now = [10_000.0]
    log = CoordinatorLog(tmp_path / LOG, lambda: now[0])
    for now[0] in (10_000.0, 5_000.0, 5_001.0):
        log.write("turned_away", "x was sent away.", name="x")
    assert [line["time"][11:19] for line in lines_of(tmp_path / LOG)] == ["02:46:40", "01:23:20"]
    assert log.left_out == 1


def test_memory_does_not_grow_with_the_number_of_events(tmp_path):
    log = CoordinatorLog(tmp_path / LOG, lambda: 0.0)
    for k in range(MOST_KNOWN + 50):
        log.write("turned_away", f"{k} was sent away.")
    assert len(log._last) == MOST_KNOWN


def test_a_log_that_cannot_be_written_stops_nothing_and_is_told(tmp_path):
    log = CoordinatorLog(tmp_path / "missing" / LOG)
    log.write("ready", "site-0 is ready.")
    assert "can't be written to (No such file or directory)" in log.fault


def test_text_of_a_peer_stays_in_its_line(tmp_path):
    log = CoordinatorLog(tmp_path / LOG)
    log.write("turned_away", 'x\n{"event": "ended"}', name="x\u2028y")
    (line,) = (tmp_path / LOG).read_bytes().splitlines()
    assert json.loads(line)["name"] == "x\u2028y"


def test_whom_the_transport_does_not_admit_is_in_the_log_and_only_while_the_run_lasts(tmp_path):
    class Refusing(World):
        def watch(self, bridge):
            logging.getLogger("fedrl.transport.grpc_listener").warning("refused %s: %s", "old", "It was revoked.")
            super().watch(bridge)

    result = Refusing(TABLES).coordinate(TABLES, tmp_path / "run")
    logging.getLogger("fedrl.transport.grpc_listener").warning("refused %s: %s", "late", "It was revoked.")
    away = [line for line in lines_of(result.folder / LOG) if line["event"] == "turned_away"]
    assert [line["text"] for line in away] == ["refused old: It was revoked."]
