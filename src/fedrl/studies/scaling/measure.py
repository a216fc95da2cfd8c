"""Measure rounds with one number of agents, in a process of its own.

    parent: Prober --a line of JSON--> this process: build, simulate, warm up, measure --lines of JSON--> parent

A process of its own, so that its peak memory is that of this number of agents, and it may run out of it. Compiled
programs come from the cache on disk. It ends with its parent, whose end closes its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError
from fedrl.core.imports import imported, named, search_beside
from fedrl.launch import use_devices
from fedrl.studies.scaling.memory import peak_bytes, workers_bytes

if TYPE_CHECKING:
    from fedrl.config.methods import Method
    from fedrl.engines.state import RoundResult, Simulation

WARM_UP = 2
"""Rounds before those that are measured: they compile, and a schedule of servers may compile more in the second."""
LEAST_ROUNDS, MOST_ROUNDS, LEAST_S = 5, 50, 1.0
"""At least so many rounds are measured; of short ones more, until they took so many seconds together."""
COMPILED = "/jax/core/compile/backend_compile_duration"
READ = "/jax/compilation_cache/cache_retrieval_time_sec"

Tell = Callable[[str], None]


def main(request: Mapping[str, Any]) -> None:
    """Answer one request of a parent on standard output; what an environment prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _be_ended_first()

    def tell(doing: str) -> None:
        _say(answers, {"doing": doing})

    _say(answers, answer_to(request, tell))
    sys.stderr.flush()
    os._exit(0)  # at once: everything is closed, and the parent is waiting


def answer_to(request: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Return the part of a `Probe` that was measured, or why nothing was.

    Args:
        request: The "tables" of a configuration, with the number of agents in them, the folder "beside" which modules
            may be, the "modules" and "references" that it names, and the number of "devices".
        tell: Is called with what is being done.
    """
    try:
        if request["beside"] is not None:
            search_beside(Path(request["beside"]))
        for module in request["modules"]:
            imported(module, "The experiment")
        for reference in request["references"]:
            named(reference, "The experiment")
        return {"state": "measured", **measured(request["tables"], request["devices"], tell)}
    except (ConfigError, UnsoundError) as fault:
        return {"state": "refused", "reason": str(fault)}
    except MemoryError:
        return {"state": "failed", "reason": "It ran out of memory."}
    except Exception as fault:
        # Of XLA's errors only the text tells which of them is about memory.
        if "RESOURCE_EXHAUSTED" in str(fault):
            return {"state": "failed", "reason": f"It ran out of memory: {str(fault).splitlines()[0]}"}
        if not isinstance(fault, FedrlError):
            traceback.print_exception(fault)
        told = str(fault) if isinstance(fault, FedrlError) else f"{type(fault).__name__}: {fault}"
        return {"state": "failed", "reason": told}


def measured(tables: Mapping[str, Any], devices: int | None, tell: Tell) -> dict[str, Any]:
    """Build the experiment of a configuration, run rounds of its federation, and return what was measured.

    Raises:
        ConfigError: The experiment can't be built, or there can't be so many devices.
        UnsoundError: Its parts can't be combined.
        RunError: An environment failed in a round.
    """
    began = time.perf_counter()
    use_devices(devices)
    import jax

    from fedrl.config import load
    from fedrl.config.build import build
    from fedrl.runs.simulations import simulation_of

    compiling = _Compiling()
    tell("building")
    experiment = build(load(tables))
    method = experiment.methods[0]
    with simulation_of(experiment, method) as simulation:
        tell("warming up")
        state, seen = simulation.init(experiment.config.seed_list[0]), None
        for _ in range(WARM_UP):
            state, seen = simulation.round(state)
        assert seen is not None
        start_s = time.perf_counter() - began
        rounds, taken = _rounds(simulation, state, tell)
        found = _result(method, rounds, taken, seen)
        memory = peak_bytes() + workers_bytes()
    accelerators = [stats["peak_bytes_in_use"] for d in jax.local_devices() if (stats := d.memory_stats())]
    machine = {"platform": jax.default_backend(), "devices": jax.local_device_count(), "jax": jax.__version__}
    return found | {
        "memory_bytes": memory + sum(accelerators),
        "start_s": start_s,
        "compiled_s": max(0.0, compiling.seconds),  # a server that merges every fourth round compiles after warming up
        "machine": machine,
    }


class _Compiling:
    """Counts the seconds in which this process compiles programs that are not in the cache on disk."""

    def __init__(self) -> None:
        import jax

        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        # Reading a program is counted as compiling it, too, and once more by itself.
        self.seconds += {COMPILED: duration_secs, READ: -duration_secs}.get(event, 0.0)


def _rounds(simulation: Simulation, state: Any, tell: Tell) -> tuple[list[RoundResult], list[float]]:
    """Run rounds, and return their results and their seconds."""
    rounds: list[RoundResult] = []
    taken: list[float] = []
    while len(taken) < LEAST_ROUNDS or (sum(taken) < LEAST_S and len(taken) < MOST_ROUNDS):
        tell(f"round {len(taken) + 1}")
        started = time.perf_counter()
        state, seen = simulation.round(state)
        taken.append(time.perf_counter() - started)
        rounds.append(seen)
        if seen.failures:
            failure = seen.failures[0]
            raise RunError(
                f"The environment of agent {failure.agent} failed, so the rounds are not those of all agents: "
                f"{failure.reason}. Check it with fedrl check-env."
            )
    return rounds, taken


def _result(method: Method, rounds: list[RoundResult], taken: list[float], before: RoundResult) -> dict[str, Any]:
    """Return the measured numbers of rounds; `before` is the result of the round before them."""
    from fedrl.runs.session import steps_of

    return {
        "rounds": len(taken),
        "round_s": median(taken),
        "round_low_s": min(taken),
        "round_high_s": max(taken),
        "agents_compute_s": median(seen.sums["agents_compute"] for seen in rounds),
        "server_compute_s": median(seen.sums["server_compute"] for seen in rounds),
        "steps_per_second": sum(steps_of(method, seen) for seen in rounds) / sum(taken),
        "bytes_up": fmean(seen.bytes_up for seen in rounds),
        "bytes_down": fmean(seen.bytes_down for seen in rounds),
        "messages_up": fmean(seen.messages_up for seen in rounds),
        "messages_down": fmean(seen.messages_down for seen in rounds),
        "latency_s": latency_of(rounds, before),
        "rejected": sum(len(seen.rejected) for seen in rounds),
    }


def latency_of(rounds: list[RoundResult], before: RoundResult) -> float | None:
    """Return the seconds that the messages of a round take, or the simulated seconds of a round on a virtual clock.

    None if the configuration describes neither links nor devices; then all messages arrive at once.
    """
    last = rounds[-1].clock_stats
    if last is not None and before.clock_stats is not None:
        return (last.time_s - before.clock_stats.time_s) / len(rounds)
    latency = fmean(seen.latency_s for seen in rounds)
    return latency if latency > 0 else None


def _say(answers: IO[str], message: Mapping[str, Any]) -> None:
    try:
        answers.write(json.dumps(message) + "\n")
        answers.flush()
    except BrokenPipeError:  # the parent has ended
        os._exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(1)  # so that worker processes are closed


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _be_ended_first() -> None:
    """Let a system that is short of memory end this process before any other."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return
