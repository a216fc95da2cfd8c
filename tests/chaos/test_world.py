"""Runs under chaos are fine as fedrl is, and are not if it is broken: each fault planted in its code is caught."""

import itertools

import pytest

from fedrl.engines.halves.adding import Adding
from fedrl.network.clock import RealClock
from fedrl.network.sessions import Sessions
from fedrl.runs import coordinate as coordinating
from fedrl.sites.jobs import RunJobs
from fedrl.sites.sent_log import SentLog
from fedrl.wire.protocol import Sent
from tests.chaos import checker, plan, seeds, world


def seed_of(name):
    """The first seed that is of this rule and schedule."""
    return next(seed for seed in range(100) if plan.plan_of(seed, 1).name == name and not seeds.is_real(seed))


def found(folder, name, faults=12, only=None):
    """The violations of a run, whose faults are all of one kind if `only` says which."""
    made = plan.plan_of(seed_of(name), faults)
    if only is not None:
        kind, target = only
        made = made._replace(faults=tuple(fault._replace(kind=kind, target=target) for fault in made.faults))
    outcome = world.run(made._replace(patience_s=5.0), folder / "run")
    return checker.check(outcome.folder, outcome.sites, outcome.entries, outcome.tables, outcome.seed)


@pytest.mark.parametrize("name", ["mean, all", "SCAFFOLD, quorum", "mean, FedBuff"])
def test_a_run_under_chaos_has_no_violation(name, tmp_path):
    assert found(tmp_path, name) == []
    assert world.CLOCK.ahead_s == 0.0


def test_a_version_that_is_announced_before_it_is_stored_is_caught(tmp_path, monkeypatch):
    as_it_is = coordinating.for_sites
    monkeypatch.setattr(coordinating, "for_sites", lambda tables: {**as_it_is(tables), "checkpoint_s": 1e6})
    violations = found(tmp_path, "mean, all", only=("kill", -1))
    assert any(each.startswith(checker.EARLY) for each in violations)
    # Each kill then loses what was never stored.
    assert any(each.startswith(checker.LOST) for each in violations)


def test_an_update_that_is_added_twice_is_caught(tmp_path, monkeypatch):
    add, count = Adding.add, itertools.count()

    def twice(self, update):
        add(self, update)
        if next(count) == 7:
            add(self, update)

    monkeypatch.setattr(Adding, "add", twice)
    assert any(each.startswith(checker.PARAMETERS) for each in found(tmp_path, "FedAdam, all", only=("clock", -1)))


def test_an_update_that_comes_twice_and_is_told_twice_is_caught(tmp_path, monkeypatch):
    """The log of a coordinator that does not know an update again."""
    event = RealClock._event

    def forgetful(self, news):
        agent = news.agent
        if news.kind == "update" and news.job != self.roster.job[agent]:
            return [(1, agent, news.time_s - self._began, news.job)]
        return event(self, news)

    monkeypatch.setattr(RealClock, "_event", forgetful)
    violations = found(tmp_path, "mean, FedBuff", only=("duplicate", 0))
    assert any(each.startswith(checker.TWICE) for each in violations)


def test_an_update_that_is_sent_again_as_other_bytes_is_caught(tmp_path, monkeypatch):
    answer, said = RunJobs.answer, set()

    def fresh(self):
        message = answer(self)
        if isinstance(message, Sent) and (self.welcome.agent, message.job) in said:
            return message._replace(content=message.content[:-1] + bytes([message.content[-1] ^ 1]))
        said.add((self.welcome.agent, message.job))
        return message

    monkeypatch.setattr(RunJobs, "answer", fresh)
    violations = found(tmp_path, "mean, all", only=("kill", -1))
    assert any(each.startswith(checker.BYTES) for each in violations)


def test_an_update_that_leaves_without_a_line_in_the_log_is_caught(tmp_path, monkeypatch):
    append = SentLog.append
    monkeypatch.setattr(
        SentLog,
        "append",
        lambda self, time, run, kind, job, *rest: job == 3 or append(self, time, run, kind, job, *rest),
    )
    violations = found(tmp_path, "mean, all", only=("duplicate", 0))
    assert any(each.startswith(checker.UNLOGGED) for each in violations)


def test_a_run_in_which_a_task_is_never_sent_again_is_stuck(tmp_path, monkeypatch):
    """A session that forgets its task when its connection ends; the agent is back long before its job is dropped."""
    held = Sessions._held

    async def forgetful(self, link, welcome):
        self.seats[welcome.agent].task = None
        await held(self, link, welcome)

    monkeypatch.setattr(Sessions, "_held", forgetful)
    monkeypatch.setattr(world, "STUCK_S", 6.0)
    violations = found(tmp_path, "mean, all", only=("cut", 0))
    assert any(each.startswith(checker.STUCK) for each in violations)


def test_a_report_of_a_seed_names_what_it_found_and_keeps_the_folder_for_that_alone(tmp_path, monkeypatch):
    seed = seed_of("mean, all")
    fine = seeds.one(seed, 3, tmp_path)
    assert fine.violations == []
    assert fine.faults.total() <= 3
    assert fine.line.endswith(": ok")
    assert not (tmp_path / str(seed)).exists()
    monkeypatch.setattr(checker, "parameters", lambda *given: ["other parameters: x."])
    bad = seeds.one(seed, 3, tmp_path)
    assert bad.violations == ["other parameters: x."]
    assert "1 VIOLATIONS" in bad.line
    assert (tmp_path / str(seed) / "transcript.jsonl").exists()
    monkeypatch.setattr(world, "run", lambda *given: 1 / 0)
    assert seeds.called((seed, 3, tmp_path)).violations == ["failed: ZeroDivisionError('division by zero')"]
