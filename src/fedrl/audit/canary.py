"""What is audited: the noise of a federation, and an agent whose data are chosen to be found out, the canary.

An auditor wins if what is released tells whether the canary took part. Its update is 50 times the clipping norm, with
mass in each array, so that a missing clip, or one for each array alone, shows in what is released.

Canaries: Jagielski, Ullman & Oprea (2020), https://arxiv.org/abs/2006.07709.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.learner import parameters_of
from fedrl.core.stage import Noise
from fedrl.core.types import PyTree
from fedrl.engines.topologies.choices import Hierarchy, SingleServer
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.privacy.extra import accounting
from fedrl.privacy.pricing import Price, round_price
from fedrl.server.scheduler import Scheduler

LOUDNESS = 50.0
"""The norm of the canary's update, in units of the clipping norm."""
MAIN_SHARE = 0.85
"""The share of one array in the L1 norm of a canary against Laplace noise."""


class AuditedMechanism(NamedTuple):
    """The noise of a federation and what is known of it.

    Attributes:
        federation: The federation, without what only follows on a release: a server optimiser and down stages.
        noise: The noise.
        price: What a round costs.
        scheduler: Which agents take part.
        agents: The number of agents.
        canary: The number of the agent that is the canary: the one with the strongest guarantee.
        setting: The parameters of its environment.
    """

    federation: Federation
    noise: Noise
    price: Price
    scheduler: Scheduler
    agents: int
    canary: int
    setting: PyTree

    @property
    def event(self) -> Any:
        """The event of a round for the canary, before sampling."""
        return self.noise.each[self.canary] if self.noise.each else self.noise.event

    @property
    def is_laplace(self) -> bool:
        """Whether the noise has a Laplace distribution, and sensitivity is an L1 norm."""
        return isinstance(self.event, accounting().LaplaceDpEvent)

    @property
    def worlds(self) -> tuple[float, float]:
        """The factors of the canary's data in the two neighbouring datasets; 0 stands for no such data."""
        return (1.0, -1.0) if self.price.relation == "replace-one" else (1.0, 0.0)

    def takes_part(self, factor: float) -> bool:
        """Return whether the canary is there at all in the dataset with this factor."""
        # Noise that agents add together is in the sum whoever of them has data.
        return factor != 0.0 or self.noise.unit == "trajectory" or self.noise.grid is not None

    @property
    def sampling(self) -> float:
        """The probability that an agent is in a cohort, where it is secret which are; else 1."""
        event, kinds = self.price.events[self.canary], accounting()
        if isinstance(event, kinds.PoissonSampledDpEvent):
            return float(event.sampling_probability)
        if isinstance(event, kinds.SampledWithoutReplacementDpEvent):
            return float(event.sample_size / event.source_dataset_size)
        return 1.0


def audited(
    federation: Federation, fleet: PyTree, scheduler: Scheduler | None = None, topology: Any = None
) -> AuditedMechanism:
    """Return the mechanism of a federation that an audit can drive.

    Args:
        federation: The federation.
        fleet: Parameters of each agent's environment.
        scheduler: Which agents take part; all in every round by default.
        topology: Where updates are aggregated; one server by default.

    Raises:
        ConfigError: There is no noise, more than one, or a part that the audit does not drive.
    """
    noisy = [stage for stage in federation.stages if stage.noise is not None]
    if not noisy:
        raise ConfigError(
            f"The stages are {list(federation.stages)}, and none adds calibrated noise, so the federation claims no "
            "differential privacy that could be audited. Add a stage such as central_gaussian."
        )
    if len(noisy) > 1:
        raise ConfigError(f"{noisy[0]!r} and {noisy[1]!r} both add noise. An audit covers one of them. Leave one out.")
    scheduler = Scheduler() if scheduler is None else scheduler
    _check_driven(federation, scheduler, topology)
    noise = noisy[0].noise
    assert noise is not None
    if noise.rounds > 1:
        raise ConfigError(
            f"The noise of {noisy[0]!r} is correlated between {noise.rounds} rounds, and an audit tests that no two "
            "rounds share noise. Audit a stage whose rounds are independent, such as central_gaussian."
        )
    agents = len(jax.tree.leaves(fleet)[0])
    price = round_price(noise, scheduler.selection, (agents,))
    canary = _strongest(price)
    setting = jax.tree.map(lambda leaf: np.asarray(leaf)[canary], fleet)
    return AuditedMechanism(_released(federation), noise, price, scheduler, agents, canary, setting)


def _check_driven(federation: Federation, scheduler: Scheduler, topology: Any) -> None:
    """Refuse parts by which a release differs from that of one server in rounds."""
    relays = isinstance(topology, Hierarchy) and max(topology.tree.periods) == 1
    if not (topology is None or relays or isinstance(topology, SingleServer)):
        raise ConfigError(
            f"The topology is {topology!r}. An audit drives one server, or a tree whose servers all merge in every "
            "round. Audit the same stages with one server."
        )
    if scheduler.schedule.redispatch or scheduler.upload_budget is not None:
        raise ConfigError(
            f"{scheduler.schedule!r} or an upload budget decides which updates are in a release. An audit drives "
            "rounds of all selected agents. Use synchronous()."
        )
    summation = federation.summation
    if summation.opens == "sum" and summation.rows == 1:
        raise ConfigError(
            f"The summation is {summation!r}, which carries out a protocol for every sum. An audit drives thousands of "
            "sums and needs their numbers alone, which are the same. Use protocol = 'none'."
        )
    if federation.parts:
        raise ConfigError(
            "Parts of the parameters have rules of their own (federation.parts). An audit drives one rule for all of "
            "them. Audit the same stages without parts."
        )


def _strongest(price: Price) -> int:
    """Return the agent with the most noise in units of its own clip: a clip that is too large shows there first."""

    def multiplier(event: Any) -> float:
        return float(event.noise_multiplier) if hasattr(event, "noise_multiplier") else multiplier(event.event)

    return int(np.argmax([multiplier(event) for event in price.events]))


def _released(federation: Federation) -> Federation:
    """Return the federation whose server adds what it releases to its parameters, and does nothing else with it."""
    # Whatever a server computes from a release has no further privacy loss, and an attacker could undo it.
    if federation.server_optimizer is None and not federation.down_stages:
        return federation
    return federate(
        federation.learner,
        federation.aggregator,
        *federation.stages,
        local_steps=federation.local_steps,
        payload=federation.payload,
        reports=federation.reports,
        summation=federation.summation,
    )


def canary_update(mechanism: AuditedMechanism) -> PyTree:
    """Return what the canary adds to its update before the stages.

    Of Gaussian noise only the norm of a difference matters, so arrays have equal norms, and equal entries each. Laplace
    noise hides a difference that is spread over many entries better than its price says, so there one entry has most of
    the norm, and one entry of every other array has enough for a clip of each array alone to show.

    With unit "trajectory", the norm is the clipping norm: the learner clips before the stages.
    """
    like = parameters_of(mechanism.federation.learner)
    leaves, structure = jax.tree.flatten(like)
    arrays = sum(bool(leaf.size) for leaf in leaves)
    main = next(i for i, leaf in enumerate(leaves) if leaf.size)
    own = _own_clip(mechanism)
    norm = own if mechanism.noise.unit == "trajectory" else LOUDNESS * own

    def of(i: int, leaf: Any) -> jax.Array:
        if mechanism.is_laplace:
            share = 1.0 if arrays == 1 else MAIN_SHARE if i == main else (1.0 - MAIN_SHARE) / (arrays - 1)
            return norm * share * jnp.where(jnp.arange(leaf.size) == 0, 1.0, 0.0).reshape(leaf.shape)
        return jnp.full(leaf.shape, norm / math.sqrt(arrays * max(leaf.size, 1)), jnp.float32)

    return jax.tree.unflatten(structure, [of(i, leaf) for i, leaf in enumerate(leaves)])


def _own_clip(mechanism: AuditedMechanism) -> float:
    """Return C of the canary: in proportion to its own event where agents have clips of their own."""
    noise = mechanism.noise
    return float(noise.clip * noise.event.noise_multiplier / mechanism.event.noise_multiplier)
