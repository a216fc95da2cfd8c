"""Build what `[federation.privacy]` promises: the stage with the noise, calibrated, and the guarantee of the run.

    budget, rounds, selection, clip --calibrated--> z --catalogue--> stage, at its place among the others
    stages, selection --priced--> Guarantee          refused if the budget is too small for all rounds

The resolved configuration has z, so whatever reads it later calibrates nothing: more rounds need more budget.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fedrl.config import catalogue
from fedrl.config.catalogue import Table
from fedrl.config.coordination import cohort_facts, groups_of
from fedrl.config.federation import FederationConfig
from fedrl.config.privacy import PrivacyConfig
from fedrl.core.component import CATALOGUE, written
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.stage import Noise, Stage
from fedrl.federation.trust_models import CURIOUS, TRUSTED, TrustModel
from fedrl.privacy.composition import quick_epsilon
from fedrl.privacy.extra import accounting
from fedrl.privacy.guarantee import Guarantee
from fedrl.privacy.ledger import Budget
from fedrl.privacy.pricing import Price, calibrated, round_price
from fedrl.server.decisions import Selection

STEPS = "steps"
"""The mechanism whose noise is in the learner's local steps."""
SECTION, MECHANISM = "federation.privacy", "federation.privacy.mechanism"
HUGE = 1e4
"""A noise multiplier that leaves hardly anything of an update: if its epsilon is not finite, that of none is."""


class Private(NamedTuple):
    """The stages of a federation with a privacy budget.

    Attributes:
        stages: All stages, in order.
        added: The index of the one that `[federation.privacy]` adds; None if the noise is among the others.
        guarantee: The guarantee; None without a budget.
    """

    stages: tuple[Stage, ...]
    added: int | None = None
    guarantee: Guarantee | None = None

    def own(self) -> tuple[Stage, ...]:
        """Return the stages of `federation.stages`."""
        return tuple(stage for i, stage in enumerate(self.stages) if i != self.added)

    def section(self, given: PrivacyConfig | None) -> PrivacyConfig | None:
        """Return the section with the calibrated mechanism, from which the same stage is built again."""
        if given is None or self.added is None:
            return given
        return replace(given, mechanism=catalogue.table_of(self.stages[self.added]))


def private_stages(
    chosen: FederationConfig, stages: Sequence[Stage], learner: Learner, selection: Selection | None, rounds: int
) -> Private:
    """Return the stages with that of the mechanism, and what they promise.

    Args:
        chosen: The section of the federation.
        stages: The stages of `federation.stages`.
        learner: The learner of every agent.
        selection: The client selection; None: all agents take part.
        rounds: The number of rounds.

    Raises:
        ConfigError: The mechanism can't keep the budget, or a key does not fit another one.
    """
    section = chosen.privacy
    if section is None:
        return Private(tuple(stages))
    _check_agents(section, chosen.agents)
    noisy = [i for i, stage in enumerate(stages) if stage.noise is not None]
    _check_one_mechanism(section, [stages[i] for i in noisy], learner)
    group = groups_of(chosen)
    sizes = (chosen.agents,) if group is None else tuple(np.unique(group, return_counts=True)[1].tolist())

    def price_of(part: Stage | Learner) -> Price:
        noise = noise_of(part)
        assert noise is not None
        return round_price(noise, selection, sizes, section.episodes_per_person)

    if is_in_steps(section) or (section.mechanism is None and not noisy):
        found = Private(tuple(stages), None, _guarantee(chosen, learner, -1, price_of))
    elif section.mechanism is None:
        found = Private(tuple(stages), None, _guarantee(chosen, stages[noisy[0]], noisy[0], price_of))
    else:
        mechanism = Mechanism(section, learner, rounds, cohort_facts(chosen, selection))
        stage = mechanism.stage(chosen.agents, price_of)
        at = _place(stages, stage)
        whole = (*stages[:at], stage, *stages[at:])
        found = Private(whole, at, _guarantee(chosen, stage, at, price_of))
    _check_affordable(found, rounds)
    return found


class Mechanism:
    """The table of a mechanism, whose multiplier is to be found.

    Args:
        section: The section of the budget.
        learner: The learner of every agent.
        rounds: The number of rounds.
        follows: Arguments that follow from other sections, where the mechanism has them.

    Raises:
        ConfigError: It is no table of a stage that adds noise.
    """

    def __init__(self, section: PrivacyConfig, learner: Learner, rounds: int, follows: Table) -> None:
        given = section.mechanism
        table: Table = {"name": given} if isinstance(given, str) else dict(given or {})
        parameters = _parameters(table)
        if parameters is not None and "noise_multiplier" not in parameters:
            raise ConfigError(
                f"{MECHANISM}.name is {table['name']!r}, and a mechanism has a noise_multiplier to calibrate. Use one "
                "such as central_gaussian or local_gaussian."
            )
        known = parameters or {}
        follows = {**follows, "rounds": rounds}
        table = {**{name: value for name, value in follows.items() if name in known}, **table}
        if section.unit == "trajectory" and "clip" in known and learner.clips_trajectories is not None:
            table.setdefault("clip", float(learner.clips_trajectories))
        if "unit" in known:
            table.setdefault("unit", section.unit)
        self._section, self._table, self._rounds = section, table, rounds

    def stage(self, agents: int, price_of: Any) -> Stage:
        """Return the stage, with the least noise with which agents may take part in all rounds."""
        if "noise_multiplier" in self._table:
            return self._built(self._table)
        section = self._section
        budget = Budget(section.epsilon, section.delta, section.own)
        needed = {budget.of(k) for k in range(agents)}
        smaller = section.stronger_by == "smaller_clip" and len(needed) > 1
        most = max(needed) if section.stronger_by == "smaller_clip" else section.epsilon

        def price(multiplier: float) -> Price:
            stage = self._built({**self._table, "noise_multiplier": multiplier})
            if stage.noise is not None and stage.noise.now is not None:
                raise ConfigError(
                    f"{MECHANISM}.noise_multiplier is missing, and {self._table['name']} changes it as training goes "
                    "on, so it does not follow from the rounds. Set it; the run ends before it exceeds the budget."
                )
            found: Price = price_of(stage)
            return found

        def multiplier_of(epsilon: float) -> float:
            return calibrated(epsilon, section.delta, self._rounds, price)

        _check_finite(price(HUGE), section.delta, self._table["name"])
        multiplier = multiplier_of(most)
        table: Table = {**self._table, "noise_multiplier": multiplier}
        if smaller:
            table["clip"] = self._clips(budget, agents, multiplier, multiplier_of)
        return self._built(table)

    def _clips(self, budget: Budget, agents: int, least: float, multiplier_of: Callable[[float], float]) -> list[float]:
        """Return the clip of each agent: the noise is that of the largest, and more in units of a smaller one."""
        clip = self._table.get("clip")
        if not isinstance(clip, int | float):
            raise ConfigError(
                f"{SECTION}.agents is given, and {self._table['name']} has no single clip to make smaller for one. "
                "Set stronger_by = 'fewer_rounds', or use a mechanism such as central_gaussian."
            )
        needed = {budget.of(k) for k in range(agents)}
        each = {epsilon: least / multiplier_of(epsilon) for epsilon in needed - {max(needed)}} | {max(needed): 1.0}
        return [float(clip) * each[budget.of(k)] for k in range(agents)]

    def _built(self, table: Table) -> Stage:
        stage: Stage = catalogue.build("stage", table, MECHANISM)
        if stage.noise is None:
            raise ConfigError(f"{MECHANISM} is {stage!r}, which adds no noise. Use one such as central_gaussian.")
        return stage


def _check_finite(price: Price, delta: float, name: str) -> None:
    """Refuse a mechanism that has no finite epsilon at this delta, whatever its noise."""
    if all(math.isfinite(quick_epsilon({event: 1}, delta, price.relation)) for event in set(price.events)):
        return
    raise ConfigError(
        f"{SECTION}.delta is {delta:g}, and at that delta no amount of noise of {name} has a finite epsilon. Set a "
        "delta such as 1e-5, or use Laplace noise, which needs none."
    )


def noise_of(part: Stage | Learner) -> Noise | None:
    """Return the noise that a stage adds, or a learner in its local steps; None if it adds none."""
    found: Noise | None = getattr(part, "noise", None)
    return found


def is_in_steps(section: PrivacyConfig) -> bool:
    """Return whether the mechanism is the noise in the learner's local steps."""
    given = section.mechanism
    return (given if isinstance(given, str) else (given or {}).get("name")) == STEPS


def private_learner(section: PrivacyConfig | None, rounds: int, built: Callable[[float | None], Learner]) -> Learner:
    """Return the learner, with calibrated noise in its local steps if these are the mechanism.

    Args:
        section: The section of the budget; None without one.
        rounds: The number of rounds.
        built: `noise multiplier -> learner`; that of the configuration for None.

    Raises:
        ConfigError: The learner has no noise to calibrate, or no amount of it keeps the budget.
    """
    learner = built(None)
    if section is None or not is_in_steps(section) or noise_of(learner) is not None:
        return learner

    def price(multiplier: float) -> Price:
        noise = noise_of(built(multiplier))
        if noise is None:
            raise ConfigError(
                f"{MECHANISM} is {STEPS!r}, and {learner!r} adds no noise in its local steps. Use a learner that clips "
                "each trajectory, or a mechanism such as local_gaussian."
            )
        return round_price(noise, None, (1,), section.episodes_per_person)

    _check_finite(price(HUGE), section.delta, STEPS)
    return built(calibrated(section.epsilon, section.delta, rounds, price))


def unbudgeted(parts: Sequence[Stage | Learner], section: PrivacyConfig | None) -> str:
    """Return a sentence about noise that has no budget; "" if there is none."""
    noisy = [part for part in parts if noise_of(part) is not None]
    if section is not None or not noisy:
        return ""
    return (
        f"{written(noisy[0])} adds noise, and no budget says what it costs in all: this run promises no epsilon. Add "
        "[federation.privacy] with epsilon and delta."
    )


def _guarantee(chosen: FederationConfig, stage: Stage | Learner, at: int, price_of: Any) -> Guarantee:
    noise, section = noise_of(stage), chosen.privacy
    assert noise is not None
    assert section is not None
    _check_noise(section, chosen.trust_model, stage, noise)
    return Guarantee(
        Budget(section.epsilon, section.delta, section.own),
        price_of(stage),
        _name(stage),
        at,
        _argument(stage, "noise_multiplier"),
        _argument(stage, "clip") or _argument(stage, "start_clip") or noise.clip,
        noise.at,
        chosen.trust_model,
        noise.now,
        section.reproducible,
        None if noise.grid is None else noise.grid.least,
    )


def _name(stage: Stage | Learner) -> str:
    """Return the name of a mechanism, without its numbers: there may be a clip for each agent."""
    try:
        return str(catalogue.table_of(stage)["name"])
    except ConfigError:
        return written(stage)


def _argument(stage: Stage | Learner, name: str) -> Any:
    """Return an argument of the constructor of a stage or a learner; None if it has none of this name."""
    try:
        found = catalogue.table_of(stage).get(name)
    except ConfigError:
        return None
    return tuple(found) if isinstance(found, list) else found


def _check_noise(section: PrivacyConfig, trust: TrustModel, stage: Stage | Learner, noise: Noise) -> None:
    """Refuse noise that can't be priced, of another unit, or of somebody who is not trusted."""
    kinds = accounting()
    if not isinstance(noise.event, kinds.DpEvent):
        raise ConfigError(
            f"{stage!r} adds noise with the event {noise.event!r}, which has no price: it is no DpEvent of "
            f"dp_accounting. Use a mechanism such as central_gaussian, or leave [{SECTION}] out."
        )
    if noise.unit != section.unit:
        raise ConfigError(
            f"{SECTION}.unit is {section.unit!r}, and {_name(stage)} protects one {noise.unit}. Set unit = "
            f"{noise.unit!r}, or use another mechanism."
        )
    if trust == CURIOUS and noise.at == "server":
        where = "federation.trust" if section.trust is None else f"{SECTION}.trust"
        raise ConfigError(
            f"{where} is {trust!r}, and the mechanism is {_name(stage)}, whose noise the coordinator adds after it has "
            f"seen what the noise is to hide. Use noise that agents add, such as local_gaussian, or {TRUSTED!r}."
        )


def _check_agents(section: PrivacyConfig, agents: int) -> None:
    for agent in section.own:
        if agent >= agents:
            raise ConfigError(
                f"{SECTION}.agents.{agent} is given, and there are {agents} agents, with numbers from 0 to "
                f"{agents - 1}. Name one of them."
            )


def _check_one_mechanism(section: PrivacyConfig, stages: Sequence[Stage], learner: Learner) -> None:
    own = [] if noise_of(learner) is None or is_in_steps(section) else [learner]
    noisy: list[Stage | Learner] = [*stages, *own]
    if section.mechanism is not None and noisy:
        raise ConfigError(
            f"{MECHANISM} is given, and {noisy[0]!r} adds noise, too: one budget is for one "
            "mechanism. Leave one of them out; without the mechanism, the noise of the stage is priced."
        )
    if section.mechanism is None and len(noisy) != 1:
        if not noisy:
            raise ConfigError(
                f"{SECTION} has no mechanism, and no stage adds noise, so nothing keeps the budget. Add one, such as "
                "mechanism = {name = 'central_gaussian', clip = 0.5}."
            )
        raise ConfigError(
            f"{noisy[0]!r} and {noisy[1]!r} both add noise, and one budget is for one mechanism. Leave one of them out."
        )


def _check_affordable(found: Private, rounds: int) -> None:
    """Refuse a run with more rounds than the budget of every agent allows."""
    guarantee = found.guarantee
    if guarantee is not None and 1 < guarantee.price.covers < rounds:
        raise ConfigError(
            f"rounds is {rounds}, and the noise of {guarantee.mechanism} is correlated between "
            f"{guarantee.price.covers} rounds and covers no more. Set its rounds to {rounds}, or plan fewer."
        )
    # Whoever pays as a participant may be in fewer rounds than there are, so only one round has to be within it.
    if guarantee is None or guarantee.affords(1 if guarantee.price.participants else rounds):
        return
    most, budget = guarantee.most_rounds(), guarantee.budget
    few = f"only for {most} rounds" if most > 1 else "for one round only" if most else "not for a single round"
    noise = f"{MECHANISM}.noise_multiplier" if found.added is not None else "its noise_multiplier"
    raise ConfigError(
        f"rounds is {rounds}, and {SECTION} has epsilon = {budget.epsilon:g} at delta = {budget.delta:g}, which is "
        f"enough {few} of {guarantee.mechanism}. Plan fewer rounds, or begin a new run with a larger epsilon or "
        f"{'without' if found.added is not None else 'a larger'} {noise}."
    )


def _place(stages: Sequence[Stage], stage: Stage) -> int:
    """Return the index for the stage of a mechanism: the last for a server's noise, else before any compression."""
    assert stage.noise is not None
    if stage.noise.at == "server":
        return len(stages)
    return next((i for i, each in enumerate(stages) if each.decode is not None or each.contraction), len(stages))


def _parameters(table: Mapping[str, Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of the constructor that a table names; None if it is not known yet."""
    catalogue.fill()
    known = CATALOGUE.get(("stage", str(table.get("name"))))
    return None if known is None else known.signature.parameters
