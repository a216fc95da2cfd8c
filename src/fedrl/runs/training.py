"""Train every seed of a method: several in parallel, with one compiled program and checkpoints.

[seed 0 | worker 0] [seed 1 | worker 1] ... --round by round--> records, checkpoint, SeedResult

The first seed of a program compiles it while the others wait. On a request to stop, a seed ends after its round. If a
round fails, the seed ends with its state before that round, and the others stop after theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import numpy as np

from fedrl.config.coordination import all_act_alike, has_common_policy
from fedrl.config.measures import declared
from fedrl.config.methods import Method
from fedrl.config.objects import Experiment
from fedrl.core.environment import HostEnvironment, may_fail
from fedrl.core.errors import FedrlError, NoMoreUpdatesError, RunError, StoppedWaitingError
from fedrl.engines.state import Simulation, SimulationState
from fedrl.federation.downlink import sent_params
from fedrl.privacy.ledger import OverspentError
from fedrl.records import Compile, Event, RoundRecord, checkpoint
from fedrl.records.rejections import NOTHING_MERGED, History
from fedrl.runs.heterogeneity import begun, hears_all, is_measured, measured
from fedrl.runs.measuring import greedy_values
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import Policies, Session, evaluated, record_of, seed_result, steps_of
from fedrl.runs.simulations import simulation_of
from fedrl.runs.spending import Account, Unlimited
from fedrl.runs.states import deaths_in, load_state, save_state


@dataclass
class Program:
    """A method's simulation on certain devices, whether its program is compiled, and the seconds that this took."""

    simulation: Simulation
    compile_s: float = 0.0
    compiled: threading.Event = field(default_factory=threading.Event)


def simulations(experiment: Experiment, method: Method) -> list[Simulation]:
    """Return one simulation on all devices, or one per device if all agents are in one block, which uses one device."""
    devices = jax.local_devices()
    whole = simulation_of(experiment, method)
    seeds = len(experiment.config.seed_list)
    on_host = isinstance(experiment.environment, HostEnvironment)
    # A single block can't be divided among devices; separate simulations let seeds run in parallel instead.
    if whole.elsewhere or on_host or whole.agents > whole.block or seeds == 1 or len(devices) == 1:
        return [whole]
    return [simulation_of(experiment, method, [device]) for device in devices[:seeds]]


def all_seeds(session: Session, method: Method, programs: Sequence[Program]) -> list[SeedResult]:
    """Train every seed of a method, as many at a time as there are devices, and return their results."""
    session.measures[method.name] = declared(
        method.federation.learner, programs[0].simulation.measures, programs[0].simulation.silent
    )
    fresh = [program for program in programs if not program.compiled.is_set()]
    if fresh:
        session.tell(Compile(event="compile", method=method.name))
    seeds = session.experiment.config.seed_list
    # Host environments have worker processes on all cores, so their seeds run one after the other.
    workers = 1 if isinstance(session.experiment.environment, HostEnvironment) else len(jax.local_devices())
    started = time.perf_counter()
    pool, finished = ThreadPoolExecutor(max_workers=workers), False
    try:
        jobs: list[Future[SeedResult | None]] = []
        for i, seed in enumerate(seeds):
            jobs.append(pool.submit(_guarded, session, method, programs[i % len(programs)], seed, i < len(programs)))
        seed_results = [found for found in [job.result() for job in jobs] if found is not None]
        finished = True
    finally:
        # A second signal must not wait for a round that hangs.
        pool.shutdown(wait=finished, cancel_futures=True)
    compiling = max((program.compile_s for program in fresh), default=0.0)  # at the same time on each device
    session.timing.compile_s += compiling
    session.timing.training_s += time.perf_counter() - started - compiling
    return seed_results


def _guarded(session: Session, method: Method, program: Program, seed: int, first: bool) -> SeedResult | None:
    """Train one seed; if it fails, let the others stop, too."""
    try:
        if not first:
            program.compiled.wait()
        # A seed that has a checkpoint still has its result, also where no time is left for another round.
        begun = session.folder.checkpoint(method.name, seed).exists()
        return None if session.stopping and not begun else _seed(session, method, program, seed)
    except Exception as fault:
        session.fail(fault)
        return None
    except SystemExit as end:  # signals are heard in the main thread alone: this is none
        session.fail(
            FedrlError(
                f"Seed {seed} of {method.name}: something called exit({end.code!r}), as an environment may that is "
                "stepped in this process, and the run can't go on without it. Raise an exception there instead."
            )
        )
        return None
    except BaseException:
        session.stop.set()
        raise
    finally:
        # Also after an error: other seeds would wait for this one's compilation for ever.
        program.compiled.set()


def _seed(session: Session, method: Method, program: Program, seed: int) -> SeedResult | None:
    """Train one seed of one method, from its checkpoint if there is one; None if it was stopped before any round."""
    config, simulation = session.experiment.config, program.simulation
    path = session.folder.checkpoint(method.name, seed)
    began = time.perf_counter()
    done = checkpoint.round_of(path)
    account = session.account(method, seed)
    run_state = _last_state(session, method, simulation, seed, account)
    # Rejections of earlier rounds are read from the records, as warnings need rejections in a row.
    history = History.of(method.name, seed, method.communicates, session.folder.records() if done else ())
    failures = session.failures(method.name, seed)
    saved, ended = time.perf_counter(), ""
    # The programs above may have taken long to compile: a signal since then is heard before the first round.
    for number in range(done + 1, done + 1 if session.stopping else config.rounds + 1):
        measuring = method.communicates and hears_all(session.experiment) and is_measured(number, config.rounds)
        session.notice(account.dropped(run_state, number))
        # Copied before the round, since a compiled round reuses the memory of its state.
        start = begun(simulation, run_state) if measuring else None
        started = time.perf_counter()
        try:
            run_state, seen = account.round(simulation.round, run_state, number)
        except Exception as fault:
            ended = str(fault) if isinstance(fault, NoMoreUpdatesError | OverspentError) else ""
            run_state, done = _recovered(session, method, simulation, seed, done, run_state, fault)
            break
        seconds = time.perf_counter() - started
        if not program.compiled.is_set():
            program.compile_s = time.perf_counter() - began
            program.compiled.set()
        else:
            session.timing.add_steps(steps_of(method, seen))
        record = record_of(method, seed, number, seen, seconds, session.measures[method.name])
        warnings = history.add(record, seen.steps)
        rejected = [rejection.agent for rejection in seen.rejected]
        differing = None if start is None else measured(start, simulation.held(run_state), rejected)
        if differing is not None:
            record["heterogeneity"] = differing
        record = account.noted(record, run_state)
        last = number == config.rounds
        if last or (config.evaluation.every and number % config.evaluation.every == 0):
            policies = _policies(session.experiment, method, simulation, run_state, history)
            _add_greedy(record, session, seed, policies, number)
        events: list[Event] = [record, *warnings, *deaths_in(seen, method.name, seed, number)]
        for event in events:
            session.tell(event)
        failures.add(number, seen)
        done = number
        # Read once: it may be set between the two uses, and then the checkpoint would be missing.
        stopping = session.stopping
        if last or stopping or time.perf_counter() - saved >= config.checkpoint_s:
            save_state(path, simulation, run_state, number, session.folder.syncing())
            saved = time.perf_counter()
        if stopping:
            break
    if not done and not ended:
        return None
    policies = _policies(session.experiment, method, simulation, run_state, history)
    policies = policies if done else policies._replace(failed=NOTHING_MERGED)
    return seed_result(session, seed, done, policies)._replace(ended=ended)


def _add_greedy(record: RoundRecord, session: Session, seed: int, policies: Policies, number: int) -> None:
    """Evaluate the policies after a round, and add the results to its record."""
    record["greedy"], sums, _ = evaluated(session, seed, policies, number)
    measures = greedy_values(session.experiment.learner, sums, _with_return(record["greedy"]))
    if measures:
        record["greedy_measures"] = measures


def _with_return(greedy: Sequence[float | None]) -> np.ndarray:
    return np.array([value is not None for value in greedy], bool)


def _last_state(
    session: Session, method: Method, simulation: Simulation, seed: int, account: Account | Unlimited
) -> SimulationState:
    """Return the state of the last checkpoint of a seed, or the first one."""
    path, run_state = session.folder.checkpoint(method.name, seed), session.first_state(method, simulation, seed)
    done = checkpoint.round_of(path)
    return account.continued(load_state(path, simulation, run_state) if done else run_state, done)


def _recovered(
    session: Session,
    method: Method,
    simulation: Simulation,
    seed: int,
    done: int,
    run_state: SimulationState,
    fault: Exception,
) -> tuple[SimulationState, int]:
    """Return the state of a seed after its last complete round, and save it; and the number of that round.

    The run fails with the error of the next round, unless this says that no update would have arrived in it. The failed
    round may have overwritten the state before it, so the rounds since the last checkpoint are run again. With host
    environments these would be other rounds; there the state itself is used, if none of its arrays is deleted or in
    another process. A round that is run again is paid for again: without privacy budget for it, an earlier state is
    all there is.
    """
    path = session.folder.checkpoint(method.name, seed)
    at, account = checkpoint.round_of(path), session.account(method, seed)
    if isinstance(fault, OverspentError):
        # The round has not begun, so the state before it is whole.
        if done > at:
            save_state(path, simulation, run_state, done, session.folder.syncing())
        return run_state, done
    if not isinstance(fault, NoMoreUpdatesError | StoppedWaitingError):
        session.fail(fault)
        if not done:
            return run_state, done
    if not done or at == done or not may_fail(session.experiment.environment):
        run_state = _last_state(session, method, simulation, seed, account)
        for number in range(at + 1, done + 1):
            if account.over(number, run_state):
                done = number - 1
                break
            run_state, _ = account.round(simulation.round, run_state, number)
    elif simulation.elsewhere or any(_is_deleted(leaf) for leaf in jax.tree.leaves(run_state)):
        raise RunError("The round before is lost.")
    save_state(path, simulation, run_state, done, session.folder.syncing())
    return run_state, done


def _is_deleted(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _policies(
    experiment: Experiment, method: Method, simulation: Simulation, run_state: SimulationState, history: History
) -> Policies:
    """Return the policies with which the agents of a method act, after the last broadcast if there was one."""
    learner, where = experiment.learner, experiment.coordination
    if method.name == "centralised":
        # The centralised method has one agent, whose policy is played in the environments of all.
        alone = jax.tree.map(lambda leaf: leaf[0], simulation.params_of(run_state))
        return Policies(alone, False, alone, failed=history.unlearned.get(0, ""))
    if not method.communicates:
        return Policies(simulation.params_of(run_state), True, None, unlearned=history.unlearned)
    # With down stages agents have a copy of the server's parameters, and the copy is what they act with.
    server, common = run_state.server, None
    if has_common_policy(learner, where):
        common = jax.tree.map(np.asarray, sent_params(server.down, server.params))
    if common is not None and all_act_alike(learner, where):
        return Policies(common, False, common, failed=history.failed)
    return Policies(simulation.params_of(simulation.adopt(run_state)), True, common, failed=history.failed)
