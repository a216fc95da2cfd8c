"""The driver of a study on Ray with scripted workers in place of processes: who runs what, whatever ends."""

import os
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedrl.core.errors import ConfigError, RunError
from fedrl.core.versions import COMPUTING, versions
from fedrl.studies import ray_study
from fedrl.studies.folder import StudyFolder
from fedrl.studies.one_setting import SettingOutcome
from fedrl.studies.plan import StudySetting, plan_of, program_groups
from fedrl.studies.ray_study import RETRIES, Cluster
from fedrl.studies.ray_worker import News, Prepared
from fedrl.studies.surroundings import Surroundings
from tests.studies.test_study_workers import CORRIDOR

READY = Prepared("host", 2**22 + 1, versions(COMPUTING))  # a number that no process has
END, EVENT = "end", {"event": "probe"}


class FakeDeathError(Exception):
    """The error of a worker that has ended."""


DEAD = FakeDeathError("Worker exit detail: it was tired. More.")


class Actor:
    """A worker that answers as its script says: first of its preparation, then of its settings, `END` of each.

    Attributes:
        script: What it answers.
        given: Numbers of the settings that it got.
        stopped: Arguments of the requests to stop.
    """

    def __init__(self, script: Sequence[Any]) -> None:
        self.script, self.given, self.stopped, self.killed = list(script), list[int](), list[Any](), False
        for name in ("set_up", "begin", "news", "stop"):
            setattr(self, name, types.SimpleNamespace(remote=getattr(self, f"_{name}")))

    def _set_up(self, *_: Any) -> Any:
        return self.script.pop(0)

    def _begin(self, number: int, *_: Any) -> None:
        self.given.append(number)

    def _news(self) -> Any:
        said = self.script.pop(0) if self.script else END
        return News([EVENT], SettingOutcome(self.given[-1], {})) if said == END else said

    def _stop(self, number: int | None = None) -> None:
        self.stopped.append(number)


class Ray:
    """The parts of Ray that the driver uses.

    Attributes:
        scripts: Of the workers, in the order in which they are started; further ones are ready and end each setting.
        actors: The workers that were started.
    """

    def __init__(self, scripts: Sequence[Sequence[Any]]) -> None:
        self.scripts, self.actors = list(scripts), list[Actor]()
        self.module = types.ModuleType("ray")
        asked: Any = self.module
        asked.exceptions = types.SimpleNamespace(RayError=FakeDeathError)
        asked.remote = lambda cls: types.SimpleNamespace(options=lambda **_: types.SimpleNamespace(remote=self.start))
        asked.wait = lambda answers, num_returns, timeout: ([x for x in answers if x.said is not None], [])
        asked.get, asked.kill = self.get, self.kill
        asked.cluster_resources = asked.available_resources = lambda: {"CPU": 2.0}

    def start(self) -> Any:
        self.actors.append(Actor(self.scripts.pop(0) if self.scripts else [READY]))
        return Remote(self.actors[-1])

    def get(self, answer: Any) -> Any:
        if isinstance(answer.said, Exception):
            raise answer.said
        return answer.said

    def kill(self, actor: Any) -> None:
        actor.actor.killed = True


class Answer:
    """A future: what was said; None for never."""

    def __init__(self, said: Any) -> None:
        self.said = said


class Remote:
    """An actor whose methods return futures."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return types.SimpleNamespace(remote=lambda *given: Answer(getattr(self.actor, name).remote(*given)))


Ran = Callable[..., tuple[list[SettingOutcome], list[str], Ray]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """`(scripts, settings=, workers=, tell=, stop=) -> outcomes, notices, ray` of a study of so many settings."""
    monkeypatch.setattr(os, "kill", lambda process, number: None)

    def run(
        scripts: Sequence[Sequence[Any]],
        settings: int = 2,
        workers: int = 1,
        tell: Any = None,
        stop: threading.Event | None = None,
    ) -> tuple[list[SettingOutcome], list[str], Ray]:
        ray, plan = Ray(scripts), plan_of(CORRIDOR, {"learner.epsilon": [0.1 * (i + 1) for i in range(settings)]})
        given = Surroundings(str(tmp_path), (), (), (), True)
        cluster = Cluster(ray.module, workers, {}, given, program_groups(plan), True)
        notices: list[str] = []

        def told(event: Any) -> None:
            if event.get("event") == "notice":
                notices.append(event["text"])
            elif tell is not None:
                tell(event)

        begun: list[StudySetting] = []
        place, event = StudyFolder(tmp_path, plan), stop or threading.Event()
        try:
            with cluster.running(place, plan.settings, begun.append, told, event) as outcomes:
                found = list(outcomes)
        finally:
            assert all(actor.killed for actor in ray.actors)
            assert list(tmp_path.glob(".*")) == []
        assert sorted(each.number for each in begun) == sorted(n for actor in ray.actors for n in actor.given)
        return found, notices, ray

    return run


def numbers(outcomes: list[SettingOutcome]) -> list[int]:
    return [outcome.number for outcome in outcomes]


def test_one_worker_runs_all_and_no_more_workers_start_than_settings(ran: Ran) -> None:
    outcomes, notices, ray = ran([], settings=3, workers=8)
    assert sorted(numbers(outcomes)) == [1, 2, 3]
    assert (len(ray.actors), notices) == (3, [])
    assert all(actor.given == [i] for i, actor in enumerate(ray.actors, 1))


def test_a_setting_is_tried_again_after_all_others_and_fails_after_the_last_time(ran: Ran) -> None:
    outcomes, notices, ray = ran([[READY, DEAD]])
    assert numbers(outcomes) == [2, 1]
    assert all(outcome.reason is None for outcome in outcomes)
    assert [actor.given for actor in ray.actors] == [[1], [2, 1]]
    assert notices == [
        f"The worker process {READY.process} on host ended during setting 1 (it was tired). The setting is resumed "
        "from its last checkpoint."
    ]
    outcomes, notices, ray = ran([[READY, DEAD]] + [[READY, END, DEAD]] + [[READY, DEAD]] * (RETRIES - 1))
    assert numbers(outcomes) == [2, 1]
    assert outcomes[1].reason is not None
    assert outcomes[1].reason.endswith(f"It was tried {RETRIES + 1} times.")
    assert len(notices) == RETRIES
    assert len(ray.actors) == RETRIES + 1


def test_after_the_last_try_of_a_setting_the_others_still_run(ran: Ran) -> None:
    scripts = [[READY, DEAD], [READY, DEAD], *[[READY, DEAD]] * (2 * RETRIES)]
    outcomes, _, ray = ran(scripts)
    assert sorted(numbers(outcomes)) == [1, 2]
    assert all(outcome.reason for outcome in outcomes)
    assert [actor.given for actor in ray.actors] == [[1], [2]] * (RETRIES + 1)


def test_a_worker_that_differs_or_cannot_start_is_left_out_and_told(ran: Ran) -> None:
    other = READY._replace(versions=READY.versions | {"jax": "0.0.1", "unknown": "1"})
    for said, sentence in (
        (other, "The worker on host has jax 0.0.1, unknown 1, and this process jax "),
        (READY._replace(fault="It sees nothing."), "It sees nothing."),
        (DEAD, "A worker process could not start (it was tired)."),
    ):
        outcomes, notices, ray = ran([[said], [READY]], workers=2)
        assert numbers(outcomes) == [1, 2]
        assert ray.actors[1].given == [1, 2]
        (notice,) = notices
        assert notice.startswith(sentence)
        assert notice.endswith("The study goes on without this worker.")
        _, notices, _ = ran([[READY, DEAD], [said], [READY]], workers=2)  # told once, also where others start later
        assert [notice.startswith(sentence) for notice in notices] == [True, False]
        with pytest.raises(RunError) as refused:
            ran([[said], [said]], workers=2)
        assert str(refused.value).startswith(sentence)
        assert "Continue" not in str(refused.value)


def test_a_study_whose_last_worker_is_gone_says_how_it_is_continued(ran: Ran, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"could not start .+ Continue with fedrl sweep --resume {tmp_path}\.$"):
        ran([[READY, DEAD], [DEAD]])


def test_a_worker_that_does_not_answer_is_left_out_with_the_cores(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_study, "START_S", -1.0)
    with pytest.raises(
        RunError, match=r"^1 worker has not started within -1 s\. The Ray cluster has 2 CPUs, of which 2"
    ):
        ran([[None]])


def test_a_sink_that_fails_ends_its_setting_and_no_other(ran: Ran) -> None:
    def once(message: str) -> Callable[[Any], None]:
        left = [message]

        def tell(event: Any) -> None:
            if left:
                raise ConfigError(left.pop())

        return tell

    running = News([EVENT, EVENT], None)
    for script, given in (
        ([READY, running], [[1, 2]]),
        ([READY, running, DEAD], [[1], [2]]),  # it is not resumed
        ([READY], [[1, 2]]),
    ):
        outcomes, notices, ray = ran([script], tell=once("enough"))
        assert [(each.number, each.reason) for each in outcomes] == [(1, "enough"), (2, None)]
        assert [actor.given for actor in ray.actors] == given
        assert ray.actors[0].stopped == [1]
        assert notices == []


def test_a_study_that_is_stopped_starts_nothing_more_and_tells_which_settings_had_begun(ran: Ran) -> None:
    stop = threading.Event()
    outcomes, _, ray = ran([[READY, DEAD, END], [READY, News([EVENT], None)]], 3, tell=lambda _: stop.set(), stop=stop)
    assert numbers(outcomes) == [1, 2]  # the first one had died, and waits
    assert [actor.given for actor in ray.actors] == [[1], [2]]
    assert ray.actors[1].stopped == [None]
    stop = threading.Event()
    running = [READY, News([EVENT], None), DEAD]  # a death while it stops is no failure
    outcomes, notices, ray = ran([running], tell=lambda _: stop.set(), stop=stop)
    assert (numbers(outcomes), outcomes[0].reason, notices, len(ray.actors)) == ([1], None, [], 1)
    stop.set()
    assert ran([[None]], stop=stop)[0] == []
