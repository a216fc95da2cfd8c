"""The keys by which an engine lets agents and a server draw, for rounds by hand."""

import jax
import numpy as np

from fedrl.core.keys import ServerKeys, TurnKeys, server_data, server_keys, server_secret, turn_keys, turns
from fedrl.engines.state import Population


def turns_of(population: Population, agents: int) -> TurnKeys:
    """Of all agents, a leading axis on every key, in the next round of a run in which nothing was ever late."""
    version = int(population.server.version)
    return jax.vmap(turn_keys)(np.asarray(turns(population.keys, range(agents), [version] * agents, [0] * agents)))


def keys_of_server(population: Population) -> ServerKeys:
    """Of the one server, in the next round."""
    return server_keys(server_data(server_secret(population.keys), int(population.server.version)))
