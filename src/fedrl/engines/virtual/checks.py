"""What is refused when a clock is put to a federation, because it would not do what it promises."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.federation import Federation
from fedrl.engines.merging import Messages, messages
from fedrl.engines.virtual.clock import Clock, speeds_of
from fedrl.engines.virtual.presence import presence
from fedrl.engines.virtual.schedules import Schedule


def check_clock(federation: Federation, clock: Clock, agents: int) -> None:
    """Refuse a federation and a clock that do not go together.

    Raises:
        ConfigError: The schedule waits for more agents than there are, or something is given for another number of
            agents.
        UnsoundError: It names both parts and the way out.
    """
    schedule = clock.schedule
    speeds_of(clock, agents, 0, 0)
    presence(clock, agents)
    learner, stages = federation.learner, federation.stages
    waited_for = max(schedule.quorum, 0 if schedule.wait_for is None else schedule.wait_for)
    if not schedule.restart and waited_for > agents:
        raise ConfigError(
            f"{schedule!r} waits for {waited_for} updates and there are {agents} agents, each of which sends one in a "
            "round. Wait for fewer."
        )
    if isinstance(learner.environment, HostEnvironment):
        raise UnsoundError(
            f"{learner.environment!r} is stepped on the host, and on a virtual clock agents train in compiled "
            "programs. Use a compiled environment."
        )
    hiding = [stage for stage in stages if stage.hides]
    if hiding and schedule.restart:
        raise UnsoundError(
            f"{hiding[0]!r} hides updates in the sum of those who began together, and under {schedule!r} nobody does. "
            "Use synchronous()."
        )
    if schedule.toward_model and federation.payload == "gradient":
        raise UnsoundError(
            f"{schedule!r} mixes the parameters that agents end up with, and with payload='gradient' they end up where "
            "they began. Use payload='delta', or a schedule that adds changes such as fed_buff()."
        )
    holding = [stage for stage in stages if stage.withholds]
    if holding and schedule.toward_model:
        raise UnsoundError(
            f"{schedule!r} mixes the parameters that agents end up with, and would take what {holding[0]!r} holds "
            "back for a return to where they began. Use a schedule that adds changes such as fed_buff()."
        )
    if learner.statistics is not None and (schedule.restart or schedule.late == "keep"):
        raise UnsoundError(
            f"{learner!r} counts about moments that its agents were sent, and under {schedule!r} others may have been "
            "merged before an update arrives. Let every agent keep its own, personal(learner, keep=['moments']), or "
            "use synchronous()."
        )
    if schedule.toward_model:
        alone = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], learner.environment.params)
        _check_mixable(schedule, messages(federation, alone))


def _check_mixable(schedule: Schedule, wire: Messages) -> None:
    """Refuse to mix parameters with what is none: decoded updates of another structure."""
    there = jax.tree.map(lambda leaf: leaf.shape, wire.sent.params)
    if jax.tree.map(lambda leaf: leaf.shape, wire.decoded.value) != there:
        raise UnsoundError(
            f"{schedule!r} mixes parameters, and a stage of this federation sends something else with them. "
            "Use a schedule that adds changes such as fed_buff()."
        )
