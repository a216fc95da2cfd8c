"""Audits of noise that agents add together: what is released is the sum of as many agents as the price counts on."""

import jax
import pytest

from fedrl.aggregators import mean
from fedrl.audit import audit_mechanism, audited
from fedrl.audit.driver import Driver
from fedrl.core.errors import ConfigError
from fedrl.federation.federate import federate
from fedrl.privacy import distributed_skellam
from fedrl.secure.grid import ring_sum
from tests.audit import faults

LEARNER = faults.small_learner()
FLEET = faults.settings(LEARNER)
LEAST = 2
STAGE = distributed_skellam(1.0, 1.0, LEAST)
assert STAGE.noise is not None
assert STAGE.noise.grid is not None
UNIT = STAGE.noise.grid.unit
SUM = ring_sum(faults.AGENTS, STAGE.noise.grid.largest(), LEAST)


def weaker(factor_of):
    """The stage with so much of each agent's noise: the difference from an update whose noise is hardly any."""
    silent = distributed_skellam(1.0, 1e-6, LEAST)

    def encode(key, context, server_state, agent_state, update):
        noisy, after = STAGE.encode(key, context, server_state, agent_state, update)
        clean, _ = silent.encode(key, context, server_state, agent_state, update)
        factor = factor_of(context.agent)
        value = jax.tree.map(lambda x, y: x + factor * (y - x), clean.value, noisy.value)
        return update._replace(value=value), after

    return faults.replace(STAGE, encode=encode)


def no_clip(stage):
    def encode(key, context, server_state, agent_state, update):
        noise, _ = stage.encode(
            key,
            context,
            server_state,
            agent_state,
            update._replace(value=jax.tree.map(lambda x: 0.0 * x, update.value)),
        )
        return update._replace(value=jax.tree.map(lambda x, e: 0.2 * x + e, update.value, noise.value)), agent_state

    return faults.replace(stage, encode=encode)


def verdict(federation, rounds: int = 1, runs: int = 8000) -> str:
    mechanism = audited(federation, FLEET)
    return audit_mechanism(mechanism, rounds, 1e-3, runs=runs, driver=Driver(mechanism)).verdict


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_right_sum_is_not_refuted(rounds: int) -> None:
    assert verdict(federate(LEARNER, mean(weighting="uniform"), STAGE, summation=SUM), rounds) == "not refuted"


@pytest.mark.parametrize(
    ("fault", "runs"),
    [
        (weaker(lambda agent: 0.5), 8000),
        # The price bounds the curve from above by a few per cent, so less than a third too little takes more runs.
        (weaker(lambda agent: jax.numpy.where(agent == 1, 0.0, 1.0)), 40_000),
        (no_clip(STAGE), 8000),
    ],
    ids=["half of the noise", "an agent that adds none", "no clip"],
)
def test_too_little_noise_in_the_sum_is_caught(fault, runs: int) -> None:
    summation = ring_sum(faults.AGENTS, 20.0, LEAST)  # an update that is not clipped would be left out
    assert verdict(faults.unchecked(fault, summation=summation), runs=runs) == "refuted"


def test_a_sum_by_its_protocol_is_not_driven() -> None:
    summation = ring_sum(faults.AGENTS, STAGE.noise.grid.largest(), LEAST, "masks")  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="protocol = 'none'"):
        audited(federate(LEARNER, mean(weighting="uniform"), STAGE, summation=summation), FLEET)
