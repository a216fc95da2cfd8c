"""Audit the noise of a federation: test what it claims with releases of the functions that a run uses.

    1  profile        with the canary against without, at every epsilon' of the claimed curve
    2  alternating    the same with a canary whose sign alternates: noise that rounds share cancels in its score
    3  independence   no two rounds, agents or arrays share noise

A true claim is refuted with a probability of at most alpha, over all tests together. "Not refuted" is no proof: a fault
that needs another canary, another score or more runs is not found.

Nasr et al. (2023), https://arxiv.org/abs/2302.07956; f-differential privacy: Dong, Roth & Su (2022),
https://arxiv.org/abs/1905.02383.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from fedrl.audit.canary import AuditedMechanism
from fedrl.audit.driver import Directions, Driver, World, run_keys
from fedrl.audit.hypothesis_tests import (
    EPSILONS,
    Halves,
    detects,
    halves,
    largest_epsilon,
    largest_violation,
    measured_epsilon,
)
from fedrl.audit.independence import shared_noise
from fedrl.audit.scores import Likelihood, likelihood, scores
from fedrl.core.checks import check_positive
from fedrl.core.errors import ConfigError
from fedrl.privacy.profile import profile, scaled

REFUTED, NOT_REFUTED, NO_POWER = "refuted", "not refuted", "no power"
ALPHA = 0.01
FACTORS = (0.9, 0.8, 0.65, 0.5, 0.25)
"""Shares of the claimed noise for which the power of an audit is computed."""
MOST_ROUNDS = 10
SILENT_SHARE = 8
"""For each so many runs, one without any data of the canary, from which the scale of the noise is measured."""
SILENT, PRESENT, ABSENT, ALTERNATING, OPPOSITE = range(5)
"""The numbers of series of runs, which have no key in common."""


class Check(NamedTuple):
    """One test of an audit.

    Attributes:
        name: "profile", "alternating" or "independence".
        refuted: Whether it refutes the claim.
        finding: What it found, as a sentence.
    """

    name: str
    refuted: bool
    finding: str


class MechanismAudit(NamedTuple):
    """Result of an audit.

    Attributes:
        verdict: "refuted", "not refuted", or "no power" if so few runs can refute nothing.
        claimed: The claimed epsilon.
        delta: The delta at which it is stated.
        protects: The unit and the relation of the claim, as a phrase.
        rounds: The rounds of a run that are audited.
        measured: A lower bound of epsilon at this delta, with confidence 1 - alpha.
        measurable: The largest lower bound that so many runs can show.
        detected: The largest share of the claimed noise, of some that were tried, with which a mechanism would be
            refuted more often than not; 0 if only one without noise would be, None if not even that.
        checks: The tests.
        runs: Runs with the canary, and as many without.
        seed: The seed of their noise.
        alpha: The largest probability with which a true claim is refuted.
        canary: The number of the agent that is the canary.
        seconds: Duration of the audit.
        cpu_seconds: Processor time of the audit.
    """

    verdict: str
    claimed: float
    delta: float
    protects: str
    rounds: int
    measured: float
    measurable: float
    detected: float | None
    checks: tuple[Check, ...]
    runs: int
    seed: int
    alpha: float
    canary: int
    seconds: float
    cpu_seconds: float


def audit_mechanism(
    mechanism: AuditedMechanism,
    rounds: int,
    delta: float,
    *,
    runs: int = 8000,
    seed: int = 0,
    alpha: float = ALPHA,
    driver: Driver | None = None,
) -> MechanismAudit:
    """Test the claim of a mechanism.

    Args:
        mechanism: The mechanism, from `fedrl.audit.audited`.
        rounds: The number of rounds that a run has; 1 is audited where rounds do not add up.
        delta: The delta at which epsilon is stated; the whole curve is tested.
        runs: Runs with the canary, and as many without; half of them choose the test, the others decide.
        seed: The seed of all noise.
        alpha: The largest probability with which a true claim may be refuted.
        driver: The driver of an earlier audit of the same mechanism, whose programs are compiled.

    Raises:
        ConfigError: An argument is out of range, or the mechanism claims nothing.
    """
    began, began_cpu = time.perf_counter(), time.process_time()
    _check_arguments(rounds, delta, runs, alpha)
    rounds = 1 if mechanism.price.parallel or mechanism.noise.now is not None else rounds
    claimed = mechanism.price.epsilon(mechanism.canary, rounds, delta)
    event, relation = mechanism.price.events[mechanism.canary], mechanism.price.relation
    curve = profile({event: rounds}, EPSILONS, relation)
    if not np.isfinite(claimed) or not (curve < 1.0).any():
        raise ConfigError(
            f"The claimed epsilon is {claimed:g} at delta = {delta:g}, so there is nothing that an audit could refute: "
            f"{event} has no finite price over {rounds} rounds at this delta. Set delta above 0, or add more noise."
        )
    tests = 3 if rounds > 1 else 2
    level = alpha / tests
    driver = Driver(mechanism) if driver is None else driver
    series = _Series(driver, driver.directions(run_keys(seed, SILENT, 1)[0]), seed)
    high, low = mechanism.worlds
    silent = series.found(SILENT, World((0.0,) * rounds), max(64, runs // SILENT_SHARE))
    known = likelihood(
        silent[:, :, 0], series.directions.moved, mechanism.is_laplace, mechanism.sampling, _means(mechanism)
    )
    plain = np.ones(rounds)
    absent = series.canary(ABSENT, low, plain, runs)
    split = halves(scores(series.canary(PRESENT, high, plain, runs), known, plain), scores(absent, known, plain))
    checks = [_curve_check("profile", split, curve, level)]
    if rounds > 1:
        checks.append(_alternating_check(series, known, absent, curve, level))
    checks.append(_independence_check(silent, level))
    deciding = runs - runs // 2
    detected = _detected(mechanism, rounds, curve, deciding, level)
    refuted = any(check.refuted for check in checks)
    return MechanismAudit(
        verdict=REFUTED if refuted else NO_POWER if detected is None else NOT_REFUTED,
        claimed=claimed,
        delta=delta,
        protects=mechanism.price.protects(),
        rounds=rounds,
        measured=measured_epsilon(split, delta, alpha),
        measurable=largest_epsilon(deciding, delta, alpha),
        detected=detected,
        checks=tuple(checks),
        runs=runs,
        seed=seed,
        alpha=alpha,
        canary=mechanism.canary,
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - began_cpu,
    )


def _check_arguments(rounds: int, delta: float, runs: int, alpha: float) -> None:
    check_positive(rounds=rounds, runs=runs)
    if not 0.0 <= delta < 1.0:
        raise ConfigError(f"delta is {delta:g}. It is a probability. Set it to 0 or more, and below 1.")
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha:g}. It is the probability of a false alarm. Set it between 0 and 1.")


class _Series:
    """Series of runs of one audit."""

    def __init__(self, driver: Driver, directions: Directions, seed: int) -> None:
        self.driver, self.directions, self.seed = driver, directions, seed

    def found(self, series: int, world: World, runs: int) -> np.ndarray:
        """Return projections, `[runs, rounds, agents, arrays]`."""
        return self.driver.projections(world, run_keys(self.seed, series, runs), self.directions)

    def canary(self, series: int, factor: float, signs: np.ndarray, runs: int) -> np.ndarray:
        """Return projections of the canary's releases in one dataset, `[runs, rounds, arrays]`."""
        takes_part = self.driver.mechanism.takes_part(factor)
        return self.found(series, World(tuple(factor * signs), takes_part), runs)[:, :, 0]


def _means(mechanism: AuditedMechanism) -> tuple[float, float]:
    """Return the means of a release, with the canary and without, in units of what lies between the two."""
    return (0.5, -0.5) if mechanism.price.relation == "replace-one" else (1.0, 0.0)


def _curve_check(name: str, split: Halves, curve: np.ndarray, level: float) -> Check:
    found = largest_violation(split, EPSILONS, curve, level)
    finding = (
        f"delta is at least {max(found.measured, 0.0):.4f} at epsilon = {found.epsilon:g}, where {found.claimed:.4f} "
        f"is claimed, for a canary that is {found.direction}."
    )
    return Check(name, found.refuted, finding)


def _alternating_check(
    series: _Series, known: Likelihood, absent: np.ndarray, curve: np.ndarray, level: float
) -> Check:
    high, low = series.driver.mechanism.worlds
    signs, runs = np.where(np.arange(known.moved.shape[0]) % 2, -1.0, 1.0), len(absent)
    with_it = scores(series.canary(ALTERNATING, high, signs, runs), known, signs)
    # Without data of the canary there is no sign, so those runs serve both tests.
    without = absent if low == 0.0 else series.canary(OPPOSITE, low, signs, runs)
    return _curve_check("alternating", halves(with_it, scores(without, known, signs)), curve, level)


def _independence_check(silent: np.ndarray, level: float) -> Check:
    found = shared_noise(silent)
    if found is None:
        return Check("independence", False, "There are no two columns of noise to compare.")
    refuted = found.p_value < level
    finding = (
        f"The largest correlation is {found.correlation:.3f}, of {found.describe()}; without shared noise, one as "
        f"large has probability {found.p_value:.2g}."
    )
    return Check("independence", refuted, finding)


def _detected(mechanism: AuditedMechanism, rounds: int, curve: np.ndarray, deciding: int, level: float) -> float | None:
    """Return the largest share of the claimed noise that would be refuted; 0 for none at all, None for nothing."""
    event, relation = mechanism.price.events[mechanism.canary], mechanism.price.relation
    if not detects(deciding, EPSILONS, curve, None, level):
        return None
    for factor in FACTORS:
        weaker = profile({scaled(event, factor): rounds}, EPSILONS, relation)
        if detects(deciding, EPSILONS, curve, weaker, level):
            return factor
    return 0.0
