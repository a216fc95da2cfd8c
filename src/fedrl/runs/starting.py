"""Start a run from an earlier one: `init` of a configuration.

    earlier run --read_start--> StartingPoint --write--> checkpoints/start-<seed>.safetensors
                                                                 +--first_state--> SimulationState of a method

What a seed starts from is copied into the run folder before the first round, so a resumed run does not read the earlier
one again. Only safetensors and TOML are read, and nothing in them is executed.

    state = "parameters"   federation and baselines start from the parameters of a policy
    state = "all"          the federation continues from the last state of each seed; independent agents continue from
                           their learners in it, after the last broadcast; the centralised learner has no state there
                           and starts from the parameters
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from fedrl.config.experiment import InitConfig
from fedrl.config.loading import as_dict, read
from fedrl.config.methods import Method
from fedrl.config.objects import Experiment
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.learner import Learner, policy_shapes
from fedrl.core.types import Params
from fedrl.engines.continuing import CURE, difference, named
from fedrl.engines.state import Simulation, SimulationState
from fedrl.records import checkpoint, folder
from fedrl.records.files import reading, write_atomically
from fedrl.records.folder import RunFolder
from fedrl.runs.policy_file import PolicyFile, open_policy, seed_in, whose
from fedrl.runs.simulations import simulation_of

POLICY, STATE, ORIGIN, METHOD = "policy/", "state/", "seed", "federated"


class StartingPoint(NamedTuple):
    """What the seeds of a run start from.

    Attributes:
        origin: By seed of this run, the seed of the earlier run.
        arrays: By seed of the earlier run, the arrays of a start file.
    """

    origin: Mapping[int, int]
    arrays: Mapping[int, Mapping[str, np.ndarray]]

    def write(self, place: RunFolder) -> None:
        """Write the start file of each seed into a run folder."""
        for seed, earlier in self.origin.items():
            content = {**self.arrays[earlier], ORIGIN: np.asarray([earlier], np.int64)}
            write_atomically(place.start(seed), safetensors.numpy.save(content), folder.ELSEWHERE)


def read_start(experiment: Experiment) -> tuple[Experiment, StartingPoint | None]:
    """Read what a run starts from, and check that all of its methods can start from it.

    Returns:
        The experiment with the digests of the files that were read in its configuration; None without `init`.

    Raises:
        ConfigError: The seed or agent does not exist, the parameters do not fit, or a file was changed.
        UnsoundError: The whole state can't be continued.
        RunError: The earlier run or a file does not exist or is damaged.
    """
    init = experiment.config.init
    if not isinstance(init, InitConfig):
        return experiment, None
    home = Path(init.run).expanduser()
    try:
        file = open_policy(home / folder.PARAMS if home.is_dir() else home)
    except RunError as fault:
        raise RunError(f"init.run: {fault}") from fault
    digests = {folder.PARAMS: _digest(file.path)}
    try:
        first = seed_in(file, init.seed)
    except ConfigError as fault:
        raise ConfigError(f"init.{fault}") from fault
    chosen = {seed: seed if init.seed is None and seed in file.seeds else first for seed in experiment.config.seed_list}
    arrays: dict[int, dict[str, np.ndarray]] = {}
    for earlier in dict.fromkeys(chosen.values()):
        arrays[earlier] = dict(_policy(experiment, file, init, earlier))
        if init.state == "all":
            path = _last_state(home, earlier)
            digests[str(path.relative_to(home))] = _digest(path)
            arrays[earlier] |= {STATE + name: x for name, x in checkpoint.arrays_of(path).items()}
    _check_digests(init, home, digests)
    experiment = replace(experiment, config=replace(experiment.config, init=replace(init, sha256=digests)))
    start = StartingPoint(chosen, arrays)
    if init.state == "all":
        _check_whole(experiment, home, start)
    return experiment, start


def first_state(place: RunFolder, experiment: Experiment, method: Method, simulation: Simulation, seed: int) -> Any:
    """Return the state in which a seed of a method begins.

    Raises:
        RunError: The start file is missing or damaged.
    """
    init = experiment.config.init
    if not isinstance(init, InitConfig):
        return simulation.init(seed)
    path = place.start(seed)
    try:
        with reading(path, "Start the run again in another folder."):
            arrays = dict(safetensors.numpy.load(path.read_bytes()))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing, from which this seed starts. Start the run again in another folder."
        ) from None
    return _begun(experiment, method, simulation, seed, arrays, path)


def origins(place: RunFolder, experiment: Experiment) -> list[str]:
    """Return a sentence about the seeds that start from a seed of another number; none if `init` has chosen it."""
    init = experiment.config.init
    if not isinstance(init, InitConfig) or init.seed is not None:
        return []
    moved: dict[int, list[int]] = {}
    for seed in experiment.config.seed_list:
        with reading(place.start(seed), "Start the run again in another folder."):
            origin = int(safetensors.numpy.load(place.start(seed).read_bytes())[ORIGIN][0])
        if origin != seed:
            moved.setdefault(origin, []).append(seed)
    return [
        f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} start{'s' * (len(seeds) == 1)} from seed {origin} "
        f"of {init.run}, which has no seed of {'these numbers' if len(seeds) > 1 else 'this number'}."
        for origin, seeds in moved.items()
    ]


def _begun(
    experiment: Experiment,
    method: Method,
    simulation: Simulation,
    seed: int,
    arrays: Mapping[str, np.ndarray],
    path: Path,
) -> SimulationState:
    """Return the first state of a method by the arrays of a start file."""
    policy: Params | None = None
    if any(name.startswith(POLICY) for name in arrays):
        policy = checkpoint.unnamed(dict(arrays), POLICY[:-1], policy_shapes(method.federation.learner))
    if method.name == "centralised" or not any(name.startswith(STATE) for name in arrays):
        return simulation.init(seed, params=policy)
    if method.communicates:
        earlier = _earlier(arrays, simulation.whole(simulation.init(seed)), method.federation.learner, path)
        return simulation.init(seed, params=policy, earlier=earlier)
    with simulation_of(experiment, experiment.methods[0]) as whole:
        states = whole.states_of(whole.adopt(_begun(experiment, experiment.methods[0], whole, seed, arrays, path)))
    return simulation.with_states(simulation.init(seed, params=policy), states)


def _earlier(arrays: Mapping[str, np.ndarray], like: SimulationState, learner: Learner, path: Path) -> SimulationState:
    """Return the last state of the earlier run, in the shapes of a state of this one."""
    found = {name.removeprefix(STATE): x for name, x in arrays.items() if name.startswith(STATE)}
    # The parameters from which the earlier run itself started are the last arrays of its state.
    own, acting = len(named(like)), len(named(policy_shapes(learner)))
    if len(found) == own + acting + 1:
        found = {name: x for name, x in found.items() if name == checkpoint.ROUND or int(name) < own}
    cure = "A whole state needs the same parts and number of agents. Use them, or init.state = 'parameters'."
    return checkpoint.placed(found, like, path, cure)


def _policy(experiment: Experiment, file: PolicyFile, init: InitConfig, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of the earlier policy by name, if there is one from which all agents can start."""
    facts = file.facts()
    if facts is None:
        raise RunError(
            f"{file.path} has no description of its parameters: it was written by an earlier version. Make that run "
            "again, or leave init out."
        )
    if init.state == "all" and facts.stacked and not file.has_common(seed):
        _check_without_policy(experiment, file.path)
        return
    try:
        prefix, row = whose(file, facts, seed, init.agent)
    except ConfigError as fault:
        raise ConfigError(f"init.{fault}") from fault
    arrays = {name.removeprefix(f"{prefix}/"): x for name, x in file.arrays(f"{prefix}/", row).items()}
    if not all(np.isfinite(x).all() for x in arrays.values()):
        raise RunError(f"init: the parameters of seed {seed} in {file.path} are not finite. Choose another init.seed.")
    for method in experiment.methods:
        _check_fits(method, arrays, file.path)
    table = experiment.config.learner
    assert isinstance(table, Mapping)
    other = _first_difference(_networks(facts.learner), _networks(table))
    if other:
        raise ConfigError(f"init: {file.path} was trained with another network: {other}. Use the same one.")
    yield from ((POLICY + name, x) for name, x in arrays.items())


def _check_fits(method: Method, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    found = difference(dict(arrays), named(policy_shapes(method.federation.learner)))
    if found:
        cause = "" if method.communicates else f" This concerns the baseline {method.name}."
        raise ConfigError(f"init: {path} {found}{cause} {CURE}")


def _check_without_policy(experiment: Experiment, path: Path) -> None:
    """Refuse what needs a policy of all agents, where the earlier run has only those of single agents."""
    clock = experiment.coordination.clock
    asking = "baselines.centralised" if any(m.name == "centralised" for m in experiment.methods) else ""
    asking = "federation.clock.restart" if clock is not None and clock.restart else asking
    if asking:
        raise ConfigError(
            f"init: every agent of {path} has its own policy, and {asking} needs one for all agents. Leave it out, or "
            "use init.state = 'parameters' with init.agent."
        )


def _last_state(home: Path, seed: int) -> Path:
    """Return the last checkpoint of a seed of the earlier run."""
    name = RunFolder(home).checkpoint(METHOD, seed).name
    found = [path for part in (folder.CHECKPOINTS, folder.FINAL) if (path := home / part / name).is_file()]
    if not found:
        raise RunError(
            f"init.state is 'all', and {home} has no state of seed {seed}: it is no run folder, or the run did not "
            "keep its checkpoints. Use init.state = 'parameters', or make that run again with keep_checkpoints = true."
        )
    return found[0]


def _check_digests(init: InitConfig, home: Path, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        if init.sha256.get(name, digest) != digest:
            path = home / name if home.is_dir() else home
            raise ConfigError(
                f"init.sha256 has {init.sha256[name]} for {name}, and {path} has {digest}: it was changed. Restore the "
                "file, or leave init.sha256 out to start from its present content."
            )


def _check_whole(experiment: Experiment, home: Path, start: StartingPoint) -> None:
    """Refuse a whole state of other parts; what remains is tried with each seed before the run has a folder."""
    earlier, mine = read(home / folder.CONFIG), as_dict(experiment.config)
    before, now = (config["federation"]["agents"] for config in (earlier, mine))
    if before != now:
        raise ConfigError(
            f"init: {home} has {before} agents, and this run has {now}. init.state = 'all' continues the state of each "
            "agent. Use init.state = 'parameters', or as many agents."
        )
    for part in ("learner", "federation"):
        other = _first_difference({part: earlier.get(part)}, {part: mine[part]})
        if other:
            raise ConfigError(
                f"init: {home} was run with another {other}. init.state = 'all' needs the same parts; numbers may "
                "differ. Use init.state = 'parameters', or the same parts."
            )
    for method in experiment.methods:
        with simulation_of(experiment, method) as simulation:
            for seed in dict.fromkeys(start.origin.values()):
                _begun(experiment, method, simulation, seed, start.arrays[seed], _last_state(home, seed))


def _networks(table: Any, path: str = "learner") -> dict[str, Any]:
    """Return the tables of the networks inside a learner's table, without those of wrappers around it."""
    if not isinstance(table, Mapping):
        return {}
    found = {"network": table["network"]} if isinstance(table.get("network"), Mapping) else {}
    return found or _networks(table.get("learner"), path)


def _first_difference(earlier: Any, mine: Any, where: str = "") -> str:
    """Return the first word in which two tables differ, with its key; numbers may differ."""
    if isinstance(earlier, Mapping) and isinstance(mine, Mapping):
        keys = [
            key for key in dict.fromkeys([*mine, *earlier]) if _has_words(earlier.get(key)) or _has_words(mine.get(key))
        ]
        pairs = [(earlier.get(key), mine.get(key), f"{where}.{key}" if where else str(key)) for key in keys]
    elif isinstance(earlier, list | tuple) and isinstance(mine, list | tuple) and len(earlier) == len(mine):
        pairs = [(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(earlier, mine, strict=True))]
    else:
        number = all(isinstance(x, int | float) for x in (earlier, mine))
        return "" if number or earlier == mine else f"{where} ({_shown(earlier)} there, {_shown(mine)} here)"
    return next((found for pair in pairs if (found := _first_difference(*pair))), "")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value.get("name", "a table")) if isinstance(value, Mapping) else repr(value)


def _has_words(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_words(item) for item in value.values())
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(map(_has_words, value)))


def _digest(path: Path) -> str:
    with reading(path, "Copy it again, or repeat the run."):
        return hashlib.sha256(path.read_bytes()).hexdigest()
