"""What a common world asks of a simulation: a player for each agent, no noise, rounds if players leave, one process.

Any other environment passes every check.
"""

from __future__ import annotations

from fedrl.core.component import written
from fedrl.core.environment import common_of
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.federation.federation import Federation
from fedrl.server.scheduler import Scheduler


def check_common_world(federation: Federation, agents: int, scheduler: Scheduler) -> None:
    """Refuse another number of agents than of players, calibrated noise, and absences where there are no rounds.

    Raises:
        ConfigError: The numbers differ.
        UnsoundError: Noise is calibrated for the contribution of one agent or episode, or agents that do not train
            leave the world, and the schedule has no rounds.
    """
    environment = federation.learner.environment
    common = common_of(environment)
    if common is None:
        return
    check_seats(federation, agents)
    adding: list[object] = [stage for stage in federation.stages if stage.noise is not None]
    adding += [federation.learner] if federation.learner.noise is not None else []
    if adding:
        raise UnsoundError(
            f"{written(adding[0])} adds noise for what one agent contributes to its own update, and in {environment!r} "
            "an agent's actions change what all others observe, and so their updates: nothing bounds its contribution "
            "to those. Leave the noise out, or give each agent an environment of its own.",
            reason="unbounded",
        )
    if common.leaves and scheduler.schedule.redispatch:
        raise UnsoundError(
            f"absent is 'leave' in {environment!r}, and under {scheduler.schedule!r} each agent trains when its own "
            "update arrives: there are no rounds in which agents are present together, and most would be alone in the "
            "world. Use absent='act', or synchronous().",
            reason="no rounds",
        )


def check_seats(federation: Federation, agents: int) -> None:
    """Refuse another number of agents than of players.

    Raises:
        ConfigError: The numbers differ.
    """
    common = common_of(federation.learner.environment)
    if common is not None and common.world.players != agents:
        raise ConfigError(
            f"agents is {agents}, and {common.world!r} has {common.world.players} players. In a common world every "
            "agent is one player. Make the two numbers equal."
        )


def check_together(federation: Federation, where: str) -> None:
    """Refuse to train agents of a common world apart from each other.

    Args:
        federation: The federation.
        where: Where its agents would train, as the end of a sentence that begins with "Agents train".

    Raises:
        ConfigError: The agents are players of one world.
    """
    environment = federation.learner.environment
    if common_of(environment) is not None:
        raise ConfigError(
            f"Agents train {where}, and the players of {environment!r} meet in every step: what each observes follows "
            "from the actions of all, so observations and actions, which are data of agents, would have to leave them. "
            "Train them in this process, or give each agent an environment of its own."
        )
