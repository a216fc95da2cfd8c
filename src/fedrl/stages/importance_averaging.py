"""Average each entry of a table by how often each agent updated it.

agent:   value, visits N_k --> (w_k value, w_k),  w_k = (1 - eta)^-N_k      per entry
server:  aggregated        --> sum_k w_k value_k / sum_k w_k
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext

LEAST, MOST = -13.0, 8.0
"""Bits of a weight's range: beyond, exact sums (`fedrl.core.exact`) would lose the small or refuse the large."""


@component("stage", reference="Woo, Joshi & Chi (2023), https://arxiv.org/abs/2305.10697")
def importance_averaging(learning_rate: float) -> Stage:
    """FedAsynQ-ImAvg: entry (s, a) of agent k counts alpha_k(s,a) proportional to (1 - eta)^(-N_k(s,a)).

    N_k is how often agent k updated the entry in this round, as told by the parameter "visits" of
    `q_table(count_visits=True)`. An agent that never did has nothing to say about it. Use it with `mean("uniform")`;
    with other weights they multiply.

    Weights are relative to those of the round before, which keeps powers of large counts in range: an agent's weight
    is cut where it is 2^8 times above or 2^13 times below that round's mean. In the first rounds, until the server has
    caught up with the counts, entries visited often count alike.

    Args:
        learning_rate: eta, the learner's, in (0, 1).

    Raises:
        ConfigError: The learning rate is out of range; when initialised, the parameters have no visits.
    """
    if not 0.0 < learning_rate < 1.0:
        raise ConfigError(
            f"learning_rate is {learning_rate}. Weights are powers of 1 - learning_rate. "
            "Choose it between 0 and 1, the same as the learner's."
        )
    bits = -math.log2(1.0 - learning_rate)

    def init(params: Params) -> tuple[PyTree, PyTree]:
        if not isinstance(params, dict) or set(params) != {"q", "visits"}:
            raise ConfigError(
                f"importance_averaging({learning_rate}) weighs by visits, and the learner's parameters don't have any. "
                "Use q_table(count_visits=True)."
            )
        return jnp.zeros_like(params["visits"]), ()

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context
        weight = jnp.exp2(jnp.clip(bits * update.value["visits"] - server_state, LEAST, MOST))
        return update._replace(value={"q": weight * update.value["q"], "visits": weight}), agent_state

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key
        weight = update.value["visits"]
        value = {"q": update.value["q"] / weight, "visits": jnp.zeros_like(weight)}
        return update._replace(value=value), server_state + jnp.log2(weight)

    return Stage(encode=encode, init=init, finish=finish, may_increase_norm=True)
