"""The keys by which an engine lets agents and a server draw, for rounds by hand."""

import jax
import numpy as np

from fedrl.core.keys import ServerKeys, TurnKeys, server_data, server_keys, server_secret, turn_keys, turns
from fedrl.engines.state import SimulationState


def turns_of(run_state: SimulationState, agents: int) -> TurnKeys:
    """Of all agents, a leading axis on every key, in the next round of a run in which nothing was ever late."""
    version = int(run_state.server.version)
    return jax.vmap(turn_keys)(np.asarray(turns(run_state.keys, range(agents), [version] * agents, [0] * agents)))


def keys_of_server(run_state: SimulationState) -> ServerKeys:
    """Of the one server, in the next round."""
    return server_keys(server_data(server_secret(run_state.keys), int(run_state.server.version)))
