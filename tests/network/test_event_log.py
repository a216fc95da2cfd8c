"""What a coordinator writes beside its rounds: the log of its scheduler, and the identity of the run."""

import json

import pytest

from fedrl.core.errors import ConfigError, RunError
from fedrl.network.log import Collected
from fedrl.records.folder import EVENTS, SUMMARY
from fedrl.runs.coordinate import IDENTITY, EventLog, _check_continued, _identity
from tests.network.test_clock import Timed


@pytest.fixture
def clock(monkeypatch):
    return Timed(monkeypatch).clock


def rounds_of(path):
    """Round and agent of each line."""
    lines = [json.loads(line) for line in (path / EVENTS).read_text().splitlines()]
    return [(line["round"], line["told"][0]["collected"][0][0]) for line in lines]


def follow(place, clock, *rounds):
    """A process that computes these rounds, each with what it is told of an agent."""
    log = EventLog(place)
    log.follow(clock)
    for number, agent in rounds:
        clock.log.append(Collected([agent], [True]))
        log({"round": number})
        assert clock.log == []


def test_a_round_that_is_computed_again_is_told_once(tmp_path, clock):
    follow(tmp_path, clock, (1, 10), (2, 11), (3, 12))
    follow(tmp_path, clock, (2, 21), (3, 22), (4, 23))
    assert rounds_of(tmp_path) == [(1, 10), (2, 21), (3, 22), (4, 23)]
    follow(tmp_path, clock, (5, 34))
    assert rounds_of(tmp_path)[-2:] == [(4, 23), (5, 34)]
    follow(tmp_path, clock, (1, 40))  # nothing was stored
    assert rounds_of(tmp_path) == [(1, 40)]


def test_other_records_than_those_of_rounds_leave_the_log_alone(tmp_path, clock):
    log = EventLog(tmp_path)
    log({"round": 1})  # before there is a clock
    log.follow(clock)
    clock.log.append(Collected([0], [True]))
    log({"event": "notice", "text": "x"})
    assert len(clock.log) == 1
    assert not (tmp_path / EVENTS).exists()


@pytest.mark.parametrize("replayable", [False, True])
def test_a_run_keeps_its_identity_and_its_kind_of_keys(replayable, tmp_path):
    found = _identity(tmp_path, replayable)
    assert _identity(tmp_path, replayable) == found
    assert len(bytes.fromhex(found)) == 16
    _check_continued(tmp_path, replayable)
    with pytest.raises(ConfigError, match="has begun with keys that are"):
        _check_continued(tmp_path, not replayable)
    (tmp_path / SUMMARY).write_text("{}")
    with pytest.raises(RunError, match="is complete"):
        _check_continued(tmp_path, replayable)
    (tmp_path / SUMMARY).unlink()
    (tmp_path / IDENTITY).write_text(found)
    with pytest.raises(RunError, match="is damaged"):
        _check_continued(tmp_path, replayable)
