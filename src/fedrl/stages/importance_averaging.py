"""Average each entry of a table by how often each agent updated it.

agent:   value, visits N_k --> (w_k value, w_k),  w_k = (1 - eta)^-N_k      per entry
server:  aggregated        --> sum_k w_k value_k / sum_k w_k
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import FractionAboveZero
from fedrl.core.stage import Stage
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext

LEAST, MOST = -13.0, 8.0
"""Range of log2 of a weight. Beyond it, exact sums (`fedrl.core.exact`) would lose small terms or reject large ones."""


@component("stage", reference="Woo, Joshi & Chi (2023), https://arxiv.org/abs/2305.10697")
def importance_averaging(learning_rate: FractionAboveZero) -> Stage:
    """FedAsynQ-ImAvg: average entry (s, a) with weights alpha_k(s,a) proportional to (1 - eta)^(-N_k(s,a)).

    N_k(s,a) is how often agent k updated the entry in this round, from the parameter "visits" of
    `q_table(count_visits=True)`. Use it with `mean("uniform")`; the weights of another rule multiply with these.

    Weights are relative to the mean weight of the round before, which keeps powers of large counts in range: a weight
    more than 2^8 times above or 2^13 times below that mean is clipped. In the first rounds, until that mean has caught
    up with the counts, the weights of frequently visited entries are clipped to the same value.

    Args:
        learning_rate: eta, the same as the learner's, in (0, 1).

    Raises:
        ConfigError: The learning rate is out of range; when initialised, the parameters have no "visits".
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
                f"importance_averaging({learning_rate}) weighs by visits, and the learner's parameters have no visits. "
                "Use q_table(count_visits=True)."
            )
        return jnp.zeros_like(params["visits"]), ()

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context
        # In bits and relative to the last round: (1 - eta)^-N itself overflows float32 after some hundred visits.
        weight = jnp.exp2(jnp.clip(bits * update.value["visits"] - server_state, LEAST, MOST))
        return update._replace(value={"q": weight * update.value["q"], "visits": weight}), agent_state

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key
        weight = update.value["visits"]
        # The state is in bits: the mean weight is relative to that of the last round, so its logarithm adds up.
        value = {"q": update.value["q"] / weight, "visits": jnp.zeros_like(weight)}
        return update._replace(value=value), server_state + jnp.log2(weight)

    return Stage(encode=encode, init=init, finish=finish, may_increase_norm=True)
