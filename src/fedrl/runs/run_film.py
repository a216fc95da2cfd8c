"""The film of a run, which is shown in its report: a small GIF of the policy of the first seed.

It is drawn after all results are written. It can't make a run fail: if there is none, the summary has
the reason.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from fedrl.config.objects import Experiment
from fedrl.core.environment import common_of
from fedrl.core.errors import FedrlError
from fedrl.records import FilmResult
from fedrl.records.folder import FILM_BYTES, RunFolder
from fedrl.runs.film import GifFilm
from fedrl.runs.policy import policy_of, setting_of
from fedrl.runs.rendering import episode_of, shoot, together
from fedrl.runs.seed_result import SeedResult

AGENT, FRAMES, WIDTH = 0, 150, 480
"""The agent that is filmed, the largest number of pictures, and their largest width in pixels."""
LONGEST_S, LOOK_S = 60.0, 0.1
"""The seconds after which a film is given up, and the seconds between two looks at it."""


def film_of_run(
    experiment: Experiment, results: Sequence[SeedResult], place: RunFolder, stop: threading.Event
) -> FilmResult | None:
    """Film one greedy episode of a run, and write the film to the run folder.

    Args:
        experiment: The experiment.
        results: The results of the federation's seeds; the first one is filmed.
        place: The run folder.
        stop: An event that gives up the film.

    Returns:
        A description of the film, or the reason why there is none; None if no film is wanted.
    """
    place.forget_film()
    if not experiment.config.evaluation.film or not results:
        return None
    found: list[tuple[bytes, FilmResult]] = []

    def work() -> None:
        try:
            found.append(_filmed(experiment, results[0]))
        except FedrlError as fault:
            found.append((b"", {"skipped": str(fault)}))
        except BaseException as fault:  # an environment may even end the interpreter
            found.append((b"", {"skipped": f"{type(fault).__name__}: {fault}"}))

    # In a thread of its own, since the environment of a user may hang. It does not outlive the process.
    thread = threading.Thread(target=work, name="film", daemon=True)
    thread.start()
    until = time.monotonic() + LONGEST_S
    while thread.is_alive() and time.monotonic() < until and not stop.is_set():
        thread.join(LOOK_S)
    if not found:
        why = "The run was interrupted." if stop.is_set() else f"It would have taken more than {LONGEST_S:g} s."
        return {"skipped": why}
    content, told = found[0]
    if content:
        place.write_film(content)
    return told


def _filmed(experiment: Experiment, result: SeedResult) -> tuple[bytes, FilmResult]:
    """Return the GIF and its description."""
    policy = policy_of(experiment, result.params, result.seed, AGENT)
    setting, actor = setting_of(experiment, AGENT), policy.actor
    common = common_of(experiment.environment)
    if common is not None and policy.facts.stacked:
        # All players are in the picture, each with its own policy.
        actor = together(actor._replace(params=result.params), common.world)
    with episode_of(actor, experiment.environment, setting, result.seed) as episode:
        film = GifFilm(episode.pause_ms, FRAMES, WIDTH)
        returned, steps = shoot(episode, film)
    earned = returned if math.isfinite(returned) else None
    return film.content(FILM_BYTES), {"seed": result.seed, "agent": AGENT, "return": earned, "steps": steps}
